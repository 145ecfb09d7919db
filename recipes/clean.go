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
// stage's artifact that is not listed, for which said is called with its folder.
// Where keep names what is no stage of the run, nothing is removed.
func Clean(dir string, keep []string, said func(path string)) error {
	f := folder(dir)
	ids, err := f.states()
	if err != nil {
		return err
	}
	for _, id := range keep {
		if !slices.Contains(ids, id) {
			return fail.Usagef(dir, "its finished stages: "+strings.Join(ids, ", "), "--keep %s: the run has no such stage", id)
		}
	}
	unlock, err := f.lock("wait for it, or stop it")
	if err != nil {
		return err
	}
	defer unlock()
	atomic.Clean(dir)
	remove := []string{filepath.Join(dir, ".work")}
	for _, id := range ids {
		if len(keep) > 0 && !slices.Contains(keep, id) {
			said(f.stage(id))
			remove = append(remove, f.stage(id), f.result(id))
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
