package recipes

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/recipes/report"
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
	// Numbers are what Text says, for programs: loss, val_loss, tokens_per_second.
	Numbers map[string]float64 `json:"numbers,omitempty"`
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
	// StartRank is a command, not started, that calls Kinds.Rank with its standard input
	// and output, and ends with a RankFailure on standard error where that fails. nil:
	// stages of several ranks are refused.
	StartRank func() *exec.Cmd
}

// run is one execution of a recipe.
type run struct {
	*Recipe
	opt    RunOptions
	dir    folder // runs/NAME
	jobs   []*Job
	hashes *hashes
	inputs map[string]Digest // content of the paths that stages of this run have read
	addr   map[string]Digest
	done   map[string]*Result
	dev    kernels.Backend // open from prepare on; who prepared closes it
	at     int             // index of the running job, for events
	env    *Env            // the run as its stages see it
	log    *eventLog       // for watchers in other processes
}

// Run executes the recipe: stages whose address and outputs are as recorded
// are not run again, and a killed run goes on where it was. On an error the
// stages finished so far stay.
func (r *Recipe) Run(ctx context.Context, opt RunOptions) (*report.Summary, error) {
	began := time.Now()
	x, err := r.prepare(opt)
	if err != nil {
		return nil, err
	}
	defer func() { x.dev.Close() }() // which may then be another
	unlock, err := x.dir.lock("wait for it, or give this run another name: --set name=…")
	if err != nil {
		return nil, err
	}
	defer unlock()
	x.log = x.dir.begin(x.command())
	sum, err := x.whole(ctx, began)
	x.log.end(sum, err)
	return sum, err
}

// whole is the work of a run in its folder.
func (x *run) whole(ctx context.Context, began time.Time) (*report.Summary, error) {
	x.dir.sweep(x.ids())
	if err := x.recordLevel(); err != nil {
		return nil, err
	}
	if err := x.check(ctx); err != nil {
		return nil, err
	}
	err := x.execute(ctx)
	x.dev.ResetCounters() // else pages of the last stage lie beside what the report reads
	return x.report(time.Since(began), err)
}

func (r *Recipe) prepare(opt RunOptions) (*run, error) {
	if opt.Dir == "" {
		opt.Dir = "runs"
	}
	x := &run{Recipe: r, opt: opt, dir: folder(filepath.Join(opt.Dir, r.Name)), addr: map[string]Digest{}, done: map[string]*Result{}, inputs: map[string]Digest{}}
	x.env = &Env{x: x}
	var err error
	if x.jobs, err = r.Resolve(); err != nil {
		return nil, err
	}
	for _, id := range append(slices.Clone(opt.Only), opt.From) {
		if id != "" && r.stage(id) == nil {
			return nil, fail.Usagef("", "stages: "+strings.Join(r.ids(), ", "), "no stage %q", id)
		}
	}
	if err := errors.Join(x.dir.own(), x.present()); err != nil {
		return nil, err
	}
	if err := x.fit(); err != nil {
		return nil, err
	}
	x.hashes = loadHashes(x.dir.state("hashes.json"))
	x.dev, err = x.open(x.shares(1))
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
func (x *run) open(limit int64, threads int) (kernels.Backend, error) {
	return device.Open(x.deviceOf(0), device.Options{Threads: threads, MemoryLimit: limit, DeviceMemoryLimit: int64(x.DeviceMemoryLimit), Level: x.recordedLevel()})
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
			return fail.Interruptedf(string(x.dir), "tune run "+x.path, "interrupted")
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
		if old != nil && !(x.opt.WriteBaseline != "" && j.Kind.Measures) {
			x.done[j.ID] = old
			x.env.Event(Event{What: "cached"})
			if err := atomic.RemoveAll(x.dir.work(j.ID)); err != nil { // killed before it was
				return err
			}
			continue
		}
		if !x.wanted(j.ID) {
			continue
		}
		if err := x.one(ctx, j, res); err != nil {
			if ctx.Err() != nil && fail.Code(err) != int(fail.Interrupted) {
				return fail.Interruptedf(string(x.dir), "tune run "+x.path, "interrupted in stage %s: %w", j.ID, err)
			}
			return err
		}
		if slices.Contains(j.Kind.Gives, DataRef) { // now what later stages will read is known
			if err := x.check(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// one runs a stage and records what it left.
func (x *run) one(ctx context.Context, j *Job, res *Result) error {
	for _, in := range j.Inputs {
		if in.Ref.Stage != "" && x.done[in.Ref.Stage] == nil {
			return fail.Usagef(x.path, "run it too, or leave out --only and --from", "stage %s needs %s, which has not been run", j.ID, in.Ref.Stage)
		}
	}
	if err := x.clear(j, res.Address); err != nil {
		return err
	}
	x.dev.ResetCounters() // memory is counted from here
	x.env.Event(Event{What: "start"})
	began := time.Now()
	if err := x.work(ctx, j, res); err != nil {
		var gate *fail.Error
		if !(errors.As(err, &gate) && gate.Kind == fail.Gate) {
			return err
		}
		res.Seconds = time.Since(began).Seconds()
		x.done[j.ID] = res // shown in the report, but not recorded as done
		return err
	}
	res.Seconds = time.Since(began).Seconds()
	if err := x.save(j, res); err != nil {
		return err
	}
	x.done[j.ID] = res
	x.env.Event(Event{What: "done", Took: res.Seconds})
	return atomic.RemoveAll(x.dir.work(j.ID)) // not before: it is what a killed run goes on from
}

// fit sets the options that depend on the shape of a model, such as its
// context length.
func (x *run) fit() error {
	for _, j := range x.jobs {
		if j.Kind.Shape == nil {
			continue
		}
		ref, ok := j.Kind.Shape(j)
		if !ok {
			continue
		}
		path, err := ResolvePath(x.origin(ref))
		if err != nil {
			return err
		}
		src, err := arch.Open(path)
		if err != nil {
			return err
		}
		if err := errors.Join(j.Kind.Fit(j, &src.Spec), src.Close()); err != nil {
			return err
		}
	}
	return nil
}

// origin is the path of the model that a reference goes back to: stages change
// weights and types, not tokenizer or shape.
func (x *run) origin(ref Ref) string {
	for ref.Stage != "" {
		ref, _ = x.env.Job(ref.Stage).In("model")
	}
	return ref.Path
}
