package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	// Header, where not nil, makes Pull fetch only the beginning of files of weights. It
	// is given the beginning of one of size bytes, and returns what is kept of it, or how
	// many bytes it needs (formats.HeaderFile).
	Header   func(name string, head []byte, size int64, ref string) (file []byte, need int64, err error)
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
	if p.o.Header != nil {
		repo = headersDir(repo)
	}
	for i := range files {
		if p.o.Header != nil && hasHeader(files[i].Name) {
			err = p.header(ctx, repo, commit, &files[i])
		} else {
			err = p.fetch(ctx, repo, commit, &files[i])
		}
		if err != nil {
			return "", "", err
		}
	}
	if !r.Pinned() {
		ref := filepath.Join(repo, "refs", filepath.FromSlash(r.Revision))
		if err := errors.Join(atomic.MkdirAll(filepath.Dir(ref)), atomic.WriteFile(ref, []byte(commit))); err != nil {
			return "", "", err
		}
	}
	return resolve(repo, r)
}

// puller is one run of Pull.
type puller struct {
	*client
	chunk int64 // bytes between two records of progress
}

func newPuller(r Ref, o Options) (*puller, error) {
	c, err := newClient(r, o)
	return &puller{c, chunkSize}, err
}

// list asks for the commit and the files of the revision to fetch.
func (p *puller) list(ctx context.Context) (commit string, files []file, err error) {
	commit, all, err := p.listing(ctx, p.ref.Revision)
	if err != nil {
		return "", nil, err
	}
	files, err = p.choose(all)
	return commit, files, err
}

var isHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// choose keeps the files to fetch and checks what the server says of them.
func (p *puller) choose(all []file) ([]file, error) {
	if len(all) > maxFiles {
		return nil, fail.Limitf(p.ref.String(), "", "the repository has %d files, allowed are %d", len(all), maxFiles)
	}
	seen := map[string]string{}
	others := othersThan(all)
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
		if p.o.Header != nil {
			if pickle(f.Name) || !hasHeader(f.Name) && f.Size > maxBeside {
				continue
			}
		}
		p.total += p.share(&f)
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

// othersThan reports whether a repository has other weights than PyTorch's in the folder
// where those lie, the top one: safetensors, or a GGUF where no folder of weights is.
func othersThan(all []file) bool {
	top := func(match func(name string) bool) bool {
		return slices.ContainsFunc(all, func(f file) bool { return !strings.Contains(f.Name, "/") && match(f.Name) })
	}
	return top(func(n string) bool { return strings.HasSuffix(n, ".safetensors") }) ||
		top(func(n string) bool { return strings.HasSuffix(n, ".gguf") }) && !top(func(n string) bool { return n == "config.json" || n == "adapter_config.json" })
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
	resp, err := p.get(ctx, at, p.file(commit, f)...)
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
