package stages

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

var quantizeKind = recipes.Kind{
	Name: "quantize", Doc: "quantized folder, by one of several methods",
	New: func() any { return new(Quantize) }, Left: func() any { return new(QuantizeResult) },
	Gives: []recipes.RefKind{recipes.ModelRef}, Reforms: true, Keeps: true, // known by its report
	Resolve: func(o any, _ recipes.Setting, bad recipes.Bad) { o.(*Quantize).Fill(bad) }, Inputs: quantizeInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*Quantize)
		o.Model, o.Calibration = "", ""
		return o
	},
	Makes: func(any) []recipes.Made { return []recipes.Made{{}} },
	Held:  quantizeHeld, Plan: planQuantize, Run: runQuantize, View: viewQuantize,
}

// Quantize writes a quantized folder.
type Quantize struct {
	Model             string       `yaml:"model" doc:"stage or path" unset:"the last dense model above"`
	Method            MethodName   `yaml:"method" doc:"how values are chosen"`
	Scheme            SchemeName   `yaml:"scheme" doc:"bits and symmetry" unset:"the method's own"`
	Format            string       `yaml:"format" doc:"folder layout" enum:"gptq|gptq_v2|awq|bitsandbytes|compressed-tensors|exl2|fp8" unset:"the method's own"`
	For               schema.Names `yaml:"for" doc:"programs that must load it: transformers, vllm, tgi, exllama" unset:"[transformers, vllm]"`
	GroupSize         schema.Auto  `yaml:"group_size" doc:"columns that share a scale; auto: largest of 128, 64, 32 that divides every row; -1: whole row" default:"auto"`
	quant.GPTQOptions `yaml:",inline"`
	Search            SearchName   `yaml:"search,omitempty" doc:"method whose search for scales goes first" unset:"the method's own"`
	Overrides         schema.Names `yaml:"overrides,omitempty" doc:"modules with a scheme of their own, the first match counts: NAME=SCHEME, re:…=SCHEME/GROUP"`
	Calibration       string       `yaml:"calibration" doc:"ingest stage or file" unset:"the only ingest stage"`
	Samples           int          `yaml:"samples" doc:"calibration samples" default:"128" range:"[1,1000000]"`
	MaxLength         int          `yaml:"max_length" doc:"tokens a calibration sample" default:"2048" range:"[1,10000000]"`
	Ignore            schema.Names `yaml:"ignore" doc:"modules left as they are: names or re:…" default:"[lm_head]"`
	KeepDType         string       `yaml:"keep_dtype,omitempty" doc:"type of what is not quantized" enum:"auto|bf16|f16|f32" unset:"as in the model; bf16 where that is quantized"`
	quant.NF4Options  `yaml:",inline"`
	quant.EXL2Options `yaml:",inline"`
	AllowRequantize   bool `yaml:"allow_requantize" doc:"accept a model that is quantized already" default:"false"`
}

// MethodName is a method of package quant's table.
type MethodName string

// Enum lists the methods.
func (MethodName) Enum() []string { return quant.FolderMethods() }

// SearchName is a method of the table that moves scales.
type SearchName string

// Enum lists these methods.
func (SearchName) Enum() []string { return quant.SearchMethods() }

// SchemeName is a scheme of package quant's table.
type SchemeName string

// Enum lists the schemes.
func (SchemeName) Enum() []string { return quant.Schemes() }

// Fill sets what is not given, and reports what tags cannot say.
func (o *Quantize) Fill(bad recipes.Bad) {
	schema.Fill(o)
	if m := quant.MethodFor(string(o.Scheme)); o.Method == "" && m != nil { // the scheme names its method
		o.Method = MethodName(m.Name)
	}
	m, err := quant.MethodNamed(string(o.Method))
	switch {
	case o.Method == "":
		names := quant.FolderMethods()
		bad("method", strings.Join(names[:len(names)-1], ", ")+" or "+names[len(names)-1], "no method")
	case err == nil: // else its tag says so
		o.Scheme = cmp.Or(o.Scheme, SchemeName(m.Schemes[0]))
		o.Format = cmp.Or(o.Format, m.DefaultFormat(string(o.Scheme)))
	}
	if o.For == nil {
		o.For = quant.DefaultFor(o.Format)
	}
	if err == nil {
		o.strangers(bad)
	}
	if err := quant.CheckFor(o.For); err != nil {
		bad("for", fail.Hint(err), "%v", err)
	}
	if _, err := quant.ParseOverrides(o.Overrides); err != nil {
		bad("overrides", fail.Hint(err), "%v", err)
	}
	if job := o.Job(""); err == nil && o.Calibration != "" && !job.Calibrated() {
		bad("calibration", "leave it out, or choose a method that reads text", "%s reads no text", o.Method)
	}
	if g := o.GroupSize.Value; o.GroupSize.Set && (g != math.Trunc(g) || g == 0 || g < -1) {
		bad("group_size", "auto, -1 or a number of columns", "found %s", o.GroupSize)
	}
}

func quantizeInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Quantize)
	model, err := v.Writer("model", o.Model)
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "model", Ref: model}}
	if job := o.Job(""); job.Calibrated() {
		text, err := v.Data("calibration", o.Calibration)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "calibration", Ref: text})
	}
	return in, nil
}

func quantizeHeld(p *recipes.Planner, j *recipes.Job, from *arch.Source, _ string) (map[string]recipes.Held, error) {
	plan, err := quant.PlanFolder(from, folderJob(p.Env, j))
	if err != nil {
		return nil, err
	}
	out := typed(typesOf(from, arch.Dense{Path: "x"}))
	for _, l := range plan.Layers {
		h := recipes.Held{Type: plan.Types[l], Act: plan.Acts[l]}
		if plan.Format == formats.EXL2 { // which is decoded on reading
			h.Type = dtype.Of(dtype.F16)
		}
		out[l+".weight"] = h
	}
	return out, nil
}

// quantReport is the file beside the weights that says what was done to each
// layer, a JSON line each.
const quantReport = "quantization.json"

// QuantizeResult is what a quantize stage leaves for the report.
type QuantizeResult struct {
	Report *quant.Report       `json:"report"`
	Bits   float64             `json:"bits_per_weight"`
	Layers []quant.LayerReport `json:"layers"`
}

// folderJob is a quantize stage in package quant's terms.
func folderJob(x *recipes.Env, j *recipes.Job) quant.FolderJob {
	return j.Options.(*Quantize).Job(x.Dir(j))
}

// own are the options of the method itself, nil where it has none.
func (o *Quantize) own() any {
	m, err := quant.MethodNamed(string(o.Method))
	if err != nil || m.Options == nil { // planning says what is wrong with a name
		return nil
	}
	for _, f := range o.ofMethods() {
		if f.Type() == reflect.TypeOf(m.Options()) {
			return f.Interface()
		}
	}
	panic("stages: the keys of a quantize stage lack the options of " + m.Name)
}

// ofMethods are pointers to the options that belong to one method each.
func (o *Quantize) ofMethods() []reflect.Value {
	var out []reflect.Value
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			out = append(out, v.Field(i).Addr())
		}
	}
	return out
}

// strangers reports options of other methods that are not left at their default.
func (o *Quantize) strangers(bad recipes.Bad) {
	mine := o.own()
	for _, p := range o.ofMethods() {
		if mine != nil && p.Type() == reflect.TypeOf(mine) {
			continue
		}
		unset := reflect.New(p.Type().Elem())
		schema.Fill(unset.Interface())
		for i := range p.Elem().NumField() {
			if !reflect.DeepEqual(p.Elem().Field(i).Interface(), unset.Elem().Field(i).Interface()) {
				key, _, _ := strings.Cut(p.Type().Elem().Field(i).Tag.Get("yaml"), ",")
				hint := "leave it out"
				if _, own, ok := schema.Foreign(key); ok {
					hint = own
				}
				bad(key, hint, "%s has no option %s", o.Method, key)
			}
		}
	}
}

// Job is the options, filled, in package quant's terms; path is where the folder
// will be.
func (o *Quantize) Job(path string) quant.FolderJob {
	job := quant.FolderJob{Path: path, Method: string(o.Method), Scheme: string(o.Scheme), Format: o.Format, For: o.For,
		Samples: o.Samples, Ignore: o.Ignore, AllowRequantize: o.AllowRequantize}
	job.Options = o.own()
	job.Search = string(o.Search)
	job.Overrides, _ = quant.ParseOverrides(o.Overrides)            // checked when they were filled
	if t, err := storageType(o.KeepDType); err == nil && t != nil { // an enum
		job.Keep = &t.Kind
	}
	if o.GroupSize.Set {
		job.Group = int(o.GroupSize.Value)
	}
	return job
}

// neighbours are the quantize stages from the running one on that read the
// same model and the same calibration text and still have to be run: they
// share one pass over the weights. Each keeps its address, folder and journal.
func neighbours(x *recipes.Env, j *recipes.Job) []*recipes.Job {
	group := []*recipes.Job{j}
	for _, next := range x.Later() {
		o, ok := next.Options.(*Quantize)
		if !ok || !sameInputs(j, next) || o.MaxLength != j.Options.(*Quantize).MaxLength || exists(x.Dir(next)) {
			break
		}
		group = append(group, next)
	}
	return group
}

// sameInputs reports whether two stages read the same things; one that needs
// no calibration fits any.
func sameInputs(a, b *recipes.Job) bool {
	for _, name := range []string{"model", "calibration"} {
		x, okX := a.In(name)
		y, okY := b.In(name)
		if okX && okY && x.String() != y.String() {
			return false
		}
	}
	return true
}

func runQuantize(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	if exists(filepath.Join(x.Dir(j), quantReport)) { // made beside a neighbour
		x.Note("made in an earlier stage's pass, whose time is that of both")
		return takeReport(x, j, res)
	}
	if err := atomic.RemoveAll(x.Dir(j)); err != nil { // finished, but killed before its report
		return err
	}
	group := neighbours(x, j)
	ref, _ := j.In("model")
	src, err := OpenSource(x.Path(ref))
	if err != nil {
		return err
	}
	defer src.Close()
	files, err := modelFiles(src)
	if err != nil {
		return err
	}
	var jobs []quant.FolderJob
	var calibration [][]int32
	for _, g := range group {
		if g != j { // its own turn comes: mark it as begun, so that nothing is taken for foreign
			if err := x.Begin(g); err != nil {
				return err
			}
		}
		job := folderJob(x, g)
		job.Files = files
		jobs = append(jobs, job)
		if cal, ok := g.In("calibration"); ok && calibration == nil {
			if calibration, err = calibrationText(ctx, x, j, cal, src, mostSamples(group), g.Options.(*Quantize).MaxLength); err != nil {
				return err
			}
		}
	}
	if len(group) > 1 {
		x.Note("shared pass with " + group[len(group)-1].ID)
	}
	reports, err := quant.Folder(ctx, x.Device(), src, jobs, calibration, x.Progress("work"))
	if err != nil {
		return err
	}
	for i, r := range reports {
		if err := atomic.WriteFile(filepath.Join(jobs[i].Path, quantReport), r.Lines()); err != nil {
			return err
		}
	}
	return takeReport(x, j, res)
}

// takeReport takes over the report beside a stage's weights.
func takeReport(x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	r, err := readQuantReport(x.Dir(j))
	if err != nil {
		return err
	}
	res.Left = r
	res.Notes = append(res.Notes, r.Report.Warnings...)
	return x.FailOn(j, "fallback", int64(r.Report.Fallbacks()))
}

func mostSamples(group []*recipes.Job) int {
	n := 0
	for _, g := range group {
		n = max(n, g.Options.(*Quantize).Samples)
	}
	return n
}

func readQuantReport(dir string) (*QuantizeResult, error) {
	path := filepath.Join(dir, quantReport)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Inputf(path, "remove the folder and run again", "%w", err)
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	r := &QuantizeResult{Report: &quant.Report{}}
	if err := json.Unmarshal(lines[0], r.Report); err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	for _, l := range lines[1:] {
		var layer quant.LayerReport
		if err := json.Unmarshal(l, &layer); err != nil {
			return nil, fail.Inputf(path, "", "%w", err)
		}
		r.Layers = append(r.Layers, layer)
	}
	r.Report.Layers = r.Layers
	r.Bits = r.Report.BitsPerWeight()
	return r, nil
}

// Quantization is what `quant gptq` and its siblings do: one model into one folder
// with its tokenizer and quantization.json.
type Quantization struct {
	Model, Output string
	Calibration   data.Source // none where the method needs none
	Options       *Quantize
	AnyFor        bool         // nobody said who must load it: one of Options.For is enough
	Note          func(string) // is told of the others; may be nil
}

// job is what is to be done. Where nobody said who must load the folder, it is for
// those of the usual programs that do.
func (q *Quantization) job(src *arch.Source) (quant.FolderJob, error) {
	job := q.Options.Job(q.Output)
	writtenNotes(src, noteTo(q.Note))
	if !q.AnyFor {
		return job, nil
	}
	plain := job
	plain.For = []string{}
	plan, err := quant.PlanFolder(src, plain)
	if err != nil {
		return job, err
	}
	if by, why := plan.LoadedBy(job.For); len(by) > 0 {
		job.For = by
		for _, w := range why {
			noteTo(q.Note)(w)
		}
	}
	return job, nil
}

// address is what the folder will be made of.
func (q *Quantization) address(dev kernels.Backend) (recipes.Digest, error) {
	in, env := map[string]string{"model": q.Model}, map[string]string{}
	if job := q.Options.Job(""); job.Calibrated() {
		rows := q.Calibration
		in["calibration"], rows.Path = rows.Path, ""
		env["rows"] = fmt.Sprint(rows)
	}
	return recipes.JobAddress(&quantizeKind, q.Options, in, dev.Info().Address, env)
}

// Done reports whether the output is there, finished, and made of the same model,
// calibration text and options; one that is there and made of anything else is an error.
func (q *Quantization) Done(dev kernels.Backend) (bool, error) {
	if !exists(q.Output) {
		return false, nil
	}
	r, err := readQuantReport(q.Output)
	if err != nil {
		return false, fail.Usagef(q.Output, "--force replaces it", "already exists, and no %s says what it was made of", quantReport)
	}
	want, err := q.address(dev)
	if err == nil && r.Report.Address != string(want) {
		err = fail.Usagef(q.Output, "--force replaces it", "already exists, made of another model or calibration, with other options, kernels or another version")
	}
	return err == nil, err
}

// Run does it.
func (q *Quantization) Run(ctx context.Context, dev kernels.Backend, progress func(done, total int64)) (*quant.Report, error) {
	src, err := OpenSource(q.Model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	job, err := q.job(src)
	if err != nil {
		return nil, err
	}
	if job.Files, err = modelFiles(src); err != nil {
		return nil, err
	}
	plan, err := quant.PlanFolder(src, job) // before text is read
	if err != nil {
		return nil, err
	}
	if text := plan.ExpertsNote(); text != "" {
		noteTo(q.Note)(text)
	}
	address, err := q.address(dev)
	if err != nil {
		return nil, err
	}
	var cal [][]int32
	if job.Calibrated() {
		if cal, err = calibrationFile(ctx, q.Calibration, q.Output, src, job.Samples, q.Options.MaxLength); err != nil {
			return nil, err
		}
	}
	if err := room(dev, q.Model, func(dev *dry.Dry) error {
		shapes, err := shapesOf(src)
		if err == nil {
			_, err = quant.Rehearse(ctx, dev, shapes, []quant.FolderJob{job}, cal)
		}
		return err
	}); err != nil {
		return nil, err
	}
	reps, err := quant.Folder(ctx, dev, src, []quant.FolderJob{job}, cal, progress)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fail.Interruptedf(job.Path, "run the same command again to go on", "interrupted: %w", err)
		}
		return nil, err
	}
	reps[0].Address = string(address)
	return reps[0], atomic.WriteFile(filepath.Join(job.Path, quantReport), reps[0].Lines())
}

// planQuantize: a quantized folder.
func planQuantize(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	ref, _ := j.In("model")
	src, err := p.Source(ref)
	if err != nil {
		return err
	}
	o := j.Options.(*Quantize)
	plan, err := quant.PlanFolder(src, folderJob(p.Env, j))
	if err != nil {
		return err
	}
	s.Disk = plan.Bytes
	s.Does = fmt.Sprintf("%s %s", strings.ToUpper(string(o.Method)), bitsOf(plan.Bytes, plan.Elements))
	if plan.Group != 0 {
		s.Note("groups of %d; %d matrices, %d left as they are", plan.Group, len(plan.Layers), len(plan.Kept))
	} else {
		s.Note("%d matrices, %d left as they are", len(plan.Layers), len(plan.Kept))
	}
	if text := plan.ExpertsNote(); text != "" {
		s.Note("%s", text)
	}
	writtenNotes(src, func(text string) { s.Note("%s", text) })
	if by := plan.RefusedBy(); len(by) > 0 {
		s.Note("%s will not load it", strings.Join(by, ", "))
	}
	s.Seconds = float64(src.Spec.Params()) / 1e8
	group := neighbours(p.Env, j)
	var text [][]int32
	if in, ok := j.In("calibration"); ok {
		if text, err = planCalibration(p, in, s, src, calibrationPlan{mostSamples(group), min(o.MaxLength, src.Spec.MaxPos), plan.Work}); err != nil {
			return err
		}
		if o.Samples > 32 && s.Seconds > 60 {
			s.Note("samples: 32, max_length: 512 would take %s", recipes.About(s.Seconds*32*512/float64(o.Samples*min(o.MaxLength, src.Spec.MaxPos))))
		}
	}
	if text == nil && plan.Calibrated() { // nothing is refused on a guess
		return nil
	}
	return rehearseQuantize(p, group, s, src, text)
}

// rehearseQuantize counts the memory of the pass that makes a group of folders.
// That of the first is the pass's, the others are found done.
func rehearseQuantize(p *recipes.Planner, group []*recipes.Job, s *recipes.StagePlan, src *arch.Source, text [][]int32) error {
	const shared = "shared pass of "
	first, err := recipes.Once(p, shared+group[0].ID, func() (string, error) { return group[0].ID, nil })
	if err != nil || first != group[0].ID {
		s.Note("made in the pass of %s", first)
		return err
	}
	var jobs []quant.FolderJob
	for _, j := range group {
		jobs = append(jobs, folderJob(p.Env, j))
		if _, err := recipes.Once(p, shared+j.ID, func() (string, error) { return first, nil }); err != nil {
			return err
		}
	}
	if src, err = shapesOf(src); err != nil {
		return err
	}
	var disk int64
	err = counted(p, s, func(dev *dry.Dry) (err error) {
		disk, err = quant.Rehearse(p.Context, dev, src, jobs, text)
		return err
	})
	s.Temp += disk
	return err
}

func viewQuantize(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	dir := x.Dir(j)
	s.Models = append(s.Models, report.Row{Model: j.ID, Path: dir})
	s.Layers = quantizeLayers(j.ID, res.Left.(*QuantizeResult))
	if slices.Contains(j.Options.(*Quantize).For, "vllm") { // checked against what it loads
		s.Next = append(s.Next, report.Command{For: "vLLM", Line: fmt.Sprintf("vllm serve %s --served-model-name %s", report.Shell(dir), report.Shell(x.Name()+"-"+j.ID))})
	}
}

// quantizeLayers shows the error of each layer of a quantized folder.
func quantizeLayers(stage string, q *QuantizeResult) []report.Layers {
	if q.Report == nil || len(q.Layers) == 0 {
		return nil
	}
	r := q.Report
	v := report.Layers{Title: "Quantization: " + stage, WorstTitle: "Worst layers", Head: []string{"layer", "error", "weights", "how"}}
	v.Line = fmt.Sprintf("%s %s, %s a weight in %s layers", r.Method, r.Scheme, report.Sig(q.Bits, 3)+" bits", humanize.Comma(int64(len(q.Layers))))
	if r.Group != 0 {
		v.Line += fmt.Sprintf(", groups of %d columns", r.Group)
	}
	v.ChartTitle = "‖(Wq−W)·Xᵀ‖²/‖W·Xᵀ‖² by layer"
	if r.Tokens > 0 {
		v.Line += fmt.Sprintf(", calibrated on %s tokens in %s samples", humanize.Comma(int64(r.Tokens)), humanize.Comma(int64(r.Samples)))
	} else {
		v.ChartTitle = "‖Wq−W‖²/‖W‖² by layer"
	}
	v.Line += "."
	if len(r.Kept) > 0 {
		v.Line += fmt.Sprintf(" Left as they are: %s.", listed(r.Kept, 3))
	}
	fallen := 0
	for _, l := range q.Layers {
		how := l.Method
		switch {
		case l.Fallback != "":
			how += ": " + l.Fallback
			fallen++
		case l.Damp > 0:
			how += fmt.Sprintf(", damp %s", report.Sig(l.Damp, 2))
		case l.Ratio > 0:
			how += fmt.Sprintf(", ratio %s", report.Sig(l.Ratio, 2))
		}
		v.Values = append(v.Values, report.Layer{Name: l.Layer, Value: l.Relative, Cells: []string{report.Sig(l.Relative, 3), report.Sig(l.Weight, 3), how}})
	}
	if fallen > 0 {
		v.Line += fmt.Sprintf(" %d layers fell back to round-to-nearest.", fallen)
	}
	return []report.Layers{v}
}

// listed names the first few of a list.
func listed(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:n], ", ") + fmt.Sprintf(" and %d more", len(names)-n)
}
