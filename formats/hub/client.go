package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

// client speaks with the hub about one repository.
type client struct {
	ref      Ref
	o        Options
	endpoint *url.URL
	http     *http.Client
	what     string // download or upload, for messages
	done     int64  // bytes
	total    int64
}

func newClient(r Ref, o Options) (*client, error) {
	for _, name := range []string{"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} {
		switch strings.ToUpper(os.Getenv(name)) {
		case "1", "ON", "YES", "TRUE":
			return nil, fail.Usagef(r.String(), "unset "+name+" to allow the network", "%s is set, so the network is not used", name)
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
	p := &client{ref: r, o: o, endpoint: u, what: "download"}
	c := http.Client{}
	if o.Client != nil {
		c = *o.Client
	}
	c.CheckRedirect = p.redirect
	p.http = &c
	return p, nil
}

func (p *client) progress(n int64) {
	p.done += n
	if p.o.Progress != nil {
		p.o.Progress(p.done, p.total)
	}
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
func (p *client) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return refused("more than 10 redirects")
	}
	if err := p.follow(req.URL); err != nil {
		return err
	}
	if !p.own(req.URL) {
		req.Header.Del("Authorization")
	}
	return nil
}

// follow says what speaks against an address that the server sends one to.
func (p *client) follow(u *url.URL) error {
	if !secure(u) || u.User != nil {
		return refused(fmt.Sprintf("a redirect to %.20s://%.200s is refused", u.Scheme, u.Hostname()))
	}
	ip := net.ParseIP(u.Hostname())
	if ip != nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) && u.Host != p.endpoint.Host && !p.local() {
		return refused(fmt.Sprintf("a redirect to the local address %s is refused", ip))
	}
	return nil
}

// own reports whether an address is the endpoint's, which alone gets the token.
func (p *client) own(u *url.URL) bool {
	return u.Host == p.endpoint.Host && u.Scheme == p.endpoint.Scheme
}

// local reports whether the endpoint itself is on this machine.
func (p *client) local() bool {
	ip := net.ParseIP(p.endpoint.Hostname())
	return ip != nil && ip.IsLoopback()
}

// url is an address of the endpoint. Parts are escaped already.
func (p *client) url(parts ...string) *url.URL { return p.endpoint.JoinPath(parts...) }

// get asks for a file. from > 0 asks for the bytes from there on.
func (p *client) get(ctx context.Context, from int64, path ...string) (*http.Response, error) {
	header := http.Header{"Accept-Encoding": {"identity"}}
	if from > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	return p.do(ctx, request{method: http.MethodGet, url: p.url(path...), header: header})
}

// request is what is sent to the endpoint, or where it says.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   func() (io.ReadCloser, error) // from its beginning, each time; nil: none
	size   int64                         // of the body
	sent   func(n int64)                 // is told of every part of the body; may be nil
}

// do sends one request. The token goes to the endpoint's host, and not with what is
// sent to its storage (PUT), whose addresses are signed themselves.
func (p *client) do(ctx context.Context, r request) (*http.Response, error) {
	does := "sent"
	if r.body != nil {
		does = "took"
	}
	w := watch(ctx, p.o.Stall, does)
	req, err := http.NewRequestWithContext(w.ctx, r.method, r.url.String(), nil)
	if err != nil {
		w.Close()
		return nil, err
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "tunekit")
	if p.o.Token != "" && p.own(r.url) && r.method != http.MethodPut {
		req.Header.Set("Authorization", "Bearer "+p.o.Token)
	}
	if r.body != nil {
		req.ContentLength = r.size
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := r.body()
			return &leaving{body, w, r.sent}, err
		}
		if req.Body, err = req.GetBody(); err != nil {
			w.Close()
			return nil, err
		}
		if r.size == 0 {
			req.Body.Close()
			req.Body = http.NoBody
		}
	}
	resp, err := p.http.Do(req)
	if err != nil {
		defer w.Close()
		var no refused
		if errors.As(err, &no) {
			return nil, fail.Inputf(p.ref.String(), "", "%w", no)
		}
		var known *fail.Error // of the file that is sent
		if errors.As(err, &known) {
			return nil, known
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

// leaving is the body of a request, of which the watch sees what is taken.
type leaving struct {
	io.ReadCloser
	watch *watched
	sent  func(int64)
}

func (l *leaving) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b)
	l.watch.passed(n)
	if n > 0 && l.sent != nil {
		l.sent(int64(n))
	}
	return n, err
}

// watched is the body of an answer; it ends in an error when too little of it, or of
// what is sent before it, or nothing, goes through for too long.
type watched struct {
	ctx   context.Context
	end   context.CancelCauseFunc
	stall time.Duration
	timer *time.Timer
	body  io.ReadCloser
	n     int // bytes since the timer began
}

func watch(ctx context.Context, stall time.Duration, does string) *watched {
	w := &watched{stall: stall}
	w.ctx, w.end = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.end(fmt.Errorf("the server %s less than %d bytes in %v", does, stallBytes, stall)) })
	return w
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.body.Read(b)
	w.passed(n)
	if err != nil && err != io.EOF {
		err = w.why(err)
	}
	return n, err
}

// passed notes that n bytes went through.
func (w *watched) passed(n int) {
	if w.n += n; w.n >= stallBytes {
		w.n = 0
		w.timer.Reset(w.stall)
	}
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

// answered is an error that the server gave, with its status.
type answered struct {
	error
	code int
}

func (a answered) Unwrap() error { return a.error }

func (a answered) Is(target error) bool { return target == errAbsent && a.code == http.StatusNotFound }

// errAbsent is the answer about a repository or revision that is not there, or not
// for this token.
var errAbsent = errors.New("not there")

func (p *client) status(resp *http.Response) error {
	where := p.ref.String()
	c := resp.StatusCode
	upload := p.what == "upload"
	switch {
	case c >= 200 && c < 300:
		if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
			return fail.Inputf(where, "", "the server sent %q data that was asked for plain", e)
		}
		return nil
	case c == http.StatusTooManyRequests || c >= 500:
		return retry{fmt.Errorf("the server answered %s", resp.Status), retryAfter(resp)}
	}
	said := said(resp)
	var err error
	switch {
	case (c == http.StatusUnauthorized || c == http.StatusForbidden) && upload:
		err = fail.Inputf(where, "make a token that may write to "+p.ref.Repo+" at "+p.url("settings", "tokens").String()+"; also check the owner's name", "the server refused the token (%d%s)", c, said)
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		err = fail.Inputf(where, "accept the model's licence on its page and set HF_TOKEN; also check the spelling", "the server refused access (%d)", c)
	case c == http.StatusNotFound:
		err = fail.Inputf(where, "check the name and the revision", "the server has no such model or revision")
	default:
		err = fail.Inputf(where, "", "the server answered %s%s", resp.Status, said)
	}
	return answered{err, c}
}

// said is what the server says of an error, for people.
func said(resp *http.Response) string {
	var a struct{ Error string }
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &a); a.Error == "" {
		a.Error = resp.Header.Get("X-Error-Message")
	}
	if a.Error == "" {
		return ""
	}
	return fmt.Sprintf(": %.500q", a.Error)
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
func (p *client) try(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var passing retry
		if err == nil || !errors.As(err, &passing) {
			return err
		}
		if ctx.Err() != nil {
			return fail.Interruptedf(p.ref.String(), "run the same command to go on", "the %s was stopped", p.what)
		}
		if n == attempts || !p.o.Wait(ctx, max(passing.after, time.Second<<(n-1))) {
			return fail.Inputf(p.ref.String(), "check the network, then run the same command: it goes on where it was", "%w", passing.error)
		}
	}
}

// listing asks for the commit and the files of a revision, of the default branch where
// that is ""; errAbsent where the server has none.
func (p *client) listing(ctx context.Context, revision string) (commit string, files []file, err error) {
	err = p.try(ctx, func() error {
		commit, files, err = p.listOnce(ctx, revision)
		return err
	})
	return commit, files, err
}

func (p *client) listOnce(ctx context.Context, revision string) (commit string, files []file, err error) {
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []file `json:"siblings"`
	}
	path := []string{"api", "models", p.ref.Repo}
	if revision != "" {
		path = append(path, "revision", url.PathEscape(revision))
	}
	u := p.url(path...)
	u.RawQuery = "blobs=true"
	resp, err := p.do(ctx, request{method: http.MethodGet, url: u, header: http.Header{"Accept-Encoding": {"identity"}}})
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if err := p.decode(resp, &answer); err != nil {
		return "", nil, err
	}
	if !isCommit.MatchString(answer.SHA) || isCommit.MatchString(revision) && answer.SHA != revision {
		return "", nil, fail.Inputf(p.ref.String(), "", "the server answers with commit %.60q", answer.SHA)
	}
	return answer.SHA, answer.Siblings, nil
}

// decode reads an answer of JSON.
func (p *client) decode(resp *http.Response, a any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
	if err != nil {
		return retry{error: err}
	}
	if len(b) > maxListing {
		return fail.Limitf(p.ref.String(), "", "the server's answer is longer than %d bytes", maxListing)
	}
	if err := json.Unmarshal(b, a); err != nil {
		return fail.Inputf(p.ref.String(), "", "the server's answer is no JSON: %w", err)
	}
	return nil
}
