package recipes

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub"
)

// ResolvePath maps hf://org/name@revision to the local cache and embedded: to
// an unpacked copy; other paths stay. It is what every command does with a path
// that a user gives.
func ResolvePath(path string) (string, error) {
	if name, ok := strings.CutPrefix(path, embeddedPrefix); ok {
		return unpack(name)
	}
	if hub.IsRef(path) {
		dir, _, err := hub.Resolve(path)
		return dir, err
	}
	return path, runFolder(path)
}

// ResolveHeaders is ResolvePath for commands that read no weights: headers of a model
// of the hub are enough.
func ResolveHeaders(path string) (string, error) {
	if hub.IsRef(path) {
		dir, _, err := hub.ResolveHeaders(path)
		return dir, err
	}
	return ResolvePath(path)
}

// runFolder refuses the folder of a run where one of its stages is meant.
func runFolder(path string) error {
	if !exists(folder(path).state("")) {
		return nil
	}
	states, _ := filepath.Glob(folder(path).result("*"))
	var parts []string
	for _, s := range states {
		id := strings.TrimSuffix(filepath.Base(s), ".json")
		parts = append(parts, modelsIn(folder(path).stage(id))...)
	}
	if len(parts) == 0 {
		return nil
	}
	return fail.Inputf(path, "name one of its parts: "+strings.Join(parts, ", "), "this is the folder of a run")
}

// modelsIn are the models that a stage left at path: files or the folder; none of a
// stage that makes no model.
func modelsIn(path string) []string {
	if formats.HasWeights(path) {
		return []string{path}
	}
	files := ggufsIn(path)
	for i, f := range files {
		files[i] = filepath.Join(path, f)
	}
	return files
}

// ggufsIn names the GGUFs of models in a folder, of those in parts the first.
func ggufsIn(path string) []string {
	files, _ := fs.Glob(os.DirFS(path), "*.gguf") // the folder's own name is no pattern
	return slices.DeleteFunc(files, func(f string) bool {
		_, i, _, part := formats.SplitOf(f)
		return strings.HasSuffix(f, "-imatrix.gguf") || part && i > 0
	})
}

// exists reports whether there is something at path.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// OnlyModelIn is path itself, or the only GGUF in a folder of them.
func OnlyModelIn(path string) string {
	if files := ggufsIn(path); len(files) == 1 && !exists(filepath.Join(path, "config.json")) {
		return filepath.Join(path, files[0])
	}
	return path
}
