package recipes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/recipes/report"
)

// Planner computes the plan of a run from names, shapes, types and a look at
// the data.
type Planner struct {
	Context context.Context
	Env     *Env
	Rates   Rates // of this machine; zero when Quick
	Quick   bool  // only what would be refused: memory, disk, impossible options
	Limit   int64 // bytes of memory that a stage may take; 0: none
	Trying  bool  // whether a stage fits under Limit; nobody reads why not
	Sampled int   // rows that counts were estimated from

	process kernels.ProcessLimit
	copies  bool // the device has memory of its own

	x      *run
	plan   *Plan
	models map[string]*arch.Source
	memo   map[string]any
}

func (x *run) planner(ctx context.Context, quick bool) *Planner {
	p := &Planner{Context: ctx, Env: x.env, Quick: quick, x: x, models: map[string]*arch.Source{}, memo: map[string]any{}, plan: &Plan{Name: x.Name, Dir: string(x.dir)}}
	info := x.dev.Info()
	p.Limit, p.process, p.copies = info.Limit, info.Process, info.Copies
	p.plan.Limit = max(p.Limit, p.process.Bytes)
	p.plan.DiskFree = DiskFree(existing(string(x.dir)))
	return p
}

func (p *Planner) close() {
	for _, m := range p.models {
		m.Close()
	}
}

// Looking is p as a plan that is not Quick sees the inputs: for a stage that would be
// refused by what it took rows to be which nobody has looked at. What it opens is p's.
func (p *Planner) Looking() *Planner {
	c := *p
	c.Quick, c.memo = false, map[string]any{}
	return &c
}

// Done is what an earlier stage left, nil when it has not run.
func (p *Planner) Done(j *Job) *Result { return p.x.done[j.ID] }

// Once returns what find gave for this key before in this plan, or calls it.
func Once[T any](p *Planner, key string, find func() (T, error)) (T, error) {
	if v, ok := p.memo[key]; ok {
		return v.(T), nil
	}
	v, err := find()
	if err == nil {
		p.memo[key] = v
	}
	return v, err
}

// existing is the nearest folder above path that is there.
func existing(path string) string {
	for path, _ = filepath.Abs(path); !exists(path) && path != filepath.Dir(path); {
		path = filepath.Dir(path)
	}
	return path
}

// memoryLimit is what the command line or the recipe allows; 0: not said.
func (x *run) memoryLimit() int64 {
	if x.opt.MemoryLimit != 0 {
		return x.opt.MemoryLimit
	}
	return int64(x.MemoryLimit)
}

// Plan computes what Run would do, without doing it. When it would be refused,
// the plan is returned together with the error.
func (r *Recipe) Plan(ctx context.Context, o RunOptions) (*Plan, error) {
	x, err := r.prepare(o)
	if err != nil {
		return nil, err
	}
	defer x.dev.Close()
	p := x.planner(ctx, false)
	defer p.close()
	if p.Rates, err = x.probe(); err != nil {
		return nil, err
	}
	p.plan.Machine = p.machine()
	err = p.walk()
	p.plan.Sampled = p.Sampled
	var ferr error
	if p.plan.Recipe, p.plan.Defaults, ferr = r.Full(); err == nil {
		err = ferr
	}
	return p.plan, err
}

// check refuses a run that could not end: memory, disk, options that the model
// or the programs that are to load the result do not allow.
func (x *run) check(ctx context.Context) error {
	p := x.planner(ctx, true)
	defer p.close()
	return p.walk()
}

func (p *Planner) machine() string {
	info := p.x.dev.Info()
	return fmt.Sprintf("%d cores %s, %s free, %s", max(info.Threads, 1), info.Level, humanize.IBytes(uint64(max(device.HostMemory(), 0))), gpuWords(info.Name))
}

func gpuWords(device string) string {
	if device == "cpu" {
		return "no GPU"
	}
	return "GPU " + device
}

// walk plans every stage in order and returns the first refusal.
func (p *Planner) walk() error {
	var refused error
	most := int64(-1) // needed by a stage that was refused
	defer func(at int) { p.x.at = at }(p.x.at)
	for i, j := range p.x.jobs {
		p.x.at = i
		s, err := p.stage(j)
		p.plan.Stages = append(p.plan.Stages, s)
		if err == nil {
			continue
		}
		switch fail.Kind(fail.Code(err)) {
		case fail.Usage, fail.Limit:
			if refused == nil || most >= 0 && s.Peak > most && fail.Kind(fail.Code(err)) == fail.Limit { // the largest names the limit that does
				refused = err
			}
			if fail.Kind(fail.Code(refused)) == fail.Limit {
				most = max(most, s.Peak)
			}
		case fail.Input, fail.Internal: // a row without numbers says nothing of why
			if !p.Quick && refused == nil {
				refused = err
			}
		}
	}
	p.total()
	if refused != nil {
		return refused
	}
	return p.disk()
}

func (p *Planner) stage(j *Job) (StagePlan, error) {
	x := p.x
	s := StagePlan{Stage: j.ID, Kind: j.Kind.Name}
	for _, in := range j.Inputs {
		s.Inputs = append(s.Inputs, PlanInput{in.Name, in.Ref.String(), in.Ref.Why})
	}
	if x.recorded() { // else nothing can be done before, and no input is read through to know that
		res, err := x.address(j)
		if err != nil {
			return s, err
		}
		old, err := x.load(j, res.Address)
		if err != nil {
			return s, err
		}
		if old != nil {
			if x.done[j.ID] == nil { // else this very run has just made it
				x.done[j.ID] = old
			}
			s.Cached, s.Does = true, "done before, with the same inputs"
			return s, nil
		}
		s.GoesOn = x.begun(j.ID, res.Address)
	}
	if !x.wanted(j.ID) {
		s.Skipped, s.Does = true, "left out"
		return s, nil
	}
	n := j.ranks()
	whole := p.share(n)
	defer whole()
	err := j.Kind.Plan(p, j, &s)
	if err == nil && !p.fits(&s) {
		err = p.Refusal(&s, "needs")
	}
	var refused *fail.Error
	if errors.As(err, &refused) && refused.Kind == fail.Limit {
		if need := p.least(j, s.Peak); need > 0 {
			key := "memory_limit"
			if p.copies {
				key = "device_memory_limit"
			}
			refused.Hint = strings.TrimPrefix(fmt.Sprintf("%s\n%s: %dMiB → it fits", refused.Hint, key, p.together(need, n)>>20), "\n")
		}
		if n > 1 {
			refused.Msg += fmt.Sprintf(", on each of %d ranks", n)
		}
	}
	if n > 1 {
		s.Note("%d ranks on %s, %s each", n, p.x.devices(n), report.Memory(s.Peak+p.process.Program))
		s.Peak = p.together(s.Peak+p.process.Program, n) - p.process.Program
		for purpose, bytes := range s.Memory {
			s.Memory[purpose] = p.together(bytes, n)
		}
	}
	if s.GoesOn {
		s.Note("goes on where it was")
	}
	return s, err
}

// share makes the limits those of one of n ranks, until whole is called: ranks on the
// CPU have one memory.
func (p *Planner) share(n int) (whole func()) {
	limit, process, shown := p.Limit, p.process, p.plan.Limit
	if n > 1 && !p.copies && process.Bytes > 0 {
		p.process.Bytes /= int64(n)
		p.plan.Limit = p.process.Bytes
		p.Limit = max(p.process.Bytes-process.Program, 1)
	}
	return func() { p.Limit, p.process, p.plan.Limit = limit, process, shown }
}

// together is what n ranks take of a memory of which each takes so many bytes.
func (p *Planner) together(each int64, n int) int64 {
	if p.copies {
		return each
	}
	return each * int64(n)
}

// fits reports whether the process has room for a stage beside the program itself.
func (p *Planner) fits(s *StagePlan) bool {
	return p.Limit == 0 || s.Peak+p.process.Program <= max(p.plan.Limit, p.process.Bytes)
}

// least is a limit, in whole MiB, under which a stage that needs peak under another fits;
// rows that were only looked at may be somewhat longer. 0: none was found.
func (p *Planner) least(j *Job, peak int64) int64 {
	defer func(limit int64, trying bool) { p.Limit, p.Trying = limit, trying }(p.Limit, p.Trying)
	p.Trying = true
	return Least(peak, p.process.Program, func(limit int64) (int64, bool) {
		p.Limit = limit
		s := StagePlan{Stage: j.ID, Kind: j.Kind.Name}
		err := j.Kind.Plan(p, j, &s)
		return s.Peak, err == nil
	})
}

// Least is a limit of the process, in whole MiB, under which work fits that needs peak
// bytes beside the program's own under a smaller one: what stays in memory and what is
// computed again follows the limit. plan says what it needs under a limit, less program.
// 0: none was found.
func Least(peak, program int64, plan func(limit int64) (peak int64, ok bool)) int64 {
	const tries, mib = 8, 1 << 20
	for range tries {
		whole := (peak + peak/32 + program + mib - 1) &^ (mib - 1)
		limit := whole - program
		need, ok := plan(limit)
		if ok && need <= limit {
			return whole
		}
		peak = max(need, limit+limit/16)
	}
	return 0
}

func (p *Planner) total() {
	temp := int64(0)
	for _, s := range p.plan.Stages {
		p.plan.Seconds += s.Seconds
		if s.Counted {
			p.plan.Peak = max(p.plan.Peak, s.Peak+p.process.Program)
		}
		p.plan.Disk += s.Disk
		temp = max(temp, s.Temp)
	}
	p.plan.Disk += temp
}

// diskSlack is kept free for logs, reports and the rest of the system.
const diskSlack = 64 << 20

// disk refuses a run whose artifacts and checkpoints would not fit.
func (p *Planner) disk() error {
	if p.plan.DiskFree == 0 || p.plan.Disk == 0 || p.plan.Disk+diskSlack <= int64(p.plan.DiskFree) {
		return nil
	}
	var parts []string
	for _, s := range p.plan.Stages {
		if s.Disk+s.Temp > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", s.Stage, humanize.Bytes(uint64(s.Disk+s.Temp))))
		}
	}
	return fail.Limitf(string(p.x.dir), "free some space, or put the run elsewhere: --run-dir DIR", "the run needs %s of disk and %s to spare, %s are free (%s)",
		humanize.Bytes(uint64(p.plan.Disk)), humanize.Bytes(diskSlack), humanize.Bytes(p.plan.DiskFree), strings.Join(parts, ", "))
}

// Refusal says by how much a stage does not fit, and what takes the memory.
func (p *Planner) Refusal(s *StagePlan, words string) *fail.Error {
	return Refusal(s, words, kernels.Info{Limit: p.Limit, Process: p.process})
}

// Refusal says by how much s does not fit on the device of info, and what takes the memory.
func Refusal(s *StagePlan, words string, info kernels.Info) *fail.Error {
	takes := maps.Clone(s.Memory)
	if takes == nil {
		takes = map[string]int64{}
	}
	program := info.Process.Program
	if program > 0 {
		takes["the program itself"] = program
	}
	return fail.Limitf("", "", "%s %s %s, limit is %s (%s)", s.Stage, words, humanize.IBytes(uint64(s.Peak+program)), humanize.IBytes(uint64(max(info.Limit, info.Process.Bytes))), purposes(takes))
}

// purposes lists bytes by purpose, the largest first.
func purposes(m map[string]int64) string {
	names := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m[b], m[a]) })
	var parts []string
	for _, n := range names {
		if n != kernels.Mapped.String() {
			parts = append(parts, n+" "+humanize.IBytes(uint64(m[n])))
		}
	}
	return strings.Join(parts, ", ")
}
