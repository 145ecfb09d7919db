package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/tunekit/tunekit/formats/fail"
)

// commit makes the commit: a line of JSON for each file, small ones with their content.
func (p *pusher) commit(ctx context.Context) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	type value = map[string]any
	line := func(key string, v value) error { return e.Encode(map[string]any{"key": key, "value": v}) }
	message := cmp.Or(p.push.Message, "Upload "+count(len(p.files), "file")+" with tunekit")
	if err := line("header", value{"summary": message, "description": ""}); err != nil {
		return err
	}
	regular := int64(0)
	for _, u := range p.files {
		if u.large {
			if err := line("lfsFile", value{"path": u.name, "algo": "sha256", "oid": u.sha256, "size": u.size}); err != nil {
				return err
			}
			continue
		}
		if regular += u.size; regular > maxRegular {
			return fail.Limitf(p.ref.String(), "fewer files at a time", "files that the hub keeps as text have more than %d MB together", maxRegular>>20)
		}
		r, err := u.open()
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return fail.Inputf(u.path, "", "%w", err)
		}
		if err := line("file", value{"path": u.name, "encoding": "base64", "content": base64.StdEncoding.EncodeToString(raw)}); err != nil {
			return err
		}
	}
	to := p.url("api", "models", p.ref.Repo, "commit", url.PathEscape(p.ref.Revision))
	if p.push.CreatePR {
		to.RawQuery = "create_pr=1"
	}
	var a struct{ CommitURL, CommitOID, PullRequestURL string }
	body := b.Bytes()
	lost := false
	return p.try(ctx, func() error {
		if lost && !p.push.CreatePR { // it may have been taken all the same
			if done, err := p.committed(ctx); done || err != nil {
				return err
			}
		}
		lost = true
		resp, err := p.do(ctx, request{method: http.MethodPost, url: to, size: int64(len(body)), header: http.Header{"Content-Type": {"application/x-ndjson"}},
			body: func() (io.ReadCloser, error) { return nopCloser{bytes.NewReader(body)}, nil }})
		if err == nil {
			defer resp.Body.Close()
			err = p.decode(resp, &a)
		}
		if err != nil {
			var passing retry
			if p.push.CreatePR && errors.As(err, &passing) { // a second one would be opened
				return fail.Inputf(p.ref.String(), "look at its page whether the pull request was opened; what was uploaded is kept", "%w", passing.error)
			}
			return err
		}
		p.out.Commit, p.out.URL, p.out.PR = a.CommitOID, a.CommitURL, a.PullRequestURL
		return nil
	})
}

// committed tells whether the branch has all files as they are here.
func (p *pusher) committed(ctx context.Context) (bool, error) {
	commit, list, err := p.listOnce(ctx, p.ref.Revision)
	if err != nil {
		return false, err
	}
	byName := map[string]file{}
	for _, f := range list {
		byName[f.Name] = f
	}
	for _, u := range p.files {
		f, ok := byName[u.name]
		if !ok {
			return false, nil
		}
		if got, err := u.hash(ctx, &file{Size: u.size, LFS: f.LFS}); err != nil || got != f.key() {
			return false, err
		}
	}
	p.out.Commit, p.out.URL = commit, p.endpoint.JoinPath(p.ref.Repo, "commit", commit).String()
	return true, nil
}
