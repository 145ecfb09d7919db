package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

const (
	firstHead = 256 << 10 // bytes of a file of weights that are asked for at first
	maxBeside = 16 << 20  // larger files beside the weights say nothing of shapes
)

// headersDir is where a repository's folder in the cache keeps what Pull fetched with
// Options.Header. It is laid out as the repository's own, and other programs, which
// could not read such files, do not look there.
func headersDir(repo string) string { return filepath.Join(repo, "headers") }

// ResolveHeaders is Resolve for those who read no values: where the cache has no whole
// files of the revision, it may have their headers.
func ResolveHeaders(ref string) (dir, commit string, err error) {
	r, repo, err := cached(ref)
	if err != nil {
		return "", "", err
	}
	if dir, commit, err = resolve(repo, r); err == nil {
		return dir, commit, nil
	}
	var known *fail.Error
	if dir, commit, other := resolve(headersDir(repo), r); other == nil {
		return dir, commit, nil
	} else if errors.As(err, &known) {
		known.Hint += "; its headers alone: tune pull --header " + r.String()
	}
	return "", "", err
}

// hasHeader reports files of weights whose beginning says what is in them.
func hasHeader(name string) bool {
	return strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(strings.ToLower(name), ".gguf")
}

// share is what a file counts for in the progress: what is fetched of it, of a header a
// guess.
func (p *puller) share(f *file) int64 {
	if p.o.Header != nil && hasHeader(f.Name) {
		return min(f.Size, firstHead)
	}
	return f.Size
}

// header fetches the beginning of a file of weights.
func (p *puller) header(ctx context.Context, repo, commit string, f *file) error {
	path := filepath.Join(repo, "snapshots", commit, filepath.FromSlash(f.Name))
	if err := atomic.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	ref := Ref{p.ref.Repo, commit}.String()
	var head []byte
	for need := min(f.Size, firstHead); ; {
		err := p.try(ctx, func() (err error) {
			head, err = p.more(ctx, commit, f, head, need)
			return err
		})
		if err != nil {
			return err
		}
		content, next, err := p.o.Header(f.Name, head, f.Size, ref)
		if err != nil {
			return err
		}
		if content != nil {
			p.progress(p.share(f))
			return atomic.WriteFile(path, content)
		}
		if next <= need || next > f.Size {
			return fail.Inputf(p.ref.String(), "", "file %s has no header within its %d bytes", f.Name, f.Size)
		}
		need = next
	}
}

// more asks for the bytes of a file up to need, of which head is there.
func (p *puller) more(ctx context.Context, commit string, f *file, head []byte, need int64) ([]byte, error) {
	if need == int64(len(head)) { // an empty file
		return head, nil
	}
	header := http.Header{"Accept-Encoding": {"identity"}, "Range": {fmt.Sprintf("bytes=%d-%d", len(head), need-1)}}
	resp, err := p.do(ctx, request{method: http.MethodGet, url: p.url(p.file(commit, f)...), header: header})
	if err != nil {
		return head, err
	}
	defer resp.Body.Close()
	at, err := p.start(resp, int64(len(head)), f)
	if err != nil {
		return head, err
	}
	out := append(make([]byte, 0, need), head[:at]...) // at is 0 of a server without ranges
	out = out[:need]
	if _, err := io.ReadFull(resp.Body, out[at:]); err != nil {
		return head, retry{error: fmt.Errorf("file %s ended before %d of %d bytes: %w", f.Name, need, f.Size, err)}
	}
	return out, nil
}

// file is the path of a file at the endpoint.
func (p *puller) file(commit string, f *file) []string {
	return append([]string{p.ref.Repo, "resolve", commit}, strings.Split(f.Name, "/")...)
}
