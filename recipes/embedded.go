package recipes

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// The recipes that ship with the program: `tune run quickstart` runs one.
//
//go:embed *.yaml
var yamls embed.FS

// The data that embedded recipes need: the model pocket and its task.
//
//go:embed pocket/model pocket/*.parquet
var assets embed.FS

// embeddedPrefix marks a path inside the program.
const embeddedPrefix = "embedded:"

// IsEmbedded reports whether a path lies inside the program.
func IsEmbedded(path string) bool { return strings.HasPrefix(path, embeddedPrefix) }

// unpack puts an embedded file or folder into the user's cache, under a name
// made from its content, and returns its path.
func unpack(name string) (string, error) {
	root, err := os.UserCacheDir()
	if err != nil {
		root = os.TempDir()
	}
	files := map[string][]byte{}
	err = fs.WalkDir(assets, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[strings.TrimPrefix(strings.TrimPrefix(p, name), "/")], err = assets.ReadFile(p)
		return err
	})
	if err != nil {
		return "", fail.Usagef(embeddedPrefix+name, "tune init --list shows what is embedded", "no such embedded file")
	}
	h := sha256.New()
	for _, f := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s %d\n", f, len(files[f]))
		h.Write(files[f])
	}
	dir := filepath.Join(root, "tunekit", "embedded", hex.EncodeToString(h.Sum(nil))[:16])
	path := filepath.Join(dir, filepath.Base(name))
	if unpacked(path, files) {
		return path, nil
	}
	if err := atomic.MkdirAll(dir); err != nil {
		return "", fail.Limitf(dir, "", "%w", err)
	}
	if raw, ok := files[""]; ok {
		return path, atomic.WriteFile(path, raw)
	}
	if exists(path) && !unpacked(path, files) { // damaged, or another user's where the cache is a shared folder
		if err := atomic.RemoveAll(path); err != nil {
			return "", fail.Limitf(path, "remove it, or set XDG_CACHE_HOME", "it does not hold what the program unpacks there: %w", err)
		}
	}
	if err := writeFolder(path, files); err != nil && !unpacked(path, files) { // another process may have been first
		return "", err
	}
	return path, nil
}

// unpacked reports whether path holds these files, and nothing else.
func unpacked(path string, files map[string][]byte) bool {
	if raw, ok := files[""]; ok {
		return holds(path, raw)
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != len(files) {
		return false
	}
	for name, raw := range files {
		if !holds(filepath.Join(path, name), raw) {
			return false
		}
	}
	return true
}

func holds(path string, raw []byte) bool {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Size() != int64(len(raw)) {
		return false
	}
	got, err := os.ReadFile(path)
	return err == nil && bytes.Equal(got, raw)
}

// EmbeddedRecipe is a recipe that needs no file.
type EmbeddedRecipe struct{ Name, Doc string }

// Embedded lists them with the first line of their comment.
func Embedded() []EmbeddedRecipe {
	var out []EmbeddedRecipe
	files, _ := yamls.ReadDir(".")
	for _, f := range files {
		raw, _ := yamls.ReadFile(f.Name())
		first, _, _ := strings.Cut(string(raw), "\n")
		out = append(out, EmbeddedRecipe{strings.TrimSuffix(f.Name(), ".yaml"), strings.TrimPrefix(first, "# ")})
	}
	return slices.Clip(out)
}

// EmbeddedText is an embedded recipe as it is written.
func EmbeddedText(name string) (string, error) {
	raw, err := yamls.ReadFile(name + ".yaml")
	if err != nil {
		var known []string
		for _, e := range Embedded() {
			known = append(known, e.Name)
		}
		return "", fail.Usagef("--copy", "known: "+strings.Join(known, ", "), "no recipe %q in the program", name)
	}
	return string(raw), nil
}

// writeFolder writes small files as a folder that appears whole.
func writeFolder(path string, files map[string][]byte) error {
	f, err := atomic.Dir(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := f.WriteFile(name, files[name]); err != nil {
			return err
		}
	}
	return f.Commit()
}
