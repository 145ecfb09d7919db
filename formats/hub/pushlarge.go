package hub

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// action is what a server tells to do with a large file.
type action struct {
	Href   string
	Header map[string]json.RawMessage
}

// object is a large file of an answer of Git LFS's batch API.
type object struct {
	OID     string
	Size    int64
	Actions *struct{ Upload, Verify *action }
	Error   *struct {
		Code    int
		Message string
	}
}

// uploadLarge sends the large files that the hub's storage does not have.
func (p *pusher) uploadLarge(ctx context.Context) error {
	byHash := map[string]*upload{}
	var large []*upload
	for _, u := range p.files {
		if !u.large {
			continue
		}
		var err error
		if u.sha256, err = u.hash(ctx, &file{Size: u.size, LFS: new(struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		})}); err != nil {
			return err
		}
		if byHash[u.sha256] == nil { // the same content under two names
			large = append(large, u)
			p.total += u.size
		}
		byHash[u.sha256] = u
	}
	for from := 0; from < len(large); from += atOnce {
		objects, err := p.batch(ctx, large[from:min(from+atOnce, len(large))])
		if err != nil {
			return err
		}
		for _, o := range objects {
			u := byHash[o.OID]
			if u == nil {
				return fail.Inputf(p.ref.String(), "", "the server asks for an object %.80q that is not there", o.OID)
			}
			if o.Error != nil {
				return fail.Inputf(p.ref.String(), "", "the server does not take %s: %.300s", u.name, o.Error.Message)
			}
			if o.Actions == nil || o.Actions.Upload == nil {
				p.progress(u.size)
				continue
			}
			if err := p.send(ctx, u, o); err != nil {
				return err
			}
			p.out.Sent += u.size
		}
	}
	return nil
}

func (p *pusher) batch(ctx context.Context, list []*upload) ([]object, error) {
	type oid struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}
	q := struct {
		Operation string            `json:"operation"`
		Transfers []string          `json:"transfers"`
		Objects   []oid             `json:"objects"`
		HashAlgo  string            `json:"hash_algo"`
		Ref       map[string]string `json:"ref"`
	}{"upload", []string{"basic", "multipart"}, nil, "sha256", map[string]string{"name": p.ref.Revision}}
	for _, u := range list {
		q.Objects = append(q.Objects, oid{u.sha256, u.size})
	}
	var a struct{ Objects []object }
	err := p.ask(ctx, http.MethodPost, p.url(p.ref.Repo+".git", "info", "lfs", "objects", "batch"), q, &a)
	return a.Objects, err
}

// send uploads one large file in one piece or, where the server says so, in parts.
func (p *pusher) send(ctx context.Context, u *upload, o object) error {
	up := o.Actions.Upload
	header := http.Header{}
	given := map[int]string{} // addresses by number, which the hub pads with zeros
	for k, raw := range up.Header {
		text := strings.Trim(string(raw), `"`)
		n, err := strconv.Atoi(k)
		switch {
		case err == nil:
			var href string
			if _, twice := given[n]; twice || json.Unmarshal(raw, &href) != nil {
				return fail.Inputf(p.ref.String(), "", "the server gives part %d of %s no address, or two", n, u.name)
			}
			given[n] = href
		case k != "chunk_size":
			header.Set(k, text)
		}
	}
	var parts []string
	var err error
	size := u.size
	if raw, ok := up.Header["chunk_size"]; ok {
		text := strings.Trim(string(raw), `"`)
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 1 {
			return fail.Inputf(p.ref.String(), "", "the server wants %s in parts of %.40q bytes", u.name, text)
		}
		for n := 1; int64(n-1)*size < u.size; n++ {
			href, ok := given[n]
			if !ok {
				return fail.Inputf(p.ref.String(), "", "the server does not say where part %d of %s goes", n, u.name)
			}
			parts = append(parts, href)
		}
	}
	if len(given) != len(parts) {
		return fail.Inputf(p.ref.String(), "", "the server gives %d addresses for %s, which has %d parts of %d bytes", len(given), u.name, len(parts), size)
	}
	if parts == nil {
		_, err = p.put(ctx, u, up.Href, 0, u.size, header)
	} else {
		err = p.sendParts(ctx, u, up.Href, parts, size)
	}
	if err == nil && o.Actions.Verify != nil {
		var to *url.URL
		if to, err = p.given(o.Actions.Verify.Href); err == nil {
			err = p.ask(ctx, http.MethodPost, to, map[string]any{"oid": u.sha256, "size": u.size}, nil)
		}
	}
	return err
}

func (p *pusher) sendParts(ctx context.Context, u *upload, done string, parts []string, size int64) error {
	type part struct {
		PartNumber int    `json:"partNumber"`
		ETag       string `json:"etag"`
	}
	q := struct {
		OID   string `json:"oid"`
		Parts []part `json:"parts"`
	}{OID: u.sha256}
	for i, href := range parts {
		from := int64(i) * size
		tag, err := p.put(ctx, u, href, from, min(size, u.size-from), nil)
		if err == nil && tag == "" {
			err = fail.Inputf(p.ref.String(), "", "the server took part %d of %s without a tag (ETag)", i+1, u.name)
		}
		if err != nil {
			return err
		}
		q.Parts = append(q.Parts, part{i + 1, tag})
	}
	to, err := p.given(done)
	if err != nil {
		return err
	}
	return p.ask(ctx, http.MethodPost, to, q, nil)
}

// given is an address that the server gave, where it may be followed.
func (p *pusher) given(href string) (*url.URL, error) {
	to, err := url.Parse(href)
	if err != nil || to.Host == "" {
		return nil, fail.Inputf(p.ref.String(), "", "the server gives the address %.200q", href)
	}
	if err := p.follow(to); err != nil {
		return nil, fail.Inputf(p.ref.String(), "", "%w", err)
	}
	return to, nil
}

// put sends n bytes of a file from an offset to an address of the server's storage,
// and returns the tag it gets.
func (p *pusher) put(ctx context.Context, u *upload, href string, from, n int64, header http.Header) (tag string, err error) {
	to, err := p.given(href)
	if err != nil {
		return "", err
	}
	before := p.done
	err = p.try(ctx, func() error {
		p.done = before
		resp, err := p.do(ctx, request{method: http.MethodPut, url: to, size: n, header: header, body: func() (io.ReadCloser, error) {
			r, err := u.open()
			if err != nil {
				return nil, err
			}
			if _, err := r.Seek(from, io.SeekStart); err != nil {
				r.Close()
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r, n), r}, nil
		}, sent: p.progress})
		if err != nil {
			return err
		}
		tag = resp.Header.Get("ETag")
		return resp.Body.Close()
	})
	return tag, err
}
