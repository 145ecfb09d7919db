package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

const (
	maxListing = 64 << 20
	stall      = time.Minute
	stallBytes = 64 << 10         // what a server sends at least in this time
	maxPause   = 10 * time.Minute // longer than a server may ask to wait
	maxFiles   = 100_000
	chunkSize  = 8 << 20
	attempts   = 5
)

// Options says what Pull fetches and from where. Zero fields take the values
// the environment gives: HF_ENDPOINT, HF_TOKEN (or the token file that
// `huggingface-cli login` wrote), HF_HUB_CACHE or HF_HOME, HF_HUB_OFFLINE.
type Options struct {
	Endpoint string
	Token    string
	Cache    string
	Include  func(name string) bool  // nil: everything that can be read here; PyTorch's files only where there are no others
	Progress func(done, total int64) // bytes; may be nil
	Client   *http.Client            // nil: a plain one
	// Wait pauses before another attempt, for 1, 2, 4, 8 seconds or what the server
	// asked for; false gives up. Nil: sleep.
	Wait func(context.Context, time.Duration) bool
	// Stall is how long a server may take for its answer, and for every 64 KiB of
	// it; 0: a minute.
	Stall time.Duration
}

// file is one file of a repository.
type file struct {
	Name   string `json:"rfilename"`
	Size   int64  `json:"size"`
	BlobID string `json:"blobId"`
	LFS    *struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	} `json:"lfs"`
}

// key is the content hash that names the blob in the cache.
func (f *file) key() string {
	if f.LFS != nil {
		return f.LFS.SHA256
	}
	return f.BlobID
}

// Pull fetches a revision into the local cache and returns its folder and
// commit. Every file is checked against its hash before it is published; an
// interrupted pull goes on where it was. The token is sent to the endpoint's
// host alone.
func Pull(ctx context.Context, ref string, o Options) (dir, commit string, err error) {
	r, err := Parse(ref)
	if err != nil {
		return "", "", err
	}
	p, err := newPuller(r, o)
	if err != nil {
		return "", "", err
	}
	return p.pull(ctx)
}

func (p *puller) pull(ctx context.Context) (dir, commit string, err error) {
	r := p.ref
	commit, files, err := p.list(ctx)
	if err != nil {
		return "", "", err
	}
	repo := repoDir(p.o.Cache, r)
	for i := range files {
		if err := p.fetch(ctx, repo, commit, &files[i]); err != nil {
			return "", "", err
		}
	}
	if !r.Pinned() {
		ref := filepath.Join(repo, "refs", filepath.FromSlash(r.Revision))
		if err := errors.Join(atomic.MkdirAll(filepath.Dir(ref)), atomic.WriteFile(ref, []byte(commit))); err != nil {
			return "", "", err
		}
	}
	return resolve(p.o.Cache, r)
}

// puller is one run of Pull.
type puller struct {
	ref      Ref
	o        Options
	endpoint *url.URL
	client   *http.Client
	chunk    int64 // bytes between two records of progress
	done     int64
	total    int64
}

func newPuller(r Ref, o Options) (*puller, error) {
	for _, name := range []string{"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} {
		switch strings.ToUpper(os.Getenv(name)) {
		case "1", "ON", "YES", "TRUE":
			return nil, fail.Usagef(r.String(), "unset "+name+" to allow the network", "%s is set, so nothing is fetched", name)
		}
	}
	if o.Endpoint == "" {
		o.Endpoint = os.Getenv("HF_ENDPOINT")
	}
	if o.Endpoint == "" {
		o.Endpoint = "https://huggingface.co"
	}
	u, err := url.Parse(strings.TrimSuffix(o.Endpoint, "/"))
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !secure(u) {
		return nil, fail.Usagef("HF_ENDPOINT", "write https://HOST", "%.200q is no endpoint", o.Endpoint)
	}
	if o.Cache == "" {
		if o.Cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	if o.Token == "" {
		o.Token = token()
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	if o.Stall == 0 {
		o.Stall = stall
	}
	p := &puller{ref: r, o: o, endpoint: u, chunk: chunkSize}
	c := http.Client{}
	if o.Client != nil {
		c = *o.Client
	}
	c.CheckRedirect = p.redirect
	p.client = &c
	return p, nil
}

// secure reports whether nobody between here and u can read what is sent.
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// token is the user's, as Hugging Face's own tools find it.
func token() string {
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if t := strings.TrimSpace(os.Getenv(name)); t != "" {
			return t
		}
	}
	path := os.Getenv("HF_TOKEN_PATH")
	if path == "" {
		home, err := hfHome()
		if err != nil {
			return ""
		}
		path = filepath.Join(home, "token")
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 4096 {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// refused is an error of redirect, which no other attempt changes.
type refused string

func (r refused) Error() string { return string(r) }

// redirect follows the hub to its content servers without taking the token along.
func (p *puller) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return refused("more than 10 redirects")
	}
	if !secure(req.URL) || req.URL.User != nil {
		return refused(fmt.Sprintf("a redirect to %.20s://%.200s is refused", req.URL.Scheme, req.URL.Hostname()))
	}
	ip := net.ParseIP(req.URL.Hostname())
	if ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) && req.URL.Host != p.endpoint.Host && !p.local() {
		return refused(fmt.Sprintf("a redirect to the local address %s is refused", ip))
	}
	if req.URL.Host != p.endpoint.Host || req.URL.Scheme != p.endpoint.Scheme {
		req.Header.Del("Authorization")
	}
	return nil
}

// local reports whether the endpoint itself is on this machine.
func (p *puller) local() bool {
	ip := net.ParseIP(p.endpoint.Hostname())
	return ip != nil && ip.IsLoopback()
}

// get sends one request. from > 0 asks for the bytes from there on.
func (p *puller) get(ctx context.Context, from int64, path ...string) (*http.Response, error) {
	u := p.endpoint.JoinPath(path...)
	if path[0] == "api" {
		u.RawQuery = "blobs=true"
	}
	w := watch(ctx, p.o.Stall)
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "tunekit")
	if p.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+p.o.Token)
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		defer w.Close()
		var r refused
		if errors.As(err, &r) {
			return nil, fail.Inputf(p.ref.String(), "", "%w", r)
		}
		return nil, retry{error: w.why(err)}
	}
	w.body, resp.Body = resp.Body, w
	if err := p.status(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// watched is the body of an answer; it ends in an error when too little of it,
// or nothing, comes for too long.
type watched struct {
	ctx   context.Context
	end   context.CancelCauseFunc
	stall time.Duration
	timer *time.Timer
	body  io.ReadCloser
	n     int // bytes since the timer began
}

func watch(ctx context.Context, stall time.Duration) *watched {
	w := &watched{stall: stall}
	w.ctx, w.end = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.end(fmt.Errorf("the server sent less than %d bytes in %v", stallBytes, stall)) })
	return w
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.body.Read(b)
	if w.n += n; w.n >= stallBytes {
		w.n = 0
		w.timer.Reset(w.stall)
	}
	if err != nil && err != io.EOF {
		err = w.why(err)
	}
	return n, err
}

// why is the reason for which the watch ended what gave err, err if it did not.
func (w *watched) why(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.end(nil)
	if w.body == nil {
		return nil
	}
	return w.body.Close()
}

// retry marks an error that another attempt may not meet, and when the server
// wants it at the earliest.
type retry struct {
	error
	after time.Duration
}

func (r retry) Unwrap() error { return r.error }

func (p *puller) status(resp *http.Response) error {
	where := p.ref.String()
	switch c := resp.StatusCode; {
	case c == http.StatusOK || c == http.StatusPartialContent:
		if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
			return fail.Inputf(where, "", "the server sent %q data that was asked for plain", e)
		}
		return nil
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return fail.Inputf(where, "accept the model's licence on its page and set HF_TOKEN; also check the spelling", "the server refused access (%d)", c)
	case c == http.StatusNotFound:
		return fail.Inputf(where, "check the name and the revision", "the server has no such model or revision")
	case c == http.StatusTooManyRequests || c >= 500:
		return retry{fmt.Errorf("the server answered %s", resp.Status), retryAfter(resp)}
	default:
		return fail.Inputf(where, "", "the server answered %s", resp.Status)
	}
}

// retryAfter is how long the server asks to wait, 0 where it does not say.
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return time.Duration(min(n, int(maxPause/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, time.Until(at)), maxPause)
	}
	return 0
}

// try repeats f while its errors may be passing ones.
func (p *puller) try(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var passing retry
		if err == nil || !errors.As(err, &passing) {
			return err
		}
		if ctx.Err() != nil {
			return fail.Interruptedf(p.ref.String(), "run the same command to go on", "the download was stopped")
		}
		if n == attempts || !p.o.Wait(ctx, max(passing.after, time.Second<<(n-1))) {
			return fail.Inputf(p.ref.String(), "check the network, then run the same command: it goes on where it was", "%w", passing.error)
		}
	}
}

// list asks for the commit and the files of the revision.
func (p *puller) list(ctx context.Context) (commit string, files []file, err error) {
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []file `json:"siblings"`
	}
	err = p.try(ctx, func() error {
		resp, err := p.get(ctx, 0, "api", "models", p.ref.Repo, "revision", url.PathEscape(p.ref.Revision))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
		if err != nil {
			return retry{error: err}
		}
		if len(b) > maxListing {
			return fail.Limitf(p.ref.String(), "", "the list of files is longer than %d bytes", maxListing)
		}
		if err := json.Unmarshal(b, &answer); err != nil {
			return fail.Inputf(p.ref.String(), "", "the server's list of files is no JSON: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	if !isCommit.MatchString(answer.SHA) || p.ref.Pinned() && answer.SHA != p.ref.Revision {
		return "", nil, fail.Inputf(p.ref.String(), "", "the server answers with commit %.60q", answer.SHA)
	}
	files, err = p.choose(answer.Siblings)
	return answer.SHA, files, err
}

var isHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// choose keeps the files to fetch and checks what the server says of them.
func (p *puller) choose(all []file) ([]file, error) {
	if len(all) > maxFiles {
		return nil, fail.Limitf(p.ref.String(), "", "the repository has %d files, allowed are %d", len(all), maxFiles)
	}
	seen := map[string]string{}
	others := slices.ContainsFunc(all, func(f file) bool {
		return strings.HasSuffix(f.Name, ".safetensors") || strings.HasSuffix(f.Name, ".gguf")
	})
	var out []file
	for _, f := range all {
		if !safeName(f.Name) {
			return nil, fail.Inputf(p.ref.String(), "do not use this repository", "file name %.200q is unsafe", f.Name)
		}
		if other, dup := seen[strings.ToLower(f.Name)]; dup {
			return nil, fail.Inputf(p.ref.String(), "", "file names %q and %q collide where case does not count", other, f.Name)
		}
		seen[strings.ToLower(f.Name)] = f.Name
		if pickle(f.Name) && (others || !pickledWeights(f.Name)) || p.o.Include == nil && foreign(f.Name) || p.o.Include != nil && !p.o.Include(f.Name) {
			continue
		}
		if f.LFS != nil {
			f.Size = f.LFS.Size
			if len(f.LFS.SHA256) != 64 {
				return nil, fail.Inputf(p.ref.String(), "", "file %s has hash %.80q", f.Name, f.LFS.SHA256)
			}
		}
		if !isHash.MatchString(f.key()) || f.Size < 0 || f.Size > 1<<44 {
			return nil, fail.Inputf(p.ref.String(), "", "file %s has hash %.80q and size %d", f.Name, f.key(), f.Size)
		}
		p.total += f.Size
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fail.Inputf(p.ref.String(), "", "the repository has no file that can be used here")
	}
	return out, nil
}

func pickle(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle":
		return true
	}
	return false
}

// pickledWeights reports files of PyTorch that hold the weights of a model or an adapter.
func pickledWeights(name string) bool {
	return strings.HasPrefix(name, "pytorch_model") && strings.HasSuffix(name, ".bin") || name == "adapter_model.bin"
}

// foreign reports files of other frameworks.
func foreign(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel", ".mlpackage":
		return true
	}
	return strings.HasPrefix(name, "original/") || strings.HasPrefix(name, "onnx/")
}

// fetch makes sure one file is in the cache.
func (p *puller) fetch(ctx context.Context, repo, commit string, f *file) error {
	blob := filepath.Join(repo, "blobs", f.key())
	link := filepath.Join(repo, "snapshots", commit, filepath.FromSlash(f.Name))
	if err := errors.Join(atomic.MkdirAll(filepath.Dir(blob)), atomic.MkdirAll(filepath.Dir(link))); err != nil {
		return err
	}
	if !links() {
		blob = link
	}
	if !whole(blob, f) { // absent, or changed since it was written
		if err := p.download(ctx, blob, commit, f); err != nil {
			return err
		}
	} else {
		p.progress(f.Size)
	}
	if !links() {
		return nil
	}
	target, err := filepath.Rel(filepath.Dir(link), blob)
	if err != nil {
		return err
	}
	return atomic.Symlink(target, link)
}

func (p *puller) progress(n int64) {
	p.done += n
	if p.o.Progress != nil {
		p.o.Progress(p.done, p.total)
	}
}

// download fetches a blob in chunks, each recorded when it is whole.
func (p *puller) download(ctx context.Context, blob, commit string, f *file) error {
	part, err := atomic.Resume(blob, atomic.Plan{ID: f.key(), Files: []atomic.PlanFile{{Size: f.Size}}})
	if err != nil {
		return err
	}
	defer part.Suspend()
	for at := int64(0); at < f.Size && part.Has(chunk(at)); at += p.chunk {
		p.progress(min(p.chunk, f.Size-at))
	}
	err = p.try(ctx, func() error { return p.stream(ctx, part, commit, f) })
	if err != nil {
		return err
	}
	if got, err := f.hash(func(b []byte, at int64) error { return part.ReadAt(0, b, at) }); err != nil || got != f.key() {
		part.Abort()
		return errors.Join(err, fail.Inputf(p.ref.String(), "run the same command again; if it stays so, the repository is damaged",
			"file %s has hash %s, expected %s; it was removed", f.Name, got, f.key()))
	}
	return part.Commit()
}

func chunk(at int64) string { return fmt.Sprint("bytes ", at) }

// stream reads from the first missing chunk to the end.
func (p *puller) stream(ctx context.Context, part *atomic.Partial, commit string, f *file) error {
	at := int64(0)
	for at < f.Size && part.Has(chunk(at)) {
		at += min(p.chunk, f.Size-at)
	}
	if at == f.Size {
		return nil
	}
	resp, err := p.get(ctx, at, append([]string{p.ref.Repo, "resolve", commit}, strings.Split(f.Name, "/")...)...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if at, err = p.start(resp, at, f); err != nil {
		return err
	}
	buf := make([]byte, min(p.chunk, f.Size))
	for at < f.Size {
		b := buf[:min(p.chunk, f.Size-at)]
		if _, err := io.ReadFull(resp.Body, b); err != nil {
			return retry{error: fmt.Errorf("file %s ended after %d of %d bytes: %w", f.Name, at, f.Size, err)}
		}
		if !part.Has(chunk(at)) {
			if err := part.Write(chunk(at), atomic.Piece{Off: at, Data: b}); err != nil {
				return err
			}
			p.progress(int64(len(b)))
		}
		at += int64(len(b))
	}
	if n, _ := resp.Body.Read(buf[:1]); n > 0 {
		return fail.Inputf(p.ref.String(), "", "file %s is longer than the %d bytes the server announced", f.Name, f.Size)
	}
	return nil
}

// start is where the body of an answer begins within the file.
func (p *puller) start(resp *http.Response, asked int64, f *file) (int64, error) {
	if resp.StatusCode == http.StatusOK {
		return 0, nil // the server sends it whole
	}
	var from, to, size int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); err != nil || from != asked || size != f.Size {
		return 0, fail.Inputf(p.ref.String(), "", "file %s: asked for bytes from %d of %d, the server sends %.80q", f.Name, asked, f.Size, resp.Header.Get("Content-Range"))
	}
	return from, nil
}

// whole reports whether the file at path has the content that f names.
func whole(path string, f *file) bool {
	r, err := os.Open(path)
	if err != nil {
		return false
	}
	defer r.Close()
	if st, err := r.Stat(); err != nil || st.Size() != f.Size || !st.Mode().IsRegular() {
		return false
	}
	got, err := f.hash(func(b []byte, at int64) error {
		_, err := r.ReadAt(b, at)
		return err
	})
	return err == nil && got == f.key()
}

// hash is the SHA-256 of a large file, git's blob hash of a small one.
func (f *file) hash(read func(b []byte, at int64) error) (string, error) {
	var h hash.Hash = sha256.New()
	if f.LFS == nil {
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", f.Size)
	}
	buf := make([]byte, min(chunkSize, f.Size))
	for at := int64(0); at < f.Size; at += chunkSize {
		b := buf[:min(chunkSize, f.Size-at)]
		if err := read(b, at); err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
