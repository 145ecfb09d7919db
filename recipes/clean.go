package recipes

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// Clean removes a run's checkpoints and unfinished work; with keep, also every
// stage's artifact that is not listed, for which said is called with its folder.
// Where keep names what is no stage of the run, nothing is removed.
func Clean(dir string, keep []string, said func(path string)) error {
	states, _ := filepath.Glob(filepath.Join(dir, ".state", "*.json"))
	if len(states) == 0 {
		return fail.Usagef(dir, "name a folder below runs/", "not a run folder")
	}
	var ids []string
	for _, s := range states {
		if id := strings.TrimSuffix(filepath.Base(s), ".json"); id != "hashes" && id != "timing" {
			ids = append(ids, id)
		}
	}
	for _, id := range keep {
		if !slices.Contains(ids, id) {
			return fail.Usagef(dir, "its finished stages: "+strings.Join(ids, ", "), "--keep %s: the run has no such stage", id)
		}
	}
	atomic.Clean(dir)
	remove := []string{filepath.Join(dir, ".work")}
	for _, id := range ids {
		if len(keep) > 0 && !slices.Contains(keep, id) {
			said(filepath.Join(dir, id))
			remove = append(remove, filepath.Join(dir, id), filepath.Join(dir, ".state", id+".json"))
		}
	}
	for _, p := range remove {
		if err := atomic.RemoveAll(p); err != nil {
			return fail.Limitf(p, "", "%w", err)
		}
	}
	return nil
}
