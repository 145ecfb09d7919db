package recipes

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/train/eval"
)

// Event tells a watcher what a run is doing.
type Event struct {
	Stage  string  `json:"stage"`
	Index  int     `json:"index"` // from 1
	Of     int     `json:"of"`
	What   string  `json:"event"` // start, progress, done, cached, note
	Done   int64   `json:"done,omitempty"`
	Total  int64   `json:"total,omitempty"`
	Unit   string  `json:"unit,omitempty"`
	Text   string  `json:"text,omitempty"`
	Memory int64   `json:"memory_bytes,omitempty"`
	Took   float64 `json:"seconds,omitempty"`
}

// RunOptions are what the machine and the command line decide; none of them
// changes a result.
type RunOptions struct {
	Dir           string   // parent of run folders; default "runs"
	Only          []string // run these stages only
	From          string   // run this stage and those after it
	Device        string   // overrides the recipe
	Threads       int
	MemoryLimit   int64
	WriteBaseline string // of the eval stages
	Events        func(Event)
}

// Result is what a finished stage leaves beside its artifact; the report is
// made from these.
type Result struct {
	Stage   string            `json:"stage"`
	Kind    string            `json:"kind"`
	Address digest            `json:"address"`
	Inputs  map[string]Source `json:"inputs"`
	Outputs []FileHash        `json:"outputs"`
	Notes   []string          `json:"notes,omitempty"`
	Seconds float64           `json:"-"` // kept in timing.json: a manifest has no times
	Peak    int64             `json:"-"`
	Cached  bool              `json:"-"`

	Ingest   *data.Report    `json:"ingest,omitempty"`
	Train    *TrainResult    `json:"train,omitempty"`
	Merge    *MergeResult    `json:"merge,omitempty"`
	Quantize *QuantizeResult `json:"quantize,omitempty"`
	Export   *ExportResult   `json:"export,omitempty"`
	Eval     *EvalResult     `json:"eval,omitempty"`
}

// Source is one resolved input with the hash of its content.
type Source struct {
	Ref    string `json:"ref"`
	Why    string `json:"why"`
	SHA256 digest `json:"sha256"` // of a path's content, or the address of the stage
}

// EvalResult is what an eval stage measured.
type EvalResult struct {
	Metrics []eval.Metric `json:"metrics"`
	Checks  []eval.Check  `json:"checks,omitempty"`
	Rows    int           `json:"rows"`
	Overlap int           `json:"overlap"` // evaluated rows that occur in training
	Answers []Answer      `json:"answers,omitempty"`
}

// Answer is one held-back prompt answered by every model, for the report.
type Answer struct {
	Prompt string            `json:"prompt"`
	Want   string            `json:"want"`
	Got    map[string]string `json:"got"`
}

// run is one execution of a recipe.
type run struct {
	*Recipe
	opt    RunOptions
	dir    string // runs/NAME
	jobs   []*Job
	hashes *hashes
	addr   map[string]digest
	done   map[string]*Result
	dev    kernels.Backend // open from prepare to close
	at     int             // index of the running job, for events
}

// Run executes the recipe: stages whose address and outputs are as recorded
// are not run again, and a killed run goes on where it was. On an error the
// stages finished so far stay.
func (r *Recipe) Run(ctx context.Context, opt RunOptions) (*Summary, error) {
	began := time.Now()
	x, err := r.prepare(opt)
	if err != nil {
		return nil, err
	}
	defer x.dev.Close()
	unlock, err := x.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	x.sweep()
	if err := x.recordLevel(); err != nil {
		return nil, err
	}
	if err := x.check(ctx); err != nil {
		return nil, err
	}
	err = x.execute(ctx)
	return x.report(time.Since(began), err)
}

func (r *Recipe) prepare(opt RunOptions) (*run, error) {
	set(&opt.Dir, "runs")
	x := &run{Recipe: r, opt: opt, dir: filepath.Join(opt.Dir, r.Name), addr: map[string]digest{}, done: map[string]*Result{}}
	var err error
	if x.jobs, err = r.Resolve(); err != nil {
		return nil, err
	}
	for _, id := range append(slices.Clone(opt.Only), opt.From) {
		if id != "" && r.stage(id) == nil {
			return nil, fail.Usagef("", "stages: "+strings.Join(r.ids(), ", "), "no stage %q", id)
		}
	}
	if err := x.present(); err != nil {
		return nil, err
	}
	if err := x.fill(); err != nil {
		return nil, err
	}
	x.hashes = loadHashes(filepath.Join(x.dir, ".state", "hashes.json"))
	x.dev, err = x.open(x.memoryLimit())
	return x, err
}

func (r *Recipe) ids() []string {
	var out []string
	for i := range r.Stages {
		out = append(out, r.Stages[i].ID)
	}
	return out
}

// open opens the device of the recipe, or that which the command line prefers.
func (x *run) open(limit int64) (kernels.Backend, error) {
	threads, name := x.opt.Threads, x.opt.Device
	if threads == 0 {
		threads = x.Threads
	}
	set(&name, x.Device)
	return device.Open(name, device.Options{Threads: threads, MemoryLimit: limit, Level: x.recordedLevel()})
}

// lock takes the run folder; a second run in it is refused.
func (x *run) lock() (func(), error) {
	if err := atomic.MkdirAll(filepath.Join(x.dir, ".state")); err != nil {
		return nil, fail.Limitf(x.dir, "", "%w", err)
	}
	l := flock.New(filepath.Join(x.dir, ".state", "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fail.Limitf(x.dir, "", "%w", err)
	}
	if !ok {
		return nil, fail.Usagef(x.dir, "wait for it, or give this run another name: --set name=…", "another run is working in this folder")
	}
	return func() { l.Unlock() }, nil
}

// sweep removes what killed runs left half done; the lock says none is alive.
func (x *run) sweep() {
	for _, d := range append(x.ids(), "", ".work", ".state") {
		atomic.Clean(filepath.Join(x.dir, d))
	}
}

func (x *run) event(e Event) {
	if x.opt.Events == nil {
		return
	}
	e.Stage, e.Index, e.Of = x.jobs[x.at].Stage.ID, x.at+1, len(x.jobs)
	if e.Memory == 0 && x.dev != nil {
		e.Memory = kernels.Total(x.dev.Info().Mem.Now)
	}
	x.opt.Events(e)
}

func (x *run) progress(unit string) func(done, total int64) {
	return func(done, total int64) {
		x.event(Event{What: "progress", Done: done, Total: total, Unit: unit})
	}
}

func (x *run) wanted(id string) bool {
	if len(x.opt.Only) > 0 {
		return slices.Contains(x.opt.Only, id)
	}
	ids := x.ids()
	return x.opt.From == "" || slices.Index(ids, id) >= slices.Index(ids, x.opt.From)
}

func (x *run) execute(ctx context.Context) error {
	for x.at = 0; x.at < len(x.jobs); x.at++ {
		if err := ctx.Err(); err != nil {
			return fail.Interruptedf(x.dir, "tune run "+x.path, "interrupted")
		}
		j := x.jobs[x.at]
		res, err := x.address(j)
		if err != nil {
			return err
		}
		old, err := x.load(j, res.Address)
		if err != nil {
			return err
		}
		if old != nil && !(x.opt.WriteBaseline != "" && j.Stage.Eval != nil) {
			x.done[j.Stage.ID] = old
			x.event(Event{What: "cached"})
			if err := atomic.RemoveAll(x.workDir(j.Stage.ID)); err != nil { // killed before it was
				return err
			}
			continue
		}
		if !x.wanted(j.Stage.ID) {
			continue
		}
		if err := x.one(ctx, j, res); err != nil {
			if ctx.Err() != nil && fail.Code(err) != int(fail.Interrupted) {
				return fail.Interruptedf(x.dir, "tune run "+x.path, "interrupted in stage %s: %w", j.Stage.ID, err)
			}
			return err
		}
	}
	return nil
}

// one runs a stage and records what it left.
func (x *run) one(ctx context.Context, j *Job, res *Result) error {
	for _, in := range j.Inputs {
		if in.Ref.Stage != "" && x.done[in.Ref.Stage] == nil {
			return fail.Usagef(x.path, "run it too, or leave out --only and --from", "stage %s needs %s, which has not been run", j.Stage.ID, in.Ref.Stage)
		}
	}
	if err := x.clear(j, res.Address); err != nil {
		return err
	}
	x.dev.ResetCounters() // memory is counted from here
	x.event(Event{What: "start"})
	began := time.Now()
	if err := stageKinds[j.Stage.Kind()].run(ctx, x, j, res); err != nil {
		var gate *fail.Error
		if !(errors.As(err, &gate) && gate.Kind == fail.Gate) {
			return err
		}
		res.Seconds, res.Peak = time.Since(began).Seconds(), x.dev.Info().PeakTotal
		x.done[j.Stage.ID] = res // shown in the report, but not recorded as done
		return err
	}
	res.Seconds = time.Since(began).Seconds()
	res.Peak = x.dev.Info().PeakTotal
	if err := x.save(j, res); err != nil {
		return err
	}
	x.done[j.Stage.ID] = res
	x.event(Event{What: "done", Took: res.Seconds})
	return atomic.RemoveAll(x.workDir(j.Stage.ID)) // not before: it is what a killed run goes on from
}

// job is the job of a stage.
func (x *run) job(id string) *Job {
	for _, j := range x.jobs {
		if j.Stage.ID == id {
			return j
		}
	}
	panic("recipes: a resolved reference without its stage")
}

// stageDir is where a stage's artifact lies.
func (x *run) stageDir(id string) string { return filepath.Join(x.dir, id) }

// pathOf is the file or folder a reference stands for.
func (x *run) pathOf(ref Ref) string {
	if ref.Stage == "" {
		return ref.Path
	}
	dir := x.stageDir(ref.Stage)
	if s := x.stage(ref.Stage); s.Export != nil {
		return x.exportPath(s, ref.Member)
	}
	return dir
}
