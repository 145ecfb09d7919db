package hub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// server is a small hub with one repository, org/name, and many ways to fail.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	ranges []string // Range headers of file requests
	auth   []string // Authorization headers of all requests
	answer func(w http.ResponseWriter, r *http.Request, data []byte) bool
}

func newServer(t *testing.T, files map[string][]byte) *server {
	s := &server{files: files}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	for _, name := range []string{"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN_PATH"} {
		t.Setenv(name, "")
	}
	t.Setenv("HF_HOME", t.TempDir())
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	s.mu.Unlock()
	if r.URL.Path == "/api/models/org/name/revision/main" || r.URL.Path == "/api/models/org/name/revision/"+commit {
		s.list(w)
		return
	}
	data, ok := s.files[strings.TrimPrefix(r.URL.Path, "/org/name/resolve/"+commit+"/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r, data) {
		return
	}
	serve(w, r, data)
}

func serve(w http.ResponseWriter, r *http.Request, data []byte) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// list answers with the files: large ones by SHA-256, others by git's hash.
func (s *server) list(w http.ResponseWriter) {
	type m = map[string]any
	var siblings []m
	for name, data := range s.files {
		e := m{"rfilename": name, "size": len(data), "blobId": fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...)))}
		if strings.HasSuffix(name, ".safetensors") {
			h := sha256.Sum256(data)
			e["lfs"] = m{"sha256": hex.EncodeToString(h[:]), "size": len(data)}
		}
		siblings = append(siblings, e)
	}
	json.NewEncoder(w).Encode(m{"sha": commit, "siblings": siblings})
}

func weights(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

// puller makes one with small chunks that does not wait between attempts.
func (s *server) puller(t *testing.T, ref string, o Options) *puller {
	t.Helper()
	o.Endpoint = s.URL
	if o.Wait == nil {
		o.Wait = func(context.Context, time.Duration) bool { return true }
	}
	r, err := Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPuller(r, o)
	if err != nil {
		t.Fatal(err)
	}
	p.chunk = 100
	return p
}

// TestPull fetches a repository and finds it in the cache, by branch and commit.
func TestPull(t *testing.T) {
	files := map[string][]byte{"config.json": []byte("{}"), "model.safetensors": weights(1050), "sub/a b#.json": []byte("[]"), "empty.txt": {}, "pytorch_model.bin": []byte("x"), "model.onnx": []byte("y")}
	s := newServer(t, files)
	var last, total int64
	p := s.puller(t, "hf://org/name", Options{Token: "secret", Progress: func(d, n int64) { last, total = d, n }})
	dir, sha, err := p.pull(t.Context())
	if err != nil || sha != commit {
		t.Fatal(sha, err)
	}
	if last != total || total != 1050+2+2 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	for _, ref := range []string{"hf://org/name", "hf://org/name@main", "hf://org/name@" + commit} {
		if d, c, err := Resolve(ref); d != dir || c != commit || err != nil {
			t.Errorf("%s: %s %s %v", ref, d, c, err)
		}
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if skipped := name == "pytorch_model.bin" || name == "model.onnx"; skipped != os.IsNotExist(err) || !skipped && !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, a := range s.auth {
		if a != "Bearer secret" {
			t.Errorf("a request with token %q", a)
		}
	}
	n := len(s.ranges)
	if _, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context()); err != nil || len(s.ranges) != n {
		t.Errorf("files in the cache were fetched again: %d requests, %v", len(s.ranges)-n, err)
	}
	if _, _, err := Resolve("hf://org/other"); fail.Code(err) != int(fail.Input) || !strings.Contains(fail.Hint(err), "tune pull hf://org/other@main") {
		t.Errorf("a model that is not there: %v, hint %q", err, fail.Hint(err))
	}
}

// TestResume cuts the answer again and again; each attempt goes on where the
// last whole chunk ended.
func TestResume(t *testing.T) {
	data := weights(1250)
	s := newServer(t, map[string][]byte{"model.safetensors": data})
	s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(data[from:min(from+250, len(data))]) // then the connection breaks
		return true
	}
	if _, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context()); err == nil || !strings.Contains(fail.Hint(err), "goes on") {
		t.Fatalf("five broken answers: %v", err)
	}
	if want := "[ bytes=200- bytes=400- bytes=600- bytes=800-]"; fmt.Sprint(s.ranges) != want {
		t.Errorf("asked for %v, expected %s", s.ranges, want)
	}
	s.ranges = nil
	dir, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context())
	if err != nil || fmt.Sprint(s.ranges) != "[bytes=1000-]" {
		t.Fatalf("the next run asked for %v: %v", s.ranges, err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "model.safetensors")); !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "../../blobs/*.part")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestBadServers are answers that must not become a file.
func TestBadServers(t *testing.T) {
	first := func(r *http.Request) bool { return r.Header.Get("Range") == "" }
	cut := func(w http.ResponseWriter, data []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:500])
		return true
	}
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, data []byte) bool
		want   string // "" when the pull succeeds
	}{
		"range ignored": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			if first(r) {
				return cut(w, data)
			}
			w.Write(data)
			return true
		}, ""},
		"another range": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			if first(r) {
				return cut(w, data)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data)
			return true
		}, "asked for bytes from 500"},
		"other content after the cut": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			if first(r) {
				return cut(w, data)
			}
			serve(w, r, bytes.Repeat([]byte("x"), len(data)))
			return true
		}, "it was removed"},
		"longer": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Write(append(bytes.Clone(data), 0))
			return true
		}, "longer than"},
		"other content": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Write(make([]byte, len(data)))
			return true
		}, "it was removed"},
		"compressed": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(data)
			return true
		}, "asked for plain"},
		"refused":     {func(w http.ResponseWriter, r *http.Request, data []byte) bool { w.WriteHeader(403); return true }, "refused access"},
		"overloaded":  {func(w http.ResponseWriter, r *http.Request, data []byte) bool { w.WriteHeader(503); return true }, "503"},
		"gone":        {func(w http.ResponseWriter, r *http.Request, data []byte) bool { w.WriteHeader(404); return true }, "no such model"},
		"to a device": {redirectTo("http://169.254.169.254/latest/meta-data"), "refused"},
		"to plain":    {redirectTo("http://example.com/x"), "refused"},
		"to a user":   {redirectTo("https://huggingface.co@example.com/x"), "refused"},
		"to a file":   {redirectTo("file:///etc/passwd"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			data := weights(1050)
			s := newServer(t, map[string][]byte{"model.safetensors": data})
			s.answer = c.answer
			dir, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context())
			if c.want == "" && name != "to a file" {
				if got, _ := os.ReadFile(filepath.Join(dir, "model.safetensors")); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || fail.Code(err) != int(fail.Input) {
				t.Errorf("%v, expected %q", err, c.want)
			}
			if _, _, err := Resolve("hf://org/name"); err == nil {
				t.Error("it can be resolved all the same")
			}
		})
	}
}

func redirectTo(url string) func(w http.ResponseWriter, r *http.Request, data []byte) bool {
	return func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		w.Header().Set("Location", url)
		w.WriteHeader(http.StatusFound)
		return true
	}
}

// TestTokenStays checks that a redirect to a content server does not carry the
// token.
func TestTokenStays(t *testing.T) {
	data := weights(1050)
	var seen []string
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		serve(w, r, data)
	}))
	defer cdn.Close()
	s := newServer(t, map[string][]byte{"model.safetensors": data})
	s.answer = redirectTo(cdn.URL + "/blob")
	if _, _, err := s.puller(t, "hf://org/name", Options{Token: "secret"}).pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != "" {
		t.Errorf("the content server saw %q", seen)
	}
}

// TestUnsafeListings are lists of files that are refused before anything is fetched.
func TestUnsafeListings(t *testing.T) {
	good := fmt.Sprintf(`"size":1,"blobId":"%040d"`, 7)
	for _, name := range []string{`../x`, `/etc/x`, `a/../../b`, `a\\b`, `C:\\x`, `D:foo`, `\\\\host\\share`, `a//b`, `.`, `..`, ``, `a/./b`, `%2e%2e/x`, `x\u0000y`, `x.`, `x `, `CON`, `nul.txt`, `COM1`, `a:b`, `a\u2215b`} {
		listing(t, fmt.Sprintf(`{"sha":"%s","siblings":[{"rfilename":"%s",%s}]}`, commit, name, good), "is unsafe")
	}
	for body, want := range map[string]string{
		`{"sha":"` + commit + `","siblings":[{"rfilename":"A",` + good + `},{"rfilename":"a",` + good + `}]}`: "collide",
		`{"sha":"../x","siblings":[]}`:           "answers with commit",
		`{"sha":"` + commit + `","siblings":[]}`: "no file that can be used",
		`{"sha":"` + commit + `","siblings":[{"rfilename":"a","size":1,"blobId":"sha256:../../../etc/x"}]}`:                   "has hash",
		`{"sha":"` + commit + `","siblings":[{"rfilename":"a","size":-1,"blobId":"` + commit + `"}]}`:                         "size -1",
		`{"sha":"` + commit + `","siblings":[{"rfilename":"a","lfs":{"sha256":"` + strings.Repeat("A", 64) + `","size":1}}]}`: "has hash",
		`{"sha":"` + commit + `","siblings":[{"rfilename":"a","lfs":{"sha256":"` + strings.Repeat("a", 63) + `","size":1}}]}`: "has hash",
		`no json`: "no JSON",
	} {
		listing(t, body, want)
	}
}

func listing(t *testing.T, body, want string) {
	t.Helper()
	s := newServer(t, nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body)) })
	cache := t.TempDir()
	_, _, err := s.puller(t, "hf://org/name", Options{Cache: cache}).pull(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, expected %q", body, err, want)
	}
	if e, _ := os.ReadDir(cache); len(e) > 0 {
		t.Errorf("%s: something was written", body)
	}
}

// TestParse checks references.
func TestParse(t *testing.T) {
	for s, want := range map[string]Ref{
		"hf://org/name": {"org/name", "main"}, "hf://gpt2": {"gpt2", "main"}, "hf://org/name@v1.0": {"org/name", "v1.0"},
		"hf://org/na.me_x@refs/pr/3": {"org/na.me_x", "refs/pr/3"}, "hf://org/name@" + commit: {"org/name", commit},
	} {
		if r, err := Parse(s); err != nil || r != want {
			t.Errorf("%s: %v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "hf://", "org/name", "hf://a/b/c", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a/b@../x", "hf://a/b@x//y", "hf://a/b@/x", "hf://a b/c", "hf://a--b/c", "hf://a/b@x y", "hf://-a/b", "hf://a/b@" + strings.Repeat("x", 201)} {
		if r, err := Parse(s); err == nil || fail.Code(err) != int(fail.Usage) {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
}

// TestEnvironment checks what forbids or redirects a pull.
func TestEnvironment(t *testing.T) {
	newServer(t, nil)
	for _, bad := range []string{"http://huggingface.co", "ftp://x", "https://user@x", "https://u:p@x", "https://", "huggingface.co", "https://x?y=1", "http://127.0.0.1@evil.com", "http://10.0.0.1"} {
		if _, _, err := Pull(t.Context(), "hf://org/name", Options{Endpoint: bad}); fail.Code(err) != int(fail.Usage) {
			t.Errorf("endpoint %s: %v", bad, err)
		}
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if _, _, err := Pull(t.Context(), "hf://org/name", Options{}); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") {
		t.Errorf("offline: %v", err)
	}
	t.Setenv("HF_HUB_CACHE", "/c")
	if d, err := CacheDir(); d != "/c" || err != nil {
		t.Error(d, err)
	}
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HF_HOME", "/h")
	if d, err := CacheDir(); d != filepath.Join("/h", "hub") || err != nil {
		t.Error(d, err)
	}
	t.Setenv("HF_TOKEN", " tok\n")
	if got := token(); got != "tok" {
		t.Errorf("token %q", got)
	}
}

// TestResolveLinks accepts the layout other tools write and refuses links that
// lead elsewhere.
func TestResolveLinks(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	repo := filepath.Join(cache, "models--org--name")
	snap := filepath.Join(repo, "snapshots", commit)
	for dir, name := range map[string]string{"blobs": "abc", "refs": "main"} {
		os.MkdirAll(filepath.Join(repo, dir), 0o777)
		os.WriteFile(filepath.Join(repo, dir, name), []byte(commit), 0o666)
	}
	os.MkdirAll(snap, 0o777)
	file := filepath.Join(snap, "config.json")
	check := func(target, want string) {
		t.Helper()
		os.Remove(file)
		if err := os.Symlink(target, file); err != nil {
			t.Skip(err)
		}
		_, _, err := Resolve("hf://org/name")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("link to %s: %v, expected %q", target, err, want)
		}
	}
	check("../../blobs/abc", "")
	check("../../blobs/gone", "incomplete")
	check("/etc/passwd", "leads out")
	check("../../../../secret", "incomplete")
	os.WriteFile(filepath.Join(cache, "secret"), nil, 0o666)
	check("../../../secret", "leads out")
	os.Remove(file)
	if _, _, err := Resolve("hf://org/name"); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("an empty snapshot: %v", err)
	}
	os.WriteFile(filepath.Join(repo, "refs", "main"), []byte("../../.."), 0o666)
	if _, _, err := Resolve("hf://org/name"); err == nil || !strings.Contains(err.Error(), "is no commit") {
		t.Errorf("a bad ref: %v", err)
	}
}

// TestStop ends a pull by its context; what was fetched stays.
func TestStop(t *testing.T) {
	s := newServer(t, map[string][]byte{"model.safetensors": weights(1050)})
	ctx, cancel := context.WithCancel(t.Context())
	s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		w.Header().Set("Content-Length", "1050")
		w.Write(data[:500])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	p := s.puller(t, "hf://org/name", Options{Progress: func(done, _ int64) {
		if done == 500 {
			cancel()
		}
	}})
	if _, _, err := p.pull(ctx); fail.Code(err) != int(fail.Interrupted) {
		t.Errorf("%v", err)
	}
	s.answer, s.ranges = nil, nil
	if _, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context()); err != nil || fmt.Sprint(s.ranges) != "[bytes=500-]" {
		t.Errorf("the next run asked for %v: %v", s.ranges, err)
	}
}

// TestStalls: a server that says nothing, or too little for ever, ends in an error
// and not in a command that waits.
func TestStalls(t *testing.T) {
	hold := func(r *http.Request) { <-r.Context().Done() }
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte) bool{
		"no answer": func(w http.ResponseWriter, r *http.Request, data []byte) bool { hold(r); return true },
		"within a body": func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:10])
			w.(http.Flusher).Flush()
			hold(r)
			return true
		},
		"drops": func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			for r.Context().Err() == nil {
				w.Write(data[:1])
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
			return true
		},
	} {
		s := newServer(t, map[string][]byte{"model.safetensors": weights(1 << 20)})
		s.answer = answer
		_, _, err := s.puller(t, "hf://org/name", Options{Stall: 50 * time.Millisecond}).pull(t.Context())
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "the server sent less than") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPauses: a server that is asked too often says when to come again; what a
// redirect is refused for is not asked for again.
func TestPauses(t *testing.T) {
	data := weights(100)
	s := newServer(t, map[string][]byte{"model.safetensors": data})
	var pauses []time.Duration
	o := Options{Wait: func(_ context.Context, d time.Duration) bool { pauses = append(pauses, d); return true }}
	busy := []string{"120", "", "999999"}
	s.answer = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(busy) == 0 {
			return false
		}
		w.Header().Set("Retry-After", busy[0])
		w.WriteHeader(http.StatusTooManyRequests)
		busy = busy[1:]
		return true
	}
	if _, _, err := s.puller(t, "hf://org/name", o).pull(t.Context()); err != nil || fmt.Sprint(pauses) != "[2m0s 2s 10m0s]" {
		t.Errorf("%v, %v", pauses, err)
	}
	s = newServer(t, map[string][]byte{"model.safetensors": data})
	s.answer, pauses = redirectTo("file:///etc/passwd"), nil
	if _, _, err := s.puller(t, "hf://org/name", o).pull(t.Context()); fail.Code(err) != int(fail.Input) || len(pauses) > 0 || !strings.Contains(err.Error(), "a redirect to file:// is refused") {
		t.Errorf("%v, %v", pauses, err)
	}
}

// TestDamagedCache: what was changed in the cache is fetched again.
func TestDamagedCache(t *testing.T) {
	data := weights(1000)
	s := newServer(t, map[string][]byte{"model.safetensors": data, "config.json": []byte("{}")})
	dir, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"model.safetensors": data, "config.json": []byte("{}")} {
		path := filepath.Join(dir, name)
		bad := bytes.Clone(want)
		bad[len(bad)-1] ^= 1
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		s.ranges = nil
		_, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context())
		if got, _ := os.ReadFile(path); err != nil || !bytes.Equal(got, want) || len(s.ranges) != 1 {
			t.Errorf("%s: %v after %d requests: %v", name, bytes.Equal(got, want), len(s.ranges), err)
		}
	}
}

// FuzzListing: whatever a server says a repository holds, only files with safe
// names, sizes and hashes are fetched.
func FuzzListing(f *testing.F) {
	f.Add([]byte(`[{"rfilename":"config.json","size":2,"blobId":"0123456789abcdef0123456789abcdef01234567"},{"rfilename":"a/model.safetensors","size":1,"lfs":{"sha256":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","size":3}}]`))
	f.Add([]byte(`[{"rfilename":"../x","size":-1,"blobId":"../../x"},{"rfilename":"CON.json"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var all []file
		if json.Unmarshal(b, &all) != nil {
			return
		}
		files, err := (&puller{client: &client{ref: Ref{"org/name", "main"}}}).choose(all)
		for _, x := range files {
			if err == nil && (!filepath.IsLocal(x.Name) || strings.ContainsAny(x.key(), "/\\.") || x.Size < 0) {
				t.Errorf("%+v", x)
			}
		}
	})
}

// TestPullPyTorch: PyTorch's weights are fetched where their folder has no others, and
// nothing else that is pickled.
func TestPullPyTorch(t *testing.T) {
	const both = "pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin"
	for _, c := range []struct{ has, fetched, not string }{
		{"config.json pytorch_model.bin.index.json " + both + " training_args.bin sub/pytorch_model.bin optimizer.pt", "config.json pytorch_model.bin.index.json " + both, "training_args.bin sub/pytorch_model.bin optimizer.pt"},
		{"config.json pytorch_model.bin model.safetensors", "model.safetensors", "pytorch_model.bin"},
		{"config.json pytorch_model.bin unet/model.safetensors", "pytorch_model.bin unet/model.safetensors", ""},
		{"config.json pytorch_model.bin m-Q4_K_M.gguf", "pytorch_model.bin m-Q4_K_M.gguf", ""},
		{"config.json pytorch_model.bin gguf/m.gguf", "pytorch_model.bin gguf/m.gguf", ""},
		{"pytorch_model.bin m.gguf", "m.gguf", "pytorch_model.bin"},
		{"adapter_config.json adapter_model.bin m.gguf", "adapter_model.bin m.gguf", ""},
		{"adapter_config.json adapter_model.bin adapter_model.safetensors", "adapter_model.safetensors", "adapter_model.bin"},
	} {
		files := map[string][]byte{}
		for _, name := range strings.Fields(c.has) {
			files[name] = weights(10 + len(name))
		}
		s := newServer(t, files)
		dir, _, err := s.puller(t, "hf://org/name", Options{}).pull(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for want, list := range map[bool]string{true: c.fetched, false: c.not} {
			for _, name := range strings.Fields(list) {
				if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
					t.Errorf("of %s: %s: %v, want it fetched: %v", c.has, name, err, want)
				}
			}
		}
	}
}
