package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub/hubtest"
)

// newHub is a hub that the environment names.
func newHub(t *testing.T) *hubtest.Hub {
	for _, name := range []string{"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH"} {
		t.Setenv(name, "")
	}
	t.Setenv("HF_HOME", t.TempDir())
	h := hubtest.New()
	t.Cleanup(h.Close)
	t.Setenv("HF_ENDPOINT", h.URL)
	return h
}

// pushing is Push with a token that does not wait between attempts.
func pushing(t *testing.T, h *hubtest.Hub, path, ref string, o PushOptions) (*Pushed, error) {
	o.Token = h.Token
	o.Wait = func(context.Context, time.Duration) bool { return true }
	return Push(t.Context(), path, ref, o)
}

func folder(t *testing.T, files map[string][]byte) string {
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, data, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func count2(list []string, prefix string) (n int) {
	for _, l := range list {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// TestPush: what is pushed is what is pulled; pushed again nothing is sent; of a change
// only what changed; content that the storage knows is not sent under another name.
func TestPush(t *testing.T) {
	for _, part := range []int{0, 1000, -1000} { // below 0: parts by plain numbers
		t.Run(fmt.Sprint("parts of ", part), func(t *testing.T) {
			h := newHub(t)
			h.PartSize, h.PlainPart = max(part, -part), part < 0
			files := map[string][]byte{"config.json": []byte("{}"), "model.safetensors": weights(10_500), "sub/a b#.json": []byte("[1]"), "empty.txt": {}, "tokenizer.model": weights(900),
				"copy.safetensors": weights(10_500)}
			dir := folder(t, files)
			hidden := folder(t, map[string][]byte{".env": []byte("KEY=secret"), ".git/config": []byte("x")})
			for _, name := range []string{".env", ".git"} {
				if err := os.Rename(filepath.Join(hidden, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			var done, total int64
			out, err := pushing(t, h, dir, "hf://org/name", PushOptions{Options: Options{Progress: func(d, n int64) { done, total = d, n }}, Extra: map[string][]byte{"README.md": []byte("# made")}})
			if err != nil {
				t.Fatal(err)
			}
			if !out.Created || len(out.Uploaded) != 7 || out.Sent != 11_400 || !slices.Equal(out.Ignored, []string{".env", ".git"}) || !strings.HasPrefix(out.URL, h.URL+"/org/name/commit/"+out.Commit) {
				t.Errorf("%+v", out)
			}
			if done != total || total != 11_400 {
				t.Errorf("progress ended at %d of %d", done, total)
			}
			got := h.Files("org/name", "main")
			delete(got, ".gitattributes")
			files["README.md"] = []byte("# made")
			if !reflect.DeepEqual(got, files) {
				t.Errorf("the hub has %d files", len(got))
			}
			log := h.Requests()
			if want := map[int]int{0: 2, 1000: 11 + 1}[h.PartSize]; count2(log, "PUT ") != want {
				t.Errorf("%d pieces were sent, want %d: %q", count2(log, "PUT "), want, log)
			}

			out, err = pushing(t, h, dir, "hf://org/name", PushOptions{Extra: map[string][]byte{"README.md": []byte("# another")}})
			if err != nil || len(out.Uploaded) != 0 || len(out.Same) != 6 || out.Commit != "" {
				t.Errorf("again: %+v, %v", out, err)
			}
			if log := h.Requests(); len(log) != 1 {
				t.Errorf("again: %q", log)
			}
			if out, err = pushing(t, h, dir, "hf://org/name@copy", PushOptions{}); err != nil || len(out.Uploaded) != 0 || len(h.Files("org/name", "copy")) != 8 {
				t.Errorf("a branch of the same: %+v, %v, %d files", out, err, len(h.Files("org/name", "copy")))
			}

			if err := errors.Join(os.WriteFile(filepath.Join(dir, "config.json"), []byte("[]"), 0o666), os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "renamed.safetensors"))); err != nil {
				t.Fatal(err)
			}
			out, err = pushing(t, h, dir, "hf://org/name@dev/x", PushOptions{})
			if err != nil || !slices.Equal(out.Uploaded, []string{"config.json", "renamed.safetensors"}) || out.Sent != 0 {
				t.Errorf("changed: %+v, %v", out, err)
			}
			if string(h.Files("org/name", "main")["config.json"]) != "{}" || string(h.Files("org/name", "dev/x")["config.json"]) != "[]" {
				t.Error("the branches are not apart")
			}
			local, _, err := Pull(t.Context(), "hf://org/name@dev/x", Options{Include: func(string) bool { return true }})
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(local, "renamed.safetensors")); err != nil || !bytes.Equal(b, weights(10_500)) {
				t.Errorf("pulled: %d bytes, %v", len(b), err)
			}
		})
	}
}

// TestPushOptions: private repositories, pull requests, one file, a dry run, and a
// README that the hub has is left alone.
func TestPushOptions(t *testing.T) {
	h := newHub(t)
	dir := folder(t, map[string][]byte{"m.gguf": weights(3000)})
	card := map[string][]byte{"README.md": []byte("# made")}
	out, err := pushing(t, h, dir, "hf://org/p", PushOptions{Private: true, DryRun: true, Extra: card})
	if err != nil || !slices.Equal(out.Uploaded, []string{"m.gguf", "README.md"}) || h.Files("org/p", "main") != nil {
		t.Errorf("dry: %+v, %v", out, err)
	}
	if _, err := pushing(t, h, filepath.Join(dir, "m.gguf"), "hf://org/p", PushOptions{Private: true, Extra: card}); err != nil || !h.Private("org/p") {
		t.Errorf("private %v, %v", h.Private("org/p"), err)
	}
	if string(h.Files("org/p", "main")["README.md"]) != "# made" {
		t.Error("no card")
	}
	h.Put("org/theirs", map[string][]byte{"README.md": []byte("# theirs")})
	out, err = pushing(t, h, dir, "hf://org/theirs", PushOptions{CreatePR: true, Extra: card})
	if err != nil || out.PR != h.URL+"/org/theirs/discussions/1" || h.Files("org/theirs", "main")["m.gguf"] != nil || h.Files("org/theirs", "refs/pr/1")["m.gguf"] == nil ||
		string(h.Files("org/theirs", "refs/pr/1")["README.md"]) != "# theirs" {
		t.Errorf("pull request: %+v, %v", out, err)
	}
	own := folder(t, map[string][]byte{"README.md": []byte("generated"), "m.gguf": weights(10), "x.json": []byte("x")})
	if _, err := pushing(t, h, own, "hf://org/own", PushOptions{Replace: map[string][]byte{"README.md": []byte("# better"), "x.json": nil}}); err != nil || string(h.Files("org/own", "main")["README.md"]) != "# better" || h.Files("org/own", "main")["x.json"] != nil {
		t.Errorf("replaced: %v", err)
	}
}

// TestPushLinks: a folder that is reached over a link is uploaded, as are files; a link
// to a folder within is refused, not left out.
func TestPushLinks(t *testing.T) {
	h := newHub(t)
	dir := folder(t, map[string][]byte{"config.json": []byte("{}"), "sub/a.json": []byte("[1]")})
	to := filepath.Join(t.TempDir(), "to")
	if err := os.Symlink(dir, to); err != nil {
		t.Skip(err)
	}
	if err := os.Symlink(filepath.Join(dir, "config.json"), filepath.Join(dir, "b.json")); err != nil {
		t.Fatal(err)
	}
	out, err := pushing(t, h, to, "hf://org/a", PushOptions{})
	if err != nil || !slices.Equal(out.Uploaded, []string{"b.json", "config.json", "sub/a.json"}) || string(h.Files("org/a", "main")["b.json"]) != "{}" {
		t.Errorf("%+v, %v", out, err)
	}
	if err := os.Symlink(filepath.Join(dir, "sub"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if _, err := pushing(t, h, to, "hf://org/b", PushOptions{}); err == nil || !strings.Contains(err.Error(), "again: is a link to a folder") || fail.Code(err) != 3 || h.Files("org/b", "main") != nil {
		t.Error(err)
	}
}

// TestPushIgnored: nothing is committed where the repository ignores every file.
func TestPushIgnored(t *testing.T) {
	h := newHub(t)
	h.Fail = sending("/preupload/", `{"files":[{"path":"a.json","uploadMode":"regular","shouldIgnore":true}]}`)
	out, err := pushing(t, h, folder(t, map[string][]byte{"a.json": []byte("{}")}), "hf://org/a", PushOptions{})
	if err != nil || len(out.Uploaded) != 0 || out.Bytes != 0 || out.Commit != "" || !slices.Equal(out.Ignored, []string{"a.json"}) || count2(h.Requests(), "POST /api/models/org/a/commit") != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestPushOnePullRequest: a pull request whose answer broke off is not opened again.
func TestPushOnePullRequest(t *testing.T) {
	h := newHub(t)
	h.Put("org/a", nil)
	n := 0
	h.Fail = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/commit/") {
			return false
		}
		n++
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"commitOid":`)
		return true
	}
	_, err := pushing(t, h, folder(t, map[string][]byte{"a.json": []byte("{}")}), "hf://org/a", PushOptions{CreatePR: true})
	if n != 1 || err == nil || !strings.Contains(fail.Hint(err), "whether the pull request was opened") {
		t.Errorf("asked %d times: %v (hint %q)", n, err, fail.Hint(err))
	}
}

// TestPushFailing: errors that pass are tried again, a commit whose answer was lost is
// not made twice, and others name what was refused.
func TestPushFailing(t *testing.T) {
	h := newHub(t)
	h.PartSize = 1000
	dir := folder(t, map[string][]byte{"model.safetensors": weights(4500), "config.json": []byte("{}")})
	var n atomic.Int32
	h.Fail = func(w http.ResponseWriter, r *http.Request) bool { // every third request
		if n.Add(1)%3 == 1 {
			w.WriteHeader(503)
			return true
		}
		return false
	}
	if out, err := pushing(t, h, dir, "hf://org/a", PushOptions{}); err != nil || h.Files("org/a", "main")["config.json"] == nil {
		t.Errorf("%+v, %v", out, err)
	}
	lost := false
	h.Fail = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/commit/") && !lost { // is taken, and the answer lost
			lost = true
			h.Fail = nil
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		return false
	}
	out, err := pushing(t, h, dir, "hf://org/b", PushOptions{})
	if err != nil || out.Commit == "" || count2(h.Requests(), "POST /api/models/org/b/commit") != 2 { // the one request is logged twice
		t.Errorf("a lost answer: %+v, %v", out, err)
	}
	other := folder(t, map[string][]byte{"model.safetensors": weights(4400), "config.json": []byte("{}")})
	for name, c := range map[string]struct {
		ref, token, path string
		fail             func(w http.ResponseWriter, r *http.Request) bool
		want, hint       string
		code             int
	}{
		"no token":      {"hf://org/c", "", dir, nil, "needs a token", "/settings/tokens", 2},
		"wrong token":   {"hf://org/c", "wrong", dir, nil, "refused the token (401", "may write", 3},
		"no owner":      {"hf://name", h.Token, dir, nil, "no owner", "hf://NAME/name", 2},
		"a commit":      {"hf://org/c@" + commit, h.Token, dir, nil, "cannot be changed", "branch", 2},
		"no file":       {"hf://org/c", h.Token, t.TempDir(), nil, "no file", "", 3},
		"absent":        {"hf://org/c", h.Token, filepath.Join(dir, "none"), nil, "none", "", 3},
		"storage fails": {"hf://org/d", h.Token, other, failing("/storage/part/", 500), "500", "goes on", 3},
		"bad words":     {"hf://org/e", h.Token, dir, refusing("/commit/", `"base_model" is not valid`), "is not valid", "", 3},
		"elsewhere":     {"hf://org/f", h.Token, dir, sending("/objects/batch", `{"objects":[{"oid":"HASH","size":4500,"actions":{"upload":{"href":"http://example.org/x"}}}]}`), "refused", "", 3},
		"no such part":  {"hf://org/g", h.Token, dir, sending("/objects/batch", `{"objects":[{"oid":"HASH","size":4500,"actions":{"upload":{"href":"URL/x","header":{"chunk_size":"1000"}}}}]}`), "where part 1", "", 3},
		"a gap":         {"hf://org/g", h.Token, dir, sending("/objects/batch", parts("00001", "00003")), "where part 2", "", 3},
		"a part twice":  {"hf://org/g", h.Token, dir, sending("/objects/batch", parts("1", "00001")), "part 1", "", 3},
		"part too many": {"hf://org/g", h.Token, dir, sending("/objects/batch", parts("1", "2", "3", "4", "5", "6")), "6 addresses", "", 3},
		"no mode":       {"hf://org/h", h.Token, dir, sending("/preupload/", `{"files":[]}`), "does not say how to upload", "", 3},
		"too many":      {"hf://org/i", h.Token, dir, sending("/objects/batch", `{"objects":[{"oid":"HASH","size":4500,"error":{"code":422,"message":"over your quota"}}]}`), "over your quota", "", 3},
	} {
		h.Fail = c.fail
		o := PushOptions{Options: Options{Token: c.token, Wait: func(context.Context, time.Duration) bool { return true }}}
		_, err := Push(t.Context(), c.path, c.ref, o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(fail.Hint(err), c.hint) || fail.Code(err) != c.code || strings.Contains(err.Error(), h.Token) {
			t.Errorf("%s: %v (hint %q, exit %d)", name, err, fail.Hint(err), fail.Code(err))
		}
	}
	h.Fail = failing("/storage/part/", 500)
	if _, err := pushing(t, h, other, "hf://org/j", PushOptions{}); err == nil {
		t.Fatal("no error")
	}
	h.Fail = nil
	if out, err := pushing(t, h, other, "hf://org/j", PushOptions{}); err != nil || out.Created || len(out.Uploaded) != 2 {
		t.Errorf("again: %+v, %v", out, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	h.Fail = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/storage/") {
			stop() // before the answer
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
		return false
	}
	big := folder(t, map[string][]byte{"other.safetensors": append(weights(4500), 1)})
	if _, err := Push(ctx, big, "hf://org/k", PushOptions{Options: Options{Token: h.Token}}); fail.Code(err) != int(fail.Interrupted) {
		t.Errorf("stopped: %v", err)
	}
}

// parts is an answer that wants weights(4500) in parts of such names.
func parts(names ...string) string {
	list := ""
	for _, n := range names {
		list += fmt.Sprintf(`,"%s":"URL/x"`, n)
	}
	return `{"objects":[{"oid":"HASH","size":4500,"actions":{"upload":{"href":"URL/x","header":{"chunk_size":"1000"` + list + `}}}}]}`
}

func failing(at string, status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, at) {
			w.WriteHeader(status)
			return true
		}
		return false
	}
}

func refusing(at, words string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, at) {
			w.WriteHeader(400)
			fmt.Fprintf(w, `{"error":%q}`, words)
			return true
		}
		return false
	}
}

// sending answers with text, in which HASH is that of weights(4500).
func sending(at, text string) func(http.ResponseWriter, *http.Request) bool {
	f := file{Size: 4500, LFS: &struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	}{}}
	hash, _ := f.hash(func(b []byte, at int64) error { copy(b, weights(4500)[at:]); return nil })
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, at) {
			return false
		}
		fmt.Fprint(w, strings.NewReplacer("HASH", hash, "URL", "http://"+r.Host).Replace(text))
		return true
	}
}

// TestPrivateNotKept: where the server makes a public repository of one that was to be
// private, nothing is uploaded.
func TestPrivateNotKept(t *testing.T) {
	h := newHub(t)
	h.Fail = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/repos/create" {
			h.Put("org/p", nil)
			fmt.Fprint(w, "{}")
			return true
		}
		return false
	}
	_, err := pushing(t, h, folder(t, map[string][]byte{"a.json": []byte("{}")}), "hf://org/p", PushOptions{Private: true})
	if err == nil || !strings.Contains(err.Error(), "was to be private") || h.Files("org/p", "main")["a.json"] != nil {
		t.Error(err)
	}
}

// TestRealClient: Hugging Face's own client against the same server, so that the
// server is right: TUNEKIT_HF_PYTHON names a Python that has huggingface_hub.
func TestRealClient(t *testing.T) {
	python := os.Getenv("TUNEKIT_HF_PYTHON")
	if python == "" {
		t.Skip("TUNEKIT_HF_PYTHON names no Python with huggingface_hub")
	}
	for _, part := range []int{0, 1000} {
		h := newHub(t)
		h.PartSize = part
		dir := folder(t, map[string][]byte{"config.json": []byte(`{"from": "us"}`), "model.safetensors": weights(10_500), "sub/vocab.txt": []byte("a\nb\n")})
		if _, err := pushing(t, h, dir, "hf://org/ours", PushOptions{}); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(python, "testdata/client.py", h.URL, h.Token, dir)
		c.Env = append(os.Environ(), "HF_HUB_DISABLE_XET=1", "HF_TOKEN_PATH="+filepath.Join(t.TempDir(), "token"), "HF_HUB_DISABLE_TELEMETRY=1", "HF_HUB_DISABLE_PROGRESS_BARS=1")
		out, err := c.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := h.Files("org/ours", "main"), h.Files("org/theirs", "main")
		if len(ours) != 4 || !reflect.DeepEqual(ours, theirs) {
			t.Errorf("%d files of ours, %d of theirs", len(ours), len(theirs))
		}
		if out, err := pushing(t, h, dir, "hf://org/theirs", PushOptions{}); err != nil || len(out.Uploaded) > 0 {
			t.Errorf("what their client uploaded is sent again: %+v, %v", out, err)
		}
	}
}
