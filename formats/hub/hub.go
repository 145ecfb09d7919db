// Package hub finds models in the local Hugging Face cache, fetches them into it, and
// uploads. It is the only package that dials. Nothing but Pull and Push uses the network.
package hub

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Scheme begins every reference to a model of the hub.
const Scheme = "hf://"

// Ref names a revision of a model repository.
type Ref struct {
	Repo     string // "org/name", or "name" for very old models
	Revision string // branch, tag or commit; "main" when the reference has none
}

func (r Ref) String() string { return Scheme + r.Repo + "@" + r.Revision }

// Pinned reports whether the revision is a commit, whose files cannot change.
func (r Ref) Pinned() bool { return isCommit.MatchString(r.Revision) }

var (
	isCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)
	isRepo   = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	isRev    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)
)

// IsRef reports whether a model argument names the hub and not a path.
func IsRef(s string) bool { return strings.HasPrefix(s, Scheme) }

// Parse reads hf://org/name or hf://org/name@revision.
func Parse(s string) (Ref, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	repo, rev, at := strings.Cut(rest, "@")
	if !at {
		rev = "main"
	}
	if !ok || !isRepo.MatchString(repo) || !isRev.MatchString(rev) || len(rev) > 200 ||
		strings.Contains(repo, "..") || strings.Contains(repo, "--") || strings.Contains(rev, "..") {
		return Ref{}, fail.Usagef(s, "write hf://org/name@revision", "this is no reference to a model")
	}
	return Ref{repo, rev}, nil
}

// CacheDir is the folder of the Hugging Face cache: HF_HUB_CACHE, else hub in
// HF_HOME, else in ~/.cache/huggingface.
func CacheDir() (string, error) {
	if d := os.Getenv("HF_HUB_CACHE"); d != "" {
		return d, nil
	}
	home, err := hfHome()
	return filepath.Join(home, "hub"), err
}

func hfHome() (string, error) {
	if d := os.Getenv("HF_HOME"); d != "" {
		return d, nil
	}
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "huggingface"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fail.Inputf("hf://", "set HF_HOME", "no home folder, so no Hugging Face cache: %w", err)
	}
	return filepath.Join(home, ".cache", "huggingface"), nil
}

// repoDir is a repository's folder in the cache.
func repoDir(cache string, r Ref) string {
	return filepath.Join(cache, "models--"+strings.ReplaceAll(r.Repo, "/", "--"))
}

// Resolve finds a reference in the local cache and returns the folder with its
// files and the commit. It never uses the network. Links within the cache's
// folder of the repository are the normal layout; others are refused.
func Resolve(ref string) (dir, commit string, err error) {
	r, repo, err := cached(ref)
	if err != nil {
		return "", "", err
	}
	return resolve(repo, r)
}

// cached is the folder that the cache has for a repository.
func cached(ref string) (r Ref, repo string, err error) {
	if r, err = Parse(ref); err != nil {
		return r, "", err
	}
	cache, err := CacheDir()
	return r, repoDir(cache, r), err
}

// resolve finds a revision in a repository's folder.
func resolve(repo string, r Ref) (dir, commit string, err error) {
	absent := fail.Inputf(r.String(), "tune pull "+r.String(), "not in the local cache (%s)", filepath.Dir(repo))
	commit = r.Revision
	if !r.Pinned() {
		b, err := os.ReadFile(filepath.Join(repo, "refs", filepath.FromSlash(r.Revision)))
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", absent
		}
		if err != nil {
			return "", "", fail.Inputf(repo, "", "reading the revision %s: %w", r.Revision, err)
		}
		if commit = strings.TrimSpace(string(b)); !isCommit.MatchString(commit) {
			return "", "", fail.Inputf(repo, "tune pull "+r.String(), "refs/%s holds %.60q, which is no commit", r.Revision, commit)
		}
	}
	dir = filepath.Join(repo, "snapshots", commit)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", "", absent
	}
	return dir, commit, contained(repo, dir, r)
}

// contained checks that every file of a snapshot is there and lies in the
// repository's folder.
func contained(repo, dir string, r Ref) error {
	root, err := filepath.EvalSymlinks(repo)
	if err != nil {
		return fail.Inputf(repo, "", "%w", err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return fail.Inputf(path, "tune pull "+r.String()+" fetches it again", "the cache is incomplete: %w", err)
		}
		if rel, err := filepath.Rel(root, real); err != nil || !filepath.IsLocal(rel) {
			return fail.Inputf(path, "remove the link", "it leads out of the cache's folder of this model")
		}
		return nil
	})
	if err == nil && files == 0 {
		err = fail.Inputf(dir, "tune pull "+r.String(), "the cache holds no file of this revision")
	}
	return err
}

// safeName reports whether a file name of a repository can be used below a
// folder, under the rules of every system.
func safeName(name string) bool {
	if name == "" || len(name) > 1024 {
		return false
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || reserved(part) {
			return false
		}
		for _, c := range part {
			if c < 0x20 || c == 0x7f || strings.ContainsRune(`\:*?"<>|%`, c) || c == '\u2215' || c == '\u2044' || c == '\ufffd' {
				return false
			}
		}
		if last := part[len(part)-1]; last == '.' || last == ' ' {
			return false
		}
	}
	return filepath.IsLocal(filepath.FromSlash(name))
}

// reserved reports the device names of Windows.
func reserved(part string) bool {
	base, _, _ := strings.Cut(strings.ToUpper(part), ".")
	switch base {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(base) == 4 && (strings.HasPrefix(base, "COM") || strings.HasPrefix(base, "LPT")) && base[3] >= '0' && base[3] <= '9'
}

// links reports whether snapshots are made of symbolic links here.
func links() bool { return runtime.GOOS != "windows" }
