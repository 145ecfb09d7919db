package recipes

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/device"
)

// StagePlan is what one stage would do.
type StagePlan struct {
	Stage   string           `json:"stage"`
	Kind    string           `json:"kind"`
	Cached  bool             `json:"cached,omitempty"` // done before with the same inputs
	GoesOn  bool             `json:"goes_on,omitempty"`
	Skipped bool             `json:"skipped,omitempty"` // by --only or --from
	Does    string           `json:"does"`
	Seconds float64          `json:"seconds,omitempty"` // estimated
	Peak    int64            `json:"peak_bytes,omitempty"`
	Memory  map[string]int64 `json:"memory,omitempty"`     // bytes by purpose, at each one's own peak
	Disk    int64            `json:"disk_bytes,omitempty"` // of the artifact
	Temp    int64            `json:"temporary_disk_bytes,omitempty"`
	Notes   []string         `json:"notes,omitempty"`
	Inputs  []PlanInput      `json:"inputs,omitempty"`

	counted bool // Peak was counted by the stage's own code, not estimated
}

// PlanInput is a reference of a stage and how it was found.
type PlanInput struct {
	Name string `json:"name"`
	Ref  string `json:"ref"`
	Why  string `json:"why"`
}

// Plan is what a run would do.
type Plan struct {
	Name     string      `json:"name"`
	Dir      string      `json:"dir"`
	Machine  string      `json:"machine"`
	Stages   []StagePlan `json:"stages"`
	Seconds  float64     `json:"seconds"`
	Peak     int64       `json:"peak_bytes"`
	Limit    int64       `json:"memory_limit_bytes"`
	Disk     int64       `json:"disk_bytes"`
	DiskFree uint64      `json:"disk_free_bytes"`
	Sampled  int         `json:"sampled_rows,omitempty"` // rows that counts were estimated from
	Recipe   string      `json:"recipe"`                 // resolved, as YAML
	Defaults []Default   `json:"defaults"`
}

func (s *StagePlan) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// memory takes over what a dry backend counted.
func (s *StagePlan) memory(peak int64, m kernels.MemStats) {
	if peak <= s.Peak {
		return
	}
	s.Peak, s.Memory, s.counted = peak, map[string]int64{}, true
	for i, n := range m.Peak {
		if n > 0 {
			s.Memory[kernels.Purpose(i).String()] = n
		}
	}
}

// planner computes the plan of a run from names, shapes, types and a look at
// the data.
type planner struct {
	x      *run
	ctx    context.Context
	plan   *Plan
	models map[string]*arch.Source
	rows   map[string]*rowsPlan
	rates  rates
	quick  bool // only what would be refused: memory, disk, impossible options
}

func (x *run) planner(ctx context.Context, quick bool) *planner {
	p := &planner{x: x, ctx: ctx, quick: quick, models: map[string]*arch.Source{}, rows: map[string]*rowsPlan{}, plan: &Plan{Name: x.Name, Dir: x.dir}}
	p.plan.Limit = x.dev.Info().Limit
	p.plan.DiskFree = DiskFree(existing(x.dir))
	return p
}

func (p *planner) close() {
	for _, m := range p.models {
		m.Close()
	}
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
	if p.rates, err = x.probe(); err != nil {
		return nil, err
	}
	p.plan.Machine = p.machine()
	err = p.walk()
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

func (p *planner) machine() string {
	info := p.x.dev.Info()
	return fmt.Sprintf("%d cores %s, %s free, %s", max(info.Threads, 1), info.Level, humanize.IBytes(uint64(max(device.HostMemory(), 0))), gpuWords(info.Name))
}

func gpuWords(device string) string {
	if strings.HasPrefix(device, "cuda") {
		return "GPU " + device
	}
	return "no GPU"
}

// walk plans every stage in order and returns the first refusal.
func (p *planner) walk() error {
	var refused error
	for _, j := range p.x.jobs {
		s, err := p.stage(j)
		p.plan.Stages = append(p.plan.Stages, s)
		if err == nil {
			continue
		}
		switch fail.Kind(fail.Code(err)) {
		case fail.Usage, fail.Limit:
			if refused == nil {
				refused = err
			}
		case fail.Input:
			if !p.quick && refused == nil {
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

func (p *planner) stage(j *Job) (StagePlan, error) {
	x := p.x
	s := StagePlan{Stage: j.Stage.ID, Kind: j.Stage.Kind()}
	for _, in := range j.Inputs {
		s.Inputs = append(s.Inputs, PlanInput{in.Name, in.Ref.String(), in.Ref.Why})
	}
	res, err := x.address(j)
	if err != nil {
		return s, err
	}
	old, err := x.load(j, res.Address)
	if err != nil {
		return s, err
	}
	if old != nil {
		x.done[j.Stage.ID] = old
		s.Cached, s.Does = true, "done before, with the same inputs"
		return s, nil
	}
	s.GoesOn = x.begun(j.Stage.ID, res.Address)
	if !x.wanted(j.Stage.ID) {
		s.Skipped, s.Does = true, "left out"
		return s, nil
	}
	if err = stageKinds[s.Kind].plan(p, j, &s); err == nil && s.counted && s.Peak > p.plan.Limit && p.plan.Limit > 0 {
		err = p.refusal(&s, "needs")
	}
	if s.GoesOn {
		s.note("goes on where it was")
	}
	return s, err
}

func (p *planner) total() {
	temp := int64(0)
	for _, s := range p.plan.Stages {
		p.plan.Seconds += s.Seconds
		p.plan.Peak = max(p.plan.Peak, s.Peak)
		p.plan.Disk += s.Disk
		temp = max(temp, s.Temp)
	}
	p.plan.Disk += temp
}

// diskSlack is kept free for logs, reports and the rest of the system.
const diskSlack = 64 << 20

// disk refuses a run whose artifacts and checkpoints would not fit.
func (p *planner) disk() error {
	if p.plan.DiskFree == 0 || p.plan.Disk == 0 || p.plan.Disk+diskSlack <= int64(p.plan.DiskFree) {
		return nil
	}
	var parts []string
	for _, s := range p.plan.Stages {
		if s.Disk+s.Temp > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", s.Stage, humanize.Bytes(uint64(s.Disk+s.Temp))))
		}
	}
	return fail.Limitf(p.x.dir, "free some space, or put the run elsewhere: --run-dir DIR", "the run needs %s of disk and %s to spare, %s are free (%s)",
		humanize.Bytes(uint64(p.plan.Disk)), humanize.Bytes(diskSlack), humanize.Bytes(p.plan.DiskFree), strings.Join(parts, ", "))
}

// refusal says by how much a stage does not fit, and what takes the memory.
func (p *planner) refusal(s *StagePlan, words string) *fail.Error {
	return fail.Limitf("", "", "%s %s %s, limit is %s (%s)", s.Stage, words, humanize.IBytes(uint64(s.Peak)), humanize.IBytes(uint64(p.plan.Limit)), purposes(s.Memory))
}

// purposes lists bytes by purpose, the largest first.
func purposes(m map[string]int64) string {
	names := sortedKeys(m)
	stable := stableBy(names, func(string) int { return 0 })
	for i := range stable { // few: selection
		for k := i + 1; k < len(stable); k++ {
			if m[stable[k]] > m[stable[i]] {
				stable[i], stable[k] = stable[k], stable[i]
			}
		}
	}
	var parts []string
	for _, n := range stable {
		if n != kernels.Mapped.String() {
			parts = append(parts, n+" "+humanize.IBytes(uint64(m[n])))
		}
	}
	return strings.Join(parts, ", ")
}

// Print writes the plan for a person; full adds the resolved recipe.
func (p *Plan) Print(w io.Writer, full bool) {
	if p.Machine != "" {
		fmt.Fprintf(w, "machine: %s\n", p.Machine)
	}
	rows := [][]string{{"stage", "does", "time", "peak", "disk", "note"}}
	var cached, more []string
	for _, s := range p.Stages {
		row := []string{s.Stage, s.Does, about(s.Seconds), ibytes(s.Peak), sized(s.Disk + s.Temp), ""}
		if s.Cached {
			cached = append(cached, s.Stage)
		}
		for i, n := range s.Notes {
			if i == 0 {
				row[5] = n
			} else {
				more = append(more, s.Stage+": "+n)
			}
		}
		rows = append(rows, row)
	}
	aligned(w, rows, []bool{false, false, true, true, true, false})
	if cached == nil {
		cached = []string{"none"}
	}
	fmt.Fprintf(w, "total   %s · %s of %s · %s of %s   cached: %s   times ±30 %%%s\n", about(p.Seconds), ibytesOr(p.Peak, "little memory"), ibytesOr(p.Limit, "no limit"),
		sizedOr(p.Disk, "no disk"), humanize.Bytes(p.DiskFree), strings.Join(cached, ", "), p.estimated())
	for _, m := range more {
		fmt.Fprintln(w, m)
	}
	p.printInputs(w)
	if full {
		fmt.Fprintf(w, "\n%s", p.Recipe)
	}
}

func (p *Plan) estimated() string {
	if p.Sampled == 0 {
		return ""
	}
	return fmt.Sprintf(" (counts estimated from %s rows)", humanize.Comma(int64(p.Sampled)))
}

// printInputs lists references that the recipe did not name.
func (p *Plan) printInputs(w io.Writer) {
	for _, s := range p.Stages {
		var parts []string
		names := map[PlanInput][]string{}
		for _, in := range s.Inputs {
			if in.Why == "given" || in.Why == "" {
				continue
			}
			k := PlanInput{Ref: in.Ref, Why: in.Why}
			if names[k] == nil {
				parts = append(parts, "")
			}
			names[k] = append(names[k], in.Name)
			parts[slices.Index(keyOrder(s.Inputs), k)] = fmt.Sprintf("%s = %s (%s)", strings.Join(names[k], ", "), in.Ref, in.Why)
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "%s reads %s\n", s.Stage, strings.Join(parts, "; "))
		}
	}
}

// keyOrder lists the references that the recipe did not name, each once.
func keyOrder(inputs []PlanInput) (out []PlanInput) {
	for _, in := range inputs {
		k := PlanInput{Ref: in.Ref, Why: in.Why}
		if in.Why != "given" && in.Why != "" && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func about(sec float64) string {
	if sec <= 0 {
		return ""
	}
	return duration(max(sec, 0.1))
}

func ibytesOr(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return ibytes(n)
}

func sizedOr(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return sized(n)
}
