package recipes

import (
	"os"
	"path/filepath"
)

// Open reads a recipe: a file, or a name of an embedded one.
func Open(name string, sets []string) (*Recipe, error) {
	if _, err := os.Stat(name); err != nil && filepath.Ext(name) == "" {
		if data, ok := embedded[name]; ok {
			return Parse(name, data, sets)
		}
	}
	return Load(name, sets)
}

var embedded = map[string][]byte{}

// OnlyModelIn is path itself, or the only model in a folder of files.
func OnlyModelIn(path string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(path, "*.gguf"))
	if len(files) == 1 && !exists(filepath.Join(path, "config.json")) {
		return files[0], nil
	}
	return path, nil
}
