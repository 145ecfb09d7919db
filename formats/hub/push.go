package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

const (
	atOnce     = 100       // files of one question about them
	maxRegular = 512 << 20 // bytes of files in a commit that are no large ones
	sampled    = 512       // bytes of a file by which a hub tells text from other content
)

// PushOptions says what Push makes of a repository. Token, Endpoint and the others of
// Options are as for Pull.
type PushOptions struct {
	Options
	Private  bool              // a repository that is made is private
	CreatePR bool              // open a pull request instead of changing the branch
	Message  string            // of the commit
	Extra    map[string][]byte // files to add where neither the folder nor the hub has them: a README.md
	Replace  map[string][]byte // files in place of the folder's; nil leaves one out
	DryRun   bool              // ask, and change nothing
}

// Pushed is what Push did, or would do.
type Pushed struct {
	Repo     string   `json:"repo"`
	Revision string   `json:"revision"`
	Commit   string   `json:"commit,omitempty"`
	URL      string   `json:"url,omitempty"`
	PR       string   `json:"pull_request,omitempty"`
	Created  bool     `json:"created"`             // the repository was not there
	Uploaded []string `json:"uploaded"`            // files that the hub did not have so
	Same     []string `json:"unchanged,omitempty"` // files that it had
	Ignored  []string `json:"ignored,omitempty"`   // hidden files of the folder, and what the repository's .gitignore names
	Bytes    int64    `json:"bytes"`               // of Uploaded
	Sent     int64    `json:"sent"`                // of these, what the hub's storage did not have
}

// Push uploads a file, or a folder with all that is in it, to a repository of the
// hub, which it makes where there is none, in one commit. Files that the hub has are
// not sent again; one that was interrupted goes on with the file where it was. The
// token is sent to the endpoint's host alone.
func Push(ctx context.Context, path, ref string, o PushOptions) (*Pushed, error) {
	r, err := Parse(ref)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(r.Repo, "/") {
		return nil, fail.Usagef(ref, "write hf://NAME/"+r.Repo+": your user name or an organization", "the repository has no owner")
	}
	if r.Pinned() {
		return nil, fail.Usagef(ref, "name a branch", "a commit cannot be changed")
	}
	c, err := newClient(r, o.Options)
	if err != nil {
		return nil, err
	}
	c.what = "upload"
	if c.o.Token == "" {
		return nil, fail.Usagef(r.String(), "set HF_TOKEN, or --token-file FILE; one that may write is made at "+c.endpoint.JoinPath("settings", "tokens").String(), "uploading needs a token, and there is none")
	}
	p := &pusher{client: c, push: o, out: &Pushed{Repo: r.Repo, Revision: r.Revision, Uploaded: []string{}}}
	if err := p.collect(path); err != nil {
		return nil, err
	}
	return p.out, p.run(ctx)
}

// pusher is one run of Push.
type pusher struct {
	*client
	push  PushOptions
	files []*upload
	there bool // the branch is
	out   *Pushed
}

// upload is one file on its way.
type upload struct {
	name string // in the repository
	path string // on disk; "": data
	data []byte
	size int64

	large  bool
	sha256 string // of a large one
}

// open returns the content from the beginning.
func (u *upload) open() (io.ReadSeekCloser, error) {
	if u.path == "" {
		return nopCloser{bytes.NewReader(u.data)}, nil
	}
	f, err := os.Open(u.path)
	if err != nil {
		return nil, fail.Inputf(u.path, "", "%w", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != u.size {
		f.Close()
		return nil, fail.Inputf(u.path, "run the same command again when nothing writes to it", "the file has changed since it was looked at")
	}
	return f, nil
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

// collect lists the files of path.
func (p *pusher) collect(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fail.Inputf(path, "", "%w", err)
	}
	if !st.IsDir() {
		err = p.file(filepath.Base(path), path, st)
	} else if path, err = filepath.EvalSymlinks(path); err == nil { // a walk does not follow a link, not even its first one
		err = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
			if err != nil {
				return fail.Inputf(at, "", "%w", err)
			}
			name, err := filepath.Rel(path, at)
			if err != nil || name == "." {
				return err
			}
			name = filepath.ToSlash(name)
			if e.Name()[0] == '.' && e.Name() != ".gitattributes" {
				p.out.Ignored = append(p.out.Ignored, name)
				if e.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			if e.IsDir() {
				return nil
			}
			st, err := os.Stat(at) // the hub's cache is made of links
			if err != nil {
				return fail.Inputf(at, "", "%w", err)
			}
			if st.IsDir() {
				return fail.Inputf(at, "put the folder itself in its place, or take the link out", "is a link to a folder, and these are not followed")
			}
			return p.file(name, at, st)
		})
	}
	if err != nil {
		return err
	}
	if len(p.files) == 0 {
		return fail.Inputf(path, "", "there is no file to upload")
	}
	if len(p.files) > maxFiles {
		return fail.Limitf(path, "", "the folder has %d files, allowed are %d", len(p.files), maxFiles)
	}
	return nil
}

func (p *pusher) file(name, path string, st fs.FileInfo) error {
	if !st.Mode().IsRegular() {
		return fail.Inputf(path, "take it out of the folder", "is no regular file")
	}
	if !safeName(name) {
		return fail.Inputf(path, "rename it", "the name could not be downloaded again on every system")
	}
	u := &upload{name: name, path: path, size: st.Size()}
	if data, ok := p.push.Replace[name]; ok {
		if data == nil {
			return nil
		}
		u = &upload{name: name, data: data, size: int64(len(data))}
	}
	p.files = append(p.files, u)
	return nil
}

func (p *pusher) run(ctx context.Context) error {
	there, remote, err := p.remote(ctx)
	if err != nil {
		return err
	}
	p.out.Created = !there
	for _, name := range sortedKeys(p.push.Extra) {
		_, has := remote[name]
		if !has && !slices.ContainsFunc(p.files, func(u *upload) bool { return u.name == name }) {
			p.files = append(p.files, &upload{name: name, data: p.push.Extra[name], size: int64(len(p.push.Extra[name]))})
		}
	}
	if err := p.leaveOut(ctx, remote); err != nil {
		return err
	}
	for _, u := range p.files {
		p.out.Uploaded = append(p.out.Uploaded, u.name)
		p.out.Bytes += u.size
	}
	if p.push.DryRun {
		return nil
	}
	if !there {
		if err := p.create(ctx); err != nil {
			return err
		}
	}
	if err := p.branch(ctx); err != nil || len(p.files) == 0 { // a new branch has what the default one has
		return err
	}
	if err := p.modes(ctx); err != nil || len(p.files) == 0 { // the repository ignores them all
		return err
	}
	if err := p.uploadLarge(ctx); err != nil {
		return err
	}
	return p.commit(ctx)
}

func sortedKeys(m map[string][]byte) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// remote lists the files of the branch, or, where it is not there, of the default
// one, from which it will be made.
func (p *pusher) remote(ctx context.Context) (there bool, files map[string]file, err error) {
	for _, revision := range []string{p.ref.Revision, ""} {
		_, list, err := p.listing(ctx, revision)
		if errors.Is(err, errAbsent) {
			continue
		}
		p.there = revision != ""
		if err != nil {
			return false, nil, err
		}
		files = map[string]file{}
		for _, f := range list {
			files[f.Name] = f
		}
		return true, files, nil
	}
	return false, nil, nil
}

// leaveOut takes out the files that the hub has with the same content.
func (p *pusher) leaveOut(ctx context.Context, remote map[string]file) error {
	var todo []*upload
	for _, u := range p.files {
		f, ok := remote[u.name]
		if ok && f.LFS != nil {
			f.Size = cmp.Or(f.LFS.Size, f.Size)
		}
		if ok && f.Size == u.size {
			got, err := u.hash(ctx, &f)
			if err != nil {
				return err
			}
			if got == f.key() {
				p.out.Same = append(p.out.Same, u.name)
				continue
			}
		}
		todo = append(todo, u)
	}
	p.files = todo
	return nil
}

// hash is what the hub calls content such as u's that lies in f's way.
func (u *upload) hash(ctx context.Context, f *file) (string, error) {
	r, err := u.open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	return f.hash(func(b []byte, at int64) error {
		if err := ctx.Err(); err != nil {
			return fail.Interruptedf(u.name, "run the same command to go on", "the upload was stopped")
		}
		_, err := io.ReadFull(r, b)
		return err
	})
}

// create makes the repository.
func (p *pusher) create(ctx context.Context) error {
	owner, name, _ := strings.Cut(p.ref.Repo, "/")
	q := map[string]any{"type": "model", "name": name, "organization": owner}
	if p.push.Private {
		q["private"] = true
	}
	err := p.ask(ctx, http.MethodPost, p.url("api", "repos", "create"), q, nil)
	var conflict answered
	if errors.As(err, &conflict) && conflict.code == http.StatusConflict {
		err = nil // made meanwhile, or before an answer was lost
	}
	if err != nil || !p.push.Private {
		return err
	}
	var made struct{ Private bool }
	if err := p.ask(ctx, http.MethodGet, p.url("api", "models", p.ref.Repo), nil, &made); err != nil {
		return err
	}
	if !made.Private {
		return fail.Inputf(p.ref.String(), "make it private on its page first; nothing was uploaded", "the repository was to be private, and the server says it is not")
	}
	return nil
}

// branch makes the branch where it is not the default one.
func (p *pusher) branch(ctx context.Context) error {
	if p.there || strings.HasPrefix(p.ref.Revision, "refs/") {
		return nil
	}
	if p.ref.Revision == "main" && p.out.Created { // comes with the repository
		return nil
	}
	if _, _, err := p.listing(ctx, p.ref.Revision); !errors.Is(err, errAbsent) {
		return err
	}
	err := p.ask(ctx, http.MethodPost, p.url("api", "models", p.ref.Repo, "branch", url.PathEscape(p.ref.Revision)), map[string]any{}, nil)
	var conflict answered
	if errors.As(err, &conflict) && conflict.code == http.StatusConflict {
		return nil
	}
	return err
}

// modes asks which files are large ones, and leaves out what the repository ignores.
func (p *pusher) modes(ctx context.Context) error {
	type about struct {
		Path   string `json:"path"`
		Sample []byte `json:"sample"`
		Size   int64  `json:"size"`
	}
	byName := map[string]*upload{}
	for from := 0; from < len(p.files); from += atOnce {
		var q struct {
			Files []about `json:"files"`
		}
		for _, u := range p.files[from:min(from+atOnce, len(p.files))] {
			r, err := u.open()
			if err != nil {
				return err
			}
			sample := make([]byte, min(sampled, u.size))
			_, err = io.ReadFull(r, sample)
			r.Close()
			if err != nil {
				return fail.Inputf(u.path, "", "%w", err)
			}
			q.Files = append(q.Files, about{u.name, sample, u.size})
			byName[u.name] = u
		}
		var a struct {
			Files []struct {
				Path         string
				UploadMode   string
				ShouldIgnore bool
			}
		}
		u := p.url("api", "models", p.ref.Repo, "preupload", url.PathEscape(p.ref.Revision))
		if p.push.CreatePR {
			u.RawQuery = "create_pr=1"
		}
		if err := p.ask(ctx, http.MethodPost, u, q, &a); err != nil {
			return err
		}
		for _, f := range a.Files {
			u := byName[f.Path]
			if u == nil || f.UploadMode != "lfs" && f.UploadMode != "regular" {
				return fail.Inputf(p.ref.String(), "", "the server's answer about %.200q is not understood (mode %.40q)", f.Path, f.UploadMode)
			}
			u.large = f.UploadMode == "lfs" && u.size > 0 // storage takes no empty files
			if delete(byName, f.Path); f.ShouldIgnore {
				p.out.Ignored = append(p.out.Ignored, f.Path)
				p.files = slices.DeleteFunc(p.files, func(o *upload) bool { return o == u })
				p.out.Uploaded = slices.DeleteFunc(p.out.Uploaded, func(n string) bool { return n == u.name })
				p.out.Bytes -= u.size
				from-- // the next ones have moved up
			}
		}
	}
	for name := range byName {
		return fail.Inputf(p.ref.String(), "", "the server does not say how to upload %s", name)
	}
	return nil
}

// ask sends a question as JSON and reads the answer into a, where it is not nil.
func (p *pusher) ask(ctx context.Context, method string, to *url.URL, q, a any) error {
	var body []byte
	header := http.Header{}
	if q != nil {
		var err error
		if body, err = json.Marshal(q); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
		if strings.Contains(to.Path, "/info/lfs/") {
			header.Set("Content-Type", "application/vnd.git-lfs+json")
			header.Set("Accept", "application/vnd.git-lfs+json")
		}
	}
	return p.try(ctx, func() error {
		r := request{method: method, url: to, size: int64(len(body)), header: header}
		if q != nil {
			r.body = func() (io.ReadCloser, error) { return nopCloser{bytes.NewReader(body)}, nil }
		}
		resp, err := p.do(ctx, r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if a == nil {
			return nil
		}
		return p.decode(resp, a)
	})
}

// count writes a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
