package recipes

import (
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
	if exists(path) {
		return path, nil
	}
	if err := atomic.MkdirAll(dir); err != nil {
		return "", fail.Limitf(dir, "", "%w", err)
	}
	if raw, ok := files[""]; ok {
		return path, atomic.WriteFile(path, raw)
	}
	return path, writeFolder(path, files)
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
