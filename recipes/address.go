package recipes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats"
)

// Digest is a sha256 in hexadecimal.
type Digest string

// addressOf is the content address of a stage: what it does, with which
// options, on which inputs, at which kernel level. Threads, limits, names and
// paths are not in it.
func addressOf(kind string, options any, inputs map[string]Digest, env map[string]string) Digest {
	raw, err := yaml.Marshal(struct { // the form the options are written in; maps are sorted
		Version string
		Kind    string
		Options any
		Inputs  map[string]Digest
		Env     map[string]string
	}{Version, kind, options, inputs, env})
	if err != nil {
		panic(err) // plain structs of plain fields
	}
	sum := sha256.Sum256(raw)
	return Digest(hex.EncodeToString(sum[:]))
}

// hashes remembers the content hash of files by path, size, time and inode,
// so that a large model is read once.
type hashes struct {
	file string
	Seen map[string]seenFile
}

type seenFile struct {
	Size, MTime int64
	Inode       uint64
	SHA256      Digest
}

func loadHashes(file string) *hashes {
	h := &hashes{file: file, Seen: map[string]seenFile{}}
	if data, err := os.ReadFile(file); err == nil {
		if json.Unmarshal(data, &h.Seen) != nil {
			h.Seen = map[string]seenFile{}
		}
	}
	return h
}

func identity(path string) (seenFile, error) {
	st, err := os.Stat(path)
	if err != nil {
		return seenFile{}, err
	}
	return seenFile{Size: st.Size(), MTime: st.ModTime().UnixNano(), Inode: inode(st)}, nil
}

// sum is the sha256 of one file.
func (h *hashes) sum(path string) (Digest, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	id, err := identity(path)
	if err != nil {
		return "", err
	}
	if old, ok := h.Seen[abs]; ok && old.Size == id.Size && old.MTime == id.MTime && old.Inode == id.Inode {
		return old.SHA256, nil
	}
	sum, err := formats.HashFile(context.Background(), path)
	if err != nil {
		return "", err
	}
	id.SHA256 = Digest(sum)
	h.Seen[abs] = id
	return id.SHA256, nil
}

// tree is the hash of a file, of the parts of a GGUF, or of a folder's files by relative name.
// Hidden entries and skip are left out.
func (h *hashes) tree(path string, skip ...string) (Digest, error) {
	files, err := h.files(path, skip...)
	if err != nil {
		return "", err
	}
	for _, part := range formats.Parts(path)[1:] {
		sum, err := h.sum(part)
		if err != nil {
			return "", err
		}
		files = append(files, FileHash{Path: filepath.Base(part), SHA256: sum})
	}
	if len(files) == 1 && files[0].Path == "." {
		return files[0].SHA256, nil
	}
	w := sha256.New()
	for _, f := range files {
		fmt.Fprintf(w, "%s  %s\n", f.SHA256, f.Path)
	}
	return Digest(hex.EncodeToString(w.Sum(nil))), nil
}

// FileHash is one file of an artifact.
type FileHash struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// files lists the files below path, sorted by name.
func (h *hashes) files(path string, skip ...string) ([]FileHash, error) {
	var out []FileHash
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a walk does not follow the link it begins at
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(path, p)
		if rel != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains(skip, d.Name())) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		st, err := os.Stat(p) // follows links, as caches of models use them
		if err != nil || st.IsDir() {
			return err
		}
		sum, err := h.sum(p)
		if err == nil {
			out = append(out, FileHash{filepath.ToSlash(rel), st.Size(), sum})
		}
		return err
	})
	slices.SortFunc(out, func(a, b FileHash) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}
