package recipes

import (
	"encoding/json"
	"os"
	"slices"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// levelPath holds the kernel level of the last run: what is gone on with, or
// found unchanged, stays at its level even where the probe now decides otherwise.
func (x *run) levelPath() string { return x.dir.state("kernels") }

func (x *run) recordedLevel() string {
	raw, err := os.ReadFile(x.levelPath())
	if err != nil {
		return "" // the first run
	}
	return string(raw)
}

func (x *run) recordLevel() error {
	return atomic.WriteFile(x.levelPath(), []byte(x.dev.Info().Level))
}

// load returns the recorded result of a stage when its address is the same and
// its outputs are still there, unchanged.
func (x *run) load(j *Job, addr Digest) (*Result, error) {
	raw, err := os.ReadFile(x.dir.result(j.ID))
	if err != nil {
		return nil, nil
	}
	res, err := readResult(raw, j.Kind)
	if err != nil || res.Address != addr || res.Outputs == nil {
		return nil, nil
	}
	have, err := x.hashes.files(x.dir.stage(j.ID), outputsLeftOut...)
	if err != nil || !slices.Equal(have, res.Outputs) || !x.named(j) {
		return nil, nil
	}
	res.Cached = true
	x.timing(res, false)
	return res, nil
}

// named reports whether what a stage made is where references to it look: some
// names hold that of the run, whose folder may have been moved.
func (x *run) named(j *Job) bool {
	if j.Kind.Path == nil {
		return true
	}
	for _, m := range j.makes() {
		if !exists(j.Kind.Path(x.dir.stage(j.ID), x.Name, j.Options, m.Member)) {
			return false
		}
	}
	return true
}

// outputsLeftOut are files of a stage's folder that are not its artifact.
var outputsLeftOut = []string{"checkpoints", "metrics.jsonl", "speed.json"}

// recorded reports whether the run folder knows of any stage of the recipe.
func (x *run) recorded() bool {
	return slices.ContainsFunc(x.ids(), func(id string) bool { return exists(x.dir.result(id)) })
}

// began keeps when work of a name began, in Unix seconds: the time that was recorded
// first, else at, which is then recorded.
func (x *run) began(name string, at float64) float64 {
	path := x.dir.state("began")
	all := map[string]float64{}
	if raw, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(raw, &all) // a damaged file only loses times
	}
	if first, ok := all[name]; ok {
		return first
	}
	if all == nil { // of null
		all = map[string]float64{}
	}
	all[name] = at
	if raw, err := json.Marshal(all); err == nil {
		_ = atomic.WriteFile(path, raw) // the same
	}
	return at
}

// begun reports whether this very work was begun before and not finished.
func (x *run) begun(id string, addr Digest) bool {
	var res Result
	raw, err := os.ReadFile(x.dir.result(id))
	return err == nil && json.Unmarshal(raw, &res) == nil && res.Address == addr && res.Outputs == nil
}

// clear removes what another address left in the stage's folder, and marks the
// folder as being worked on for this one.
func (x *run) clear(j *Job, addr Digest) error {
	var res Result
	raw, err := os.ReadFile(x.dir.result(j.ID))
	if err == nil && json.Unmarshal(raw, &res) == nil && res.Address == addr && res.Outputs == nil {
		return x.unrecorded(j) // the same work, interrupted: its own journal goes on
	}
	if _, err := os.Stat(x.dir.stage(j.ID)); err == nil && raw == nil {
		return fail.Usagef(x.dir.stage(j.ID), "move it away, or give the run another name", "this folder was not made by a run and would be overwritten")
	}
	for _, p := range append([]string{x.dir.stage(j.ID)}, x.leftovers(j.ID)...) {
		if err := atomic.RemoveAll(p); err != nil {
			return fail.Limitf(p, "", "%w", err)
		}
	}
	mark, err := json.Marshal(&Result{Stage: j.ID, Kind: j.Kind.Name, Address: addr})
	if err != nil {
		return err
	}
	return atomic.WriteFile(x.dir.result(j.ID), mark)
}

// unrecorded removes a folder that was finished and not recorded before the run
// was killed; making it again costs little where the stage's own state is kept.
func (x *run) unrecorded(j *Job) error {
	if j.Kind.Keeps {
		return nil
	}
	return atomic.RemoveAll(x.dir.stage(j.ID))
}

// leftovers are unfinished writes of a stage's artifact.
func (x *run) leftovers(id string) []string {
	return []string{x.dir.stage(id) + ".part", x.dir.work(id)}
}

func (x *run) save(j *Job, res *Result) error {
	var err error
	if res.Outputs, err = x.hashes.files(x.dir.stage(j.ID), outputsLeftOut...); err != nil && !os.IsNotExist(err) {
		return err
	}
	if res.Outputs == nil {
		res.Outputs = []FileHash{}
	}
	raw, err := json.MarshalIndent(res, "", " ")
	if err != nil {
		return err
	}
	if err := atomic.WriteFile(x.dir.result(j.ID), append(raw, '\n')); err != nil {
		return err
	}
	x.timing(res, true)
	seen, err := json.Marshal(x.hashes.Seen)
	if err != nil {
		return err
	}
	return atomic.WriteFile(x.hashes.file, seen)
}

// timing keeps what differs from run to run out of the recorded results.
func (x *run) timing(res *Result, store bool) {
	path := x.dir.state("timing.json")
	all := map[string][2]float64{}
	if raw, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(raw, &all) // a damaged file only loses times
	}
	if !store {
		res.Seconds, res.Peak = all[res.Stage][0], int64(all[res.Stage][1])
		return
	}
	all[res.Stage] = [2]float64{res.Seconds, float64(res.Peak)}
	if raw, err := json.Marshal(all); err == nil {
		_ = atomic.WriteFile(path, raw) // the same
	}
}
