package recipes

import (
	"path/filepath"
	"slices"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// Clean removes a run's checkpoints and unfinished work; with keep, also every
// stage's artifact that is not listed.
func Clean(dir string, keep []string) error {
	states, _ := filepath.Glob(filepath.Join(dir, ".state", "*.json"))
	if len(states) == 0 {
		return fail.Usagef(dir, "name a folder below runs/", "not a run folder")
	}
	atomic.Clean(dir)
	remove := []string{filepath.Join(dir, ".work")}
	if len(keep) > 0 {
		for _, s := range states {
			id := filepath.Base(s)
			id = id[:len(id)-len(".json")]
			if id == "hashes" || id == "timing" || slices.Contains(keep, id) {
				continue
			}
			remove = append(remove, filepath.Join(dir, id), s)
		}
	}
	for _, p := range remove {
		if err := atomic.RemoveAll(p); err != nil {
			return fail.Limitf(p, "", "%w", err)
		}
	}
	return nil
}
