package recipes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// Clean removes a run's checkpoints and unfinished work; with keep, also every
// stage's artifact that is not listed.
func Clean(dir string, keep []string) error {
	f := folder(dir)
	states, err := f.states()
	if err != nil {
		return err
	}
	unlock, err := f.lock("wait for it, or stop it")
	if err != nil {
		return err
	}
	defer unlock()
	atomic.Clean(dir)
	remove := []string{filepath.Join(dir, ".work")}
	if len(keep) > 0 {
		for _, id := range states {
			if !slices.Contains(keep, id) {
				remove = append(remove, f.stage(id), f.result(id))
			}
		}
	}
	for _, p := range remove {
		if err := atomic.RemoveAll(p); err != nil {
			return fail.Limitf(p, "", "%w", err)
		}
	}
	return nil
}

// states are the ids of the stages that a run folder has a record of. The folder
// may come from anyone: what no recipe could call a stage names no path here,
// and a link for the folder of records would lead out of it.
func (f folder) states() (ids []string, err error) {
	if st, err := os.Lstat(f.state("")); err != nil || !st.IsDir() {
		return nil, fail.Usagef(string(f), "name a folder below runs/", "not a run folder")
	}
	entries, err := os.ReadDir(f.state(""))
	if err != nil {
		return nil, fail.Inputf(f.state(""), "", "%w", err)
	}
	any := false
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		any = any || ok
		if ok && badID(id) == "" {
			ids = append(ids, id)
		}
	}
	if !any {
		return nil, fail.Usagef(string(f), "name a folder below runs/", "not a run folder")
	}
	return ids, nil
}
