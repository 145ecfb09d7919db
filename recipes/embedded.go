package recipes

import (
	"embed"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The recipes that ship with the program: `tune run quickstart` runs one.
//
//go:embed *.yaml
var yamls embed.FS

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

// Open reads a recipe: a file, or an embedded one by its name.
func Open(name string, sets []string) (*Recipe, error) {
	if _, err := os.Stat(name); err != nil && filepath.Ext(name) == "" {
		if data, err := yamls.ReadFile(name + ".yaml"); err == nil {
			return Parse(name, data, sets)
		}
	}
	return Load(name, sets)
}

// OnlyModelIn is path itself, or the only GGUF in a folder of them.
func OnlyModelIn(path string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(path, "*.gguf"))
	if len(files) == 1 && !exists(filepath.Join(path, "config.json")) {
		return files[0], nil
	}
	return path, nil
}
