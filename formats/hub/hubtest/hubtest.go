// Package hubtest is a hub in memory for tests: it speaks the parts of the Hugging
// Face Hub's protocol that uploads and downloads of models use, and can be told to
// fail. cmd/tune/interop runs huggingface_hub against it.
package hubtest

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Hub is a server with repositories of models, and one for the content of large files.
type Hub struct {
	*httptest.Server
	content   *httptest.Server
	Token     string // what may write; reading needs none but for private repositories
	PartSize  int    // larger objects are uploaded in parts of so many bytes; 0: never
	PlainPart bool   // parts are called 1, 2, not 00001, 00002
	LargeFrom int    // bytes from which any file is a large one; 0: 10 MB

	// Fail, where not nil, answers a request in place of the hub by returning true.
	Fail func(w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	repos   map[string]*repo
	large   map[string][]byte // by SHA-256
	parts   map[string]map[int][]byte
	log     []string
	commits int
}

// repo is one repository: the files of each branch.
type repo struct {
	private  bool
	branches map[string]*tree
	commits  map[string]*tree
	pulls    int
}

type tree struct {
	id    string
	files map[string]entry
}

type entry struct {
	data []byte
	lfs  bool
}

// New starts a hub.
func New() *Hub {
	h := &Hub{Token: "hf_secret", repos: map[string]*repo{}, large: map[string][]byte{}, parts: map[string]map[int][]byte{}}
	h.Server, h.content = httptest.NewServer(h), httptest.NewServer(h)
	return h
}

// Close ends both servers.
func (h *Hub) Close() {
	h.Server.Close()
	h.content.Close()
}

// Requests lists what was asked, "POST /api/repos/create", and forgets it.
func (h *Hub) Requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.log
	h.log = nil
	return out
}

// Put makes a repository with files, as if someone had pushed them.
func (h *Hub) Put(name string, files map[string][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.create(name, false)
	t := r.branches["main"].clone()
	for path, data := range files {
		t.files[path] = entry{data, h.isLarge(path, len(data), data)}
		if t.files[path].lfs {
			h.large[sha256hex(data)] = data
		}
	}
	h.commit(r, "main", t)
}

// Files are those of a branch; nil where there is none.
func (h *Hub) Files(name, branch string) map[string][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[name]
	if r == nil || r.branches[branch] == nil {
		return nil
	}
	out := map[string][]byte{}
	for p, e := range r.branches[branch].files {
		out[p] = e.data
	}
	return out
}

// Private tells whether a repository is.
func (h *Hub) Private(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repos[name] != nil && h.repos[name].private
}

func (h *Hub) create(name string, private bool) *repo {
	r := &repo{private: private, branches: map[string]*tree{}, commits: map[string]*tree{}}
	h.repos[name] = r
	h.commit(r, "main", &tree{files: map[string]entry{".gitattributes": {data: []byte("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}}})
	return r
}

func (t *tree) clone() *tree {
	n := &tree{files: map[string]entry{}}
	for k, v := range t.files {
		n.files[k] = v
	}
	return n
}

func (h *Hub) commit(r *repo, branch string, t *tree) {
	h.commits++
	sum := sha1.Sum(fmt.Appendf(nil, "commit %d", h.commits))
	t.id = hex.EncodeToString(sum[:])
	r.branches[branch], r.commits[t.id] = t, t
}

func (r *repo) at(revision string) *tree {
	if t := r.branches[revision]; t != nil {
		return t
	}
	return r.commits[revision]
}

// isLarge is what .gitattributes of the hub say, and sizes.
func (h *Hub) isLarge(name string, size int, sample []byte) bool {
	from := h.LargeFrom
	if from == 0 {
		from = 10_000_000
	}
	known := []string{".safetensors", ".bin", ".gguf", ".parquet", ".arrow", ".model", ".gz", ".zip", ".pt", ".npz"}
	return size >= from || slices.Contains(known, path.Ext(name)) || bytes.IndexByte(sample, 0) >= 0
}

func sha256hex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// gitHash is the name that git has for a file's content.
func gitHash(b []byte) string {
	s := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...))
	return hex.EncodeToString(s[:])
}

var (
	modelAPI = regexp.MustCompile(`^/api/models/([^/]+/[^/]+?)(?:/(revision|preupload|commit|branch|tree)/(.+?))?$`)
	lfsAPI   = regexp.MustCompile(`^/([^/]+/[^/]+)\.git/info/lfs/objects/(batch|verify)$`)
	resolve  = regexp.MustCompile(`^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$`)
)

type object = map[string]any

// ServeHTTP answers as the hub does.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.log = append(h.log, r.Method+" "+r.URL.Path)
	h.mu.Unlock()
	if h.Fail != nil && h.Fail(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	signed := r.Header.Get("Authorization") == "Bearer "+h.Token
	at := r.URL.EscapedPath()
	switch {
	case strings.HasPrefix(at, "/storage/"):
		h.storage(w, r, body)
	case at == "/api/whoami-v2":
		if !signed {
			deny(w, 401, "", "Invalid username or password.")
			return
		}
		answer(w, object{"name": "org", "type": "user", "orgs": []any{}})
	case at == "/api/validate-yaml":
		answer(w, object{"errors": []any{}, "warnings": []any{}})
	case at == "/api/repos/create":
		h.createRepo(w, body, signed)
	case lfsAPI.MatchString(at):
		m := lfsAPI.FindStringSubmatch(at)
		if h.repos[m[1]] == nil || !signed {
			deny(w, 401, "", "Invalid username or password.")
			return
		}
		h.lfs(w, m[1], m[2], body)
	case modelAPI.MatchString(at):
		m := modelAPI.FindStringSubmatch(at)
		h.model(w, r, m[1], m[2], unescape(m[3]), body, signed)
	case resolve.MatchString(at):
		m := resolve.FindStringSubmatch(at)
		h.download(w, r, m[1], unescape(m[2]), unescape(m[3]), signed)
	default:
		deny(w, 404, "", "Not found")
	}
}

func unescape(s string) string {
	return strings.NewReplacer("%2F", "/", "%20", " ", "%23", "#").Replace(s)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// deny answers with an error as the hub does: a code in a header, words in JSON.
func deny(w http.ResponseWriter, status int, code, words string) {
	w.Header().Set("Content-Type", "application/json")
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", words)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(object{"error": words})
}

func (h *Hub) createRepo(w http.ResponseWriter, body []byte, signed bool) {
	var q struct {
		Name, Organization, Type, Visibility string
		Private                              bool
	}
	if !signed {
		deny(w, 401, "", "Invalid username or password.")
		return
	}
	if err := json.Unmarshal(body, &q); err != nil || q.Name == "" || q.Type != "" && q.Type != "model" {
		deny(w, 400, "", "bad request")
		return
	}
	if q.Organization == "" {
		q.Organization = "org"
	}
	name := q.Organization + "/" + q.Name
	url := h.URL + "/" + name
	if h.repos[name] != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(409)
		_ = json.NewEncoder(w).Encode(object{"error": "You already created this model repo", "url": url})
		return
	}
	h.create(name, q.Private || q.Visibility == "private")
	answer(w, object{"url": url, "name": name, "id": "1"})
}

func (h *Hub) model(w http.ResponseWriter, r *http.Request, name, what, revision string, body []byte, signed bool) {
	rep := h.repos[name]
	if rep == nil || rep.private && !signed {
		deny(w, 404, "RepoNotFound", "Repository not found")
		return
	}
	if what != "" && what != "revision" && what != "tree" && !signed {
		deny(w, 403, "", "You don't have the required permissions")
		return
	}
	if what == "branch" {
		if rep.branches[revision] != nil {
			deny(w, 409, "", "Reference already exists")
			return
		}
		rep.branches[revision] = rep.branches["main"]
		answer(w, object{"success": true})
		return
	}
	if revision == "" {
		revision = "main"
	}
	if what == "tree" {
		revision, _, _ = strings.Cut(revision, "/")
	}
	t := rep.at(revision)
	if t == nil {
		deny(w, 404, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	switch what {
	case "", "revision":
		h.info(w, name, rep, t)
	case "tree":
		var list []object
		for _, p := range t.names() {
			list = append(list, t.describe(p))
		}
		answer(w, list)
	case "preupload":
		h.preupload(w, t, body)
	case "commit":
		h.take(w, r, name, rep, revision, t, body)
	}
}

func (t *tree) names() (out []string) {
	for p := range t.files {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// oid is the hash of what git keeps of a file: of a large one its pointer.
func (e entry) oid() string {
	if !e.lfs {
		return gitHash(e.data)
	}
	return gitHash(fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", sha256hex(e.data), len(e.data)))
}

func (t *tree) describe(p string) object {
	e := t.files[p]
	o := object{"type": "file", "path": p, "rfilename": p, "size": len(e.data), "oid": e.oid(), "blobId": e.oid()}
	if e.lfs {
		o["lfs"] = object{"sha256": sha256hex(e.data), "oid": sha256hex(e.data), "size": len(e.data), "pointerSize": 134}
	}
	return o
}

func (h *Hub) info(w http.ResponseWriter, name string, r *repo, t *tree) {
	files := []object{}
	for _, p := range t.names() {
		files = append(files, t.describe(p))
	}
	answer(w, object{"_id": "1", "id": name, "modelId": name, "private": r.private, "sha": t.id, "siblings": files, "downloads": 0, "likes": 0, "tags": []string{}})
}

func (h *Hub) preupload(w http.ResponseWriter, t *tree, body []byte) {
	var q struct {
		Files []struct {
			Path   string
			Size   int
			Sample []byte // base64
		}
	}
	if err := json.Unmarshal(body, &q); err != nil {
		deny(w, 400, "", err.Error())
		return
	}
	files := []object{}
	for _, f := range q.Files {
		o := object{"path": f.Path, "uploadMode": "regular", "shouldIgnore": false}
		if h.isLarge(f.Path, f.Size, f.Sample) {
			o["uploadMode"] = "lfs"
		}
		if e, ok := t.files[f.Path]; ok {
			if o["oid"] = e.oid(); e.lfs {
				o["oid"] = sha256hex(e.data)
			}
		}
		files = append(files, o)
	}
	answer(w, object{"files": files})
}

func (h *Hub) lfs(w http.ResponseWriter, name, what string, body []byte) {
	type oid struct {
		OID  string
		Size int
	}
	if what == "verify" {
		var q oid
		if json.Unmarshal(body, &q); len(h.large[q.OID]) != q.Size {
			deny(w, 404, "", "no such object")
			return
		}
		answer(w, object{})
		return
	}
	var q struct {
		Operation string
		Objects   []oid
		HashAlgo  string `json:"hash_algo"`
	}
	if err := json.Unmarshal(body, &q); err != nil || q.Operation != "upload" || q.HashAlgo != "sha256" {
		deny(w, 400, "", "bad batch")
		return
	}
	objects := []object{}
	for _, o := range q.Objects {
		one := object{"oid": o.OID, "size": o.Size}
		if _, ok := h.large[o.OID]; !ok {
			up := object{"href": h.content.URL + "/storage/" + o.OID}
			if h.PartSize > 0 && o.Size > h.PartSize {
				id := fmt.Sprintf("%s-%d", o.OID, len(h.parts))
				h.parts[id] = map[int][]byte{}
				header := object{"chunk_size": strconv.Itoa(h.PartSize)}
				for n := 1; (n-1)*h.PartSize < o.Size; n++ {
					name := fmt.Sprintf("%05d", n)
					if h.PlainPart {
						name = strconv.Itoa(n)
					}
					header[name] = fmt.Sprintf("%s/storage/part/%s?partNumber=%d", h.content.URL, id, n)
				}
				up = object{"href": h.URL + "/storage/complete/" + id, "header": header}
			}
			one["actions"] = object{"upload": up, "verify": object{"href": h.URL + "/" + name + ".git/info/lfs/objects/verify"}}
		}
		objects = append(objects, one)
	}
	answer(w, object{"transfer": "basic", "objects": objects})
}

// storage is the content server, which wants no token: its addresses are signed.
func (h *Hub) storage(w http.ResponseWriter, r *http.Request, body []byte) {
	kind, id, two := strings.Cut(strings.TrimPrefix(r.URL.Path, "/storage/"), "/")
	switch {
	case r.Header.Get("Authorization") != "" && kind != "complete":
		deny(w, 400, "", "Only one auth mechanism allowed") // as S3 does
	case !two && r.Method == "PUT":
		if sha256hex(body) != kind {
			deny(w, 400, "", "content has another hash")
			return
		}
		h.large[kind] = body
	case !two:
		data, ok := h.large[kind]
		if !ok {
			deny(w, 404, "", "no such object")
			return
		}
		w.Header().Set("ETag", `"`+kind+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	case kind == "part" && h.parts[id] != nil:
		n, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
		h.parts[id][n] = body
		w.Header().Set("ETag", fmt.Sprintf("%q", gitHash(body)))
	case kind == "complete" && h.parts[id] != nil:
		h.complete(w, id, body)
	default:
		deny(w, 404, "", "no such upload")
	}
}

func (h *Hub) complete(w http.ResponseWriter, id string, body []byte) {
	var q struct {
		OID   string
		Parts []struct {
			PartNumber int
			ETag       string
		}
	}
	var data []byte
	err := json.Unmarshal(body, &q)
	for i, p := range q.Parts {
		part := h.parts[id][p.PartNumber]
		if p.PartNumber != i+1 || p.ETag != fmt.Sprintf("%q", gitHash(part)) {
			err = fmt.Errorf("part %d is not the one that was sent", i+1)
		}
		data = append(data, part...)
	}
	if err != nil || sha256hex(data) != q.OID {
		deny(w, 400, "", fmt.Sprint("parts do not make the object: ", err))
		return
	}
	h.large[q.OID] = data
	answer(w, object{"success": true})
}

// take adds a commit to a branch, or opens a pull request with it.
func (h *Hub) take(w http.ResponseWriter, r *http.Request, name string, rep *repo, revision string, t *tree, body []byte) {
	next := t.clone()
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 1<<30)
	for first := true; lines.Scan(); first = false {
		var op struct {
			Key   string
			Value struct{ Summary, Path, Content, Encoding, OID, Algo string }
		}
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil || first != (op.Key == "header") || first && op.Value.Summary == "" {
			deny(w, 400, "", fmt.Sprint("bad line of a commit: ", err))
			return
		}
		switch op.Key {
		case "header":
		case "file":
			data, err := base64.StdEncoding.DecodeString(op.Value.Content)
			if err != nil || op.Value.Encoding != "base64" || h.isLarge(op.Value.Path, len(data), data) {
				deny(w, 400, "", "file "+op.Value.Path+" must be a large one, in base64 it is not")
				return
			}
			next.files[op.Value.Path] = entry{data: data}
		case "lfsFile":
			data, ok := h.large[op.Value.OID]
			if !ok || op.Value.Algo != "sha256" {
				deny(w, 400, "", "large file "+op.Value.Path+" was not uploaded")
				return
			}
			next.files[op.Value.Path] = entry{data, true}
		case "deletedFile":
			delete(next.files, op.Value.Path)
		default:
			deny(w, 400, "", "unknown operation "+op.Key)
			return
		}
	}
	out := object{"success": true}
	if r.URL.Query().Get("create_pr") == "1" {
		rep.pulls++
		revision = fmt.Sprintf("refs/pr/%d", rep.pulls)
		out["pullRequestUrl"] = fmt.Sprintf("%s/%s/discussions/%d", h.URL, name, rep.pulls)
	}
	h.commit(rep, revision, next)
	out["commitOid"], out["commitUrl"] = next.id, h.URL+"/"+name+"/commit/"+next.id
	answer(w, out)
}

func (h *Hub) download(w http.ResponseWriter, r *http.Request, name, revision, p string, signed bool) {
	rep := h.repos[name]
	if rep == nil || rep.private && !signed {
		deny(w, 404, "RepoNotFound", "Repository not found")
		return
	}
	t := rep.at(revision)
	if t == nil {
		deny(w, 404, "RevisionNotFound", "Invalid rev id")
		return
	}
	e, ok := t.files[p]
	if !ok {
		deny(w, 404, "EntryNotFound", "Entry not found")
		return
	}
	w.Header().Set("X-Repo-Commit", t.id)
	if e.lfs {
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(e.data)))
		w.Header().Set("X-Linked-Etag", `"`+sha256hex(e.data)+`"`)
		http.Redirect(w, r, h.content.URL+"/storage/"+sha256hex(e.data), http.StatusFound)
		return
	}
	w.Header().Set("ETag", `"`+e.oid()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(e.data))
}
