package stages

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/train/eval"
)

var evalKind = recipes.Kind{
	Name: "eval", Doc: "perplexity, KL, tasks, speed, gate",
	New: func() any { return new(Eval) }, Left: func() any { return new(report.Evaluation) },
	Measures: true,
	Resolve:  resolveEval, Inputs: evalInputs, Address: addressEval, Full: fullEval,
	Shape: func(j *recipes.Job) (recipes.Ref, bool) {
		for _, in := range j.Inputs {
			if j.Options.(*Eval).Context == 0 && strings.HasPrefix(in.Name, "models[") {
				return in.Ref, true
			}
		}
		return recipes.Ref{}, false
	},
	Fit: func(j *recipes.Job, spec *arch.Spec) error {
		o := j.Options.(*Eval)
		o.Context = min(2048, spec.MaxPos)
		o.Stride = cmp.Or(o.Stride, o.Context)
		return nil
	},
	Plan: planEval, Run: runEval, View: viewEval,
}

// Eval measures models from their own files.
type Eval struct {
	Models       []EvalModel      `yaml:"models" type:"list of names or mappings" doc:"stages, paths or {name, model, adapter}" unset:"all models above"`
	Tasks        schema.Names     `yaml:"tasks" doc:"perplexity, kl, top1, exact_match, speed" default:"[perplexity, kl]"`
	Data         string           `yaml:"data" doc:"ingest stage or file" unset:"the validation part"`
	Samples      int              `yaml:"samples" doc:"rows used" unset:"all" range:"[1,1000000000]"`
	Reference    string           `yaml:"reference" doc:"model for kl and top1" unset:"what each model was made from"`
	Baseline     string           `yaml:"baseline" doc:"file written by --write-baseline"`
	Context      int              `yaml:"context" doc:"tokens a window" unset:"2048, or the model's" range:"[2,10000000]"`
	Stride       int              `yaml:"stride" doc:"tokens between windows" unset:"context" range:"[1,10000000]"`
	MaxNewTokens int              `yaml:"max_new_tokens" doc:"of a generated answer" default:"256" range:"[1,1000000]"`
	Temperature  float64          `yaml:"temperature" doc:"0 is greedy" default:"0" range:"[0,100]"`
	Filter       string           `yaml:"filter,omitempty" doc:"regular expression of what counts in an answer: its first group, or the match; e.g. '#### (-?[0-9.,]+)'" unset:"the whole answer"`
	Gate         map[string]Limit `yaml:"gate" doc:"metric to limit" keys:"perplexity|kl|top1|exact_match"`
	Unsure       string           `yaml:"unsure" doc:"what a gate that cannot tell does" enum:"pass|fail" default:"fail"`
}

// EvalModel is one model to measure.
type EvalModel struct {
	Name    string `yaml:"name" doc:"row in the table"`
	Model   string `yaml:"model" doc:"stage or path"`
	Adapter string `yaml:"adapter" doc:"PEFT folder or train stage"`
}

// Limit is one gate.
type Limit struct {
	Max         schema.Bound `yaml:"max" doc:"largest value"`
	Min         schema.Bound `yaml:"min" doc:"smallest value"`
	MaxIncrease schema.Bound `yaml:"max_increase" doc:"over the baseline: 1% relative, 0.01 absolute"`
	MaxDecrease schema.Bound `yaml:"max_decrease" doc:"under the baseline"`
}

// SetYAML reads a name, or a mapping.
func (m *EvalModel) SetYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		m.Model = n.Value
		return nil
	}
	type plain EvalModel
	if err := schema.DecodeNode(n, (*plain)(m)); err != nil {
		return err
	}
	if m.Model == "" && m.Adapter == "" {
		return fmt.Errorf("a model needs model or adapter")
	}
	return nil
}

func resolveEval(opts any, _ recipes.Setting, bad recipes.Bad) {
	o := opts.(*Eval)
	schema.Fill(o)
	if err := checkTasks(o.Tasks); err != nil {
		bad("tasks", fail.Hint(err), "%v", err)
	}
	if _, err := eval.NewFilter(o.Filter); err != nil {
		bad("filter", "a pattern such as '#### (-?[0-9.,]+)'", "%v", err)
	}
	for _, u := range o.unread(o.gates()) {
		bad(u.key, u.hint, "%s", u.text)
	}
	for _, metric := range slices.Sorted(maps.Keys(o.Gate)) {
		if !slices.Contains(o.Tasks, metric) {
			bad("gate", "add "+metric+" to tasks", "a limit on %s, which is not measured", metric)
		}
	}
	o.Stride = cmp.Or(o.Stride, o.Context)
}

// unread is an option that was given and that nothing would read.
type unread struct{ key, hint, text string }

// unread lists the options with another value than the default that no task and no
// gate reads.
func (o *Eval) unread(gates []Gate) []unread {
	var out []unread
	belongs := func(given bool, key string, tasks ...string) {
		if given && !slices.ContainsFunc(tasks, func(t string) bool { return slices.Contains(o.Tasks, t) }) {
			out = append(out, unread{key, "add " + tasks[0] + " to tasks, or leave it out", fmt.Sprintf("%s belongs to %s, which is not among the tasks", key, strings.Join(tasks, " and "))})
		}
	}
	plain := new(Eval)
	schema.Fill(plain)
	belongs(o.Filter != "", "filter", "exact_match")
	belongs(o.MaxNewTokens != plain.MaxNewTokens, "max_new_tokens", "exact_match")
	belongs(o.Temperature != plain.Temperature, "temperature", "exact_match")
	belongs(o.Reference != "", "reference", "kl", "top1")
	if o.Unsure != plain.Unsure && len(gates) == 0 {
		out = append(out, unread{"unsure", "add a gate, or leave it out", "unsure belongs to a gate, and there is none"})
	}
	if o.Baseline != "" && len(gates) == 0 {
		out = append(out, unread{"baseline", "add a gate such as perplexity.max_increase: 1%, or leave it out", "a baseline belongs to a gate, and there is none"})
	}
	return out
}

// CheckRead refuses the first option that none of its tasks and of these gates reads.
func (o *Eval) CheckRead(gates []Gate) error {
	for _, u := range o.unread(gates) {
		return fail.Usagef(u.key, u.hint, "%s", u.text)
	}
	return nil
}

func evalInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Eval)
	models := o.Models
	if models == nil {
		for _, m := range v.AllModels() {
			models = append(models, EvalModel{Name: m.Name, Model: m.Ref})
		}
		if len(models) == 1 && models[0].Name == "base" { // a reward model is likely meant
			if _, err := v.Writer("models", ""); err != nil {
				return nil, err
			}
		}
	}
	if len(models) == 0 {
		return nil, v.Usagef("models", "name a model", "no models above")
	}
	var in []recipes.Input
	for i, m := range models {
		if slices.ContainsFunc(models[:i], func(o EvalModel) bool { return o.row() == m.row() }) {
			return nil, v.Usagef("models", "give one of them another name", "two models are called %s", m.row())
		}
		refs, err := m.inputs(v, o.Reference == "")
		if err != nil {
			return nil, err
		}
		in = append(in, refs...)
	}
	if o.Reference != "" {
		ref, err := v.Given(recipes.ModelRef, "reference", o.Reference)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "reference", Ref: ref})
	}
	comparing := func(task string) bool { return task == "kl" || task == "top1" }
	compared := slices.ContainsFunc(in, func(i recipes.Input) bool { return strings.HasPrefix(i.Name, "reference") })
	if i := slices.IndexFunc(o.Tasks, comparing); i >= 0 && !compared {
		_, kl := o.Gate["kl"]
		_, top1 := o.Gate["top1"]
		if kl || top1 || !slices.ContainsFunc(o.Tasks, func(t string) bool { return !comparing(t) }) {
			return nil, v.Usagef("tasks", "name a reference", "%s compares with a reference, and none of the models has one", o.Tasks[i])
		}
	}
	rows, err := v.Data("data", o.Data)
	if err != nil {
		return nil, err
	}
	return append(in, recipes.Input{Name: "data", Ref: rows}), nil
}

// row is the model's name in the table.
func (m *EvalModel) row() string { return cmp.Or(m.Name, m.Model, m.Adapter) }

// inputs are a model, its adapter and, if wanted, what it is compared with.
func (m *EvalModel) inputs(v *recipes.Resolver, compared bool) ([]recipes.Input, error) {
	name := m.row()
	var ref recipes.Ref
	var err error
	if m.Model != "" {
		ref, err = v.Writer("models", m.Model)
	} else {
		ref, err = v.Model("models", "")
	}
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "models[" + name + "]", Ref: ref}}
	if m.Adapter != "" {
		a, err := v.Given(recipes.AdapterRef, "models", m.Adapter)
		if err == nil {
			err = v.Words("models", a)
		}
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "adapters[" + name + "]", Ref: a})
	}
	if r, ok := v.MadeFrom(ref); ok && compared {
		in = append(in, recipes.Input{Name: "references[" + name + "]", Ref: r})
	}
	return in, nil
}

func addressEval(a *recipes.Addresser, opts any) any {
	o := *opts.(*Eval)
	if o.Baseline != "" { // not an input: it may not be there yet
		h, err := a.Hash(o.Baseline)
		a.Env["baseline"] = fmt.Sprint(h, err == nil)
	}
	o.Models, o.Data, o.Reference, o.Baseline = nil, "", "", ""
	return o
}

// fullEval lists the models of a stage that did not say which.
func fullEval(j *recipes.Job) any {
	o := *j.Options.(*Eval)
	if o.Models == nil {
		for _, in := range j.Inputs {
			if name, ok := strings.CutPrefix(in.Name, "models["); ok {
				o.Models = append(o.Models, EvalModel{Name: strings.TrimSuffix(name, "]"), Model: in.Ref.String()})
			}
		}
	}
	return &o
}

// gates lists a stage's limits in a fixed order.
func (o *Eval) gates() []Gate {
	var out []Gate
	for _, metric := range slices.Sorted(maps.Keys(o.Gate)) {
		l := o.Gate[metric]
		for _, b := range []struct {
			kind string
			schema.Bound
		}{{"max", l.Max}, {"min", l.Min}, {"max_increase", l.MaxIncrease}, {"max_decrease", l.MaxDecrease}} {
			if b.Set {
				out = append(out, Gate{metric, eval.Limit{Kind: b.kind, Value: b.Value, Relative: b.Relative}})
			}
		}
	}
	return out
}

// targets lists the models of an eval stage.
func targets(x *recipes.Env, j *recipes.Job) []EvalTarget {
	var out []EvalTarget
	common, hasCommon := j.In("reference")
	for _, in := range j.Inputs {
		name, ok := strings.CutPrefix(in.Name, "models[")
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, "]")
		t := EvalTarget{Name: name, Path: x.Path(in.Ref)}
		if a, ok := j.In("adapters[" + name + "]"); ok {
			t.Adapters = []string{x.Path(a)}
		}
		if hasCommon {
			t.Reference = x.Path(common)
		} else if r, ok := j.In("references[" + name + "]"); ok {
			t.Reference = x.Path(r)
		}
		out = append(out, t)
	}
	return out
}

func runEval(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Eval)
	r := EvalRequest{
		Models: targets(x, j), Tasks: o.Tasks, Samples: o.Samples, Context: o.Context, Stride: o.Stride, MaxNew: o.MaxNewTokens,
		Filter: o.Filter, Temperature: o.Temperature, Seed: x.Seed(), Baseline: o.Baseline, WriteBaseline: x.WriteBaseline(),
		Gates: o.gates(), UnsurePasses: o.Unsure == "pass", Note: x.Note, Report: "see report.html",
		Progress: func(model, task string, done, total int64) {
			x.Event(recipes.Event{What: "progress", Done: done, Total: total, Unit: task, Text: model})
		},
	}
	overlap, err := evalData(ctx, x, j, &r)
	if err != nil {
		return err
	}
	if err := x.FailOn(j, "duplicates", int64(overlap)); err != nil {
		return err
	}
	out, err := Evaluate(ctx, x.Device(), r)
	if out == nil {
		return err
	}
	out.Overlap = overlap
	res.Left = out
	if werr := writeEval(x, j, out); err == nil {
		err = werr
	}
	return err
}

// evalData finds the rows to measure on: those held back by the ingest stage,
// or a file. It counts the prompts that also occur in training.
func evalData(ctx context.Context, x *recipes.Env, j *recipes.Job, r *EvalRequest) (overlap int, err error) {
	ref, _ := j.In("data")
	var train []data.Examples
	if ref.Stage != "" {
		ds, err := dataset(ctx, x, ref, recipes.Ref{}, "")
		if err != nil {
			return 0, err
		}
		tr, _ := x.Job(ref.Stage).In("tokenizer")
		tok, src, err := ingestTokenizer(x.Path(tr))
		if err != nil {
			return 0, err
		}
		src.Close()
		r.Tokenizer = tok
		r.Rows, train = ds.Val.Firsts(), []data.Examples{ds.Train}
		if r.Rows.Len() == 0 {
			r.Rows = ds.Train.Firsts()
			x.Note("nothing is held back: measuring on the training rows")
		}
	} else {
		tok, src, err := OpenTokenizer(r.Models[0].Path, r.Models[0].Adapters...)
		if err != nil {
			return 0, err
		}
		spec := src.Spec
		src.Close()
		r.Tokenizer = tok
		if r.Rows, r.Text, err = EvalFile(ctx, data.HeldBack(ref.Path), x.Dir(j), tok, r.Context, &spec, r.TextTokens(), x.Note); err == nil {
			err = Answered(&spec, ref.Path, r.Text)
		}
		if err != nil {
			return 0, err
		}
		for _, other := range x.Jobs() {
			if other.Kind == &ingestKind && exists(x.Dir(other)) {
				ds, err := data.LoadArrow(x.Dir(other))
				if err != nil {
					return 0, err
				}
				train = append(train, ds.Train)
			}
		}
	}
	if r.Tokenizer != nil {
		r.Template = r.Tokenizer.ChatTemplate()
	}
	return data.SharedPrompts(r.Rows, train...)
}

// speedFile holds what was timed.
const speedFile = "speed.json"

// writeEval leaves the measurements in the stage's folder.
func writeEval(x *recipes.Env, j *recipes.Job, out *report.Evaluation) error {
	dir := x.Dir(j)
	if err := atomic.MkdirAll(dir); err != nil {
		return fail.Limitf(dir, "", "%w", err)
	}
	steady, timed := *out, report.Evaluation{} // times differ from run to run: they are no part of the artifact
	steady.Metrics = nil
	for _, m := range out.Metrics {
		if m.Task == "speed" {
			timed.Metrics = append(timed.Metrics, m)
		} else {
			steady.Metrics = append(steady.Metrics, m)
		}
	}
	for name, v := range map[string]any{"eval.json": steady, speedFile: timed.Metrics} {
		if name == speedFile && timed.Metrics == nil {
			continue
		}
		raw, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			return err
		}
		if err := atomic.WriteFile(filepath.Join(dir, name), append(raw, '\n')); err != nil {
			return err
		}
	}
	junit, err := steady.JUnit(j.ID)
	if err != nil {
		return err
	}
	return atomic.WriteFile(filepath.Join(dir, "junit.xml"), junit)
}

// planEval: every model measured from its own file.
func planEval(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	o := j.Options.(*Eval)
	if in, _ := j.In("data"); in.Stage != "" && p.Quick { // nothing is refused on a guess
		if r, err := rowsOf(p, in.Stage); err != nil || r.unknown != "" {
			return err
		}
	}
	rows, tokens, answer := evalRows(p, j)
	var names []string
	for _, in := range j.Inputs {
		name, ok := strings.CutPrefix(in.Name, "models[")
		if !ok {
			continue
		}
		names = append(names, strings.TrimSuffix(name, "]"))
		m, err := p.Source(in.Ref)
		if err != nil {
			return err
		}
		if err := fitsContext(o.Context, m.Spec.Context(), in.Ref.String()); err != nil {
			return err
		}
		ref := referenceOf(j, strings.TrimSuffix(name, "]"))
		if err := planModel(p, j, s, m, ref, rows, tokens, answer); err != nil {
			return err
		}
	}
	if p.Env.WriteBaseline() == "" {
		if err := o.checkBaseline(names); err != nil {
			return err
		}
	}
	s.Does = fmt.Sprintf("%s of %d models", strings.Join(o.Tasks, ", "), len(names))
	if rows > 0 {
		s.Note("%s rows, %s tokens each model", humanize.Comma(rows), count(float64(tokens)))
	}
	s.Disk = 64 << 10
	return nil
}

// referenceOf is the input that a model is compared with.
func referenceOf(j *recipes.Job, name string) *recipes.Ref {
	for _, key := range []string{"reference", "references[" + name + "]"} {
		if r, ok := j.In(key); ok {
			return &r
		}
	}
	return nil
}

// evalRows is what an eval stage measures on: rows, their tokens, and the mean
// length of an answer.
func evalRows(p *recipes.Planner, j *recipes.Job) (rows, tokens int64, answer float64) {
	o := j.Options.(*Eval)
	in, _ := j.In("data")
	answer = float64(o.MaxNewTokens)
	if in.Stage == "" {
		return 0, 16384, answer // a file: its size says little before it is tokenized
	}
	r, err := rowsOf(p, in.Stage)
	if err != nil || r.unknown != "" {
		return 0, 16384, answer
	}
	rows, tokens = r.val, r.valTokens
	if rows == 0 {
		rows, tokens = r.train, r.trainTokens
	}
	if o.Samples > 0 && rows > int64(o.Samples) {
		tokens = tokens * int64(o.Samples) / rows
		rows = int64(o.Samples)
	}
	if r.tokens > 0 && r.train+r.val > 0 {
		answer = min(answer, float64(r.supervised)/float64(r.train+r.val))
	}
	return rows, tokens, max(answer, 1)
}

// planModel adds the cost of one model: one pass for perplexity and KL, and
// answers a token at a time.
func planModel(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, m *arch.Source, refRef *recipes.Ref, rows, tokens int64, answer float64) error {
	seconds := s.Seconds
	return counted(p, s, func(dev *dry.Dry) error {
		s.Seconds = seconds
		return rehearseEval(p, j, s, dev, m, refRef, rows, tokens, answer)
	})
}

func rehearseEval(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, dev *dry.Dry, m *arch.Source, refRef *recipes.Ref, rows, tokens int64, answer float64) error {
	o := j.Options.(*Eval)
	mod, err := dryModel(dev, m)
	if err != nil {
		return err
	}
	defer mod.Close()
	has := func(task string) bool { return slices.Contains(o.Tasks, task) }
	window := int(min(int64(o.Context), max(tokens/max(rows, 1), 2)))
	if rows == 0 {
		window = o.Context
	}
	window = InTable(&m.Spec, window)
	if has("perplexity") || has("kl") || has("top1") {
		var ref *model.Model
		if refRef != nil && (has("kl") || has("top1")) {
			src, err := p.Source(*refRef)
			if err != nil {
				return err
			}
			if ref, err = dryModel(dev, src); err != nil {
				return err
			}
			defer ref.Close()
		}
		n := max(1, int(min(tokens, 2048))/window)
		if _, err := eval.Run(p.Context, mod, ref, eval.Examples(zeroRows(n, window), o.Context), eval.ScoreOptions{}); err != nil {
			return err
		}
		s.Seconds += p.Rates.Seconds(times(dev.Work(), float64(tokens)/float64(n*window)), false)
	}
	if has("exact_match") {
		requests := make([]engine.Request, 16)
		for i := range requests {
			requests[i] = engine.Request{Prompt: make([]int32, max(window-int(answer), 1)), MaxNew: o.MaxNewTokens, Stop: []int32{0}}
		}
		before := dev.Work()
		if _, err := engine.Run(p.Context, mod, requests, nil); err != nil {
			return err
		}
		batches := max(1, float64(rows)/16)
		s.Seconds += batches * (p.Rates.Seconds(less(dev.Work(), before), false) + answer*stepSeconds(p, m, 16))
	}
	if has("speed") {
		s.Seconds += 64*stepSeconds(p, m, 1) + p.Rates.Seconds(dry.Work{Matrix: 1024 * float64(m.Spec.Params())}, false)
	}
	return nil
}

// stepSeconds is one decoding step of a few conversations: every weight is
// read once.
func stepSeconds(p *recipes.Planner, m *arch.Source, conversations float64) float64 {
	if p.Rates.Moved == 0 {
		return 0
	}
	read := float64(heldBytes(m)) / p.Rates.Moved
	return read + p.Rates.Seconds(dry.Work{Matrix: 2 * conversations * float64(m.Spec.Params())}, false)
}
func viewEval(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	o, e := j.Options.(*Eval), res.Left.(*report.Evaluation)
	s.Evaluation = e
	s.Facts = append(s.Facts, overlapWords(e))
	s.Failed = slices.ContainsFunc(e.Checks, func(c eval.Check) bool { return c.Verdict == eval.Failed })
	s.Gates = gateLines(e)
	ref, _ := j.In("data")
	s.MeasuredOn = fmt.Sprint(ref.String(), o.Samples, o.Context)
	models := targets(x, j)
	for _, m := range models {
		row := report.MeasuredRow{Row: report.Row{Model: m.Name, Path: m.Path, Reference: m.Reference, Gate: e.Verdict(m.Name)}, Alone: len(m.Adapters) == 0}
		for _, v := range e.Metrics {
			if v.Model != m.Name {
				continue
			}
			if p := row.Slot(v.Metric); p != nil && !math.IsNaN(v.Value) {
				*p = &report.Measured{Value: v.Value, StdErr: v.StdErr, N: v.N}
			}
		}
		s.Measured = append(s.Measured, row)
	}
	filter, _ := eval.NewFilter(o.Filter) // checked with the recipe
	s.Answers = answered(models, e, filter)
}

// overlapWords says of how many evaluated rows training has seen the prompt.
func overlapWords(e *report.Evaluation) string {
	if e.Overlap == 0 {
		return fmt.Sprintf("none of the %s evaluated rows occurs in training", humanize.Comma(int64(e.Rows)))
	}
	return fmt.Sprintf("the prompts of %s of the %s evaluated rows occur in training: their scores are memory, not skill", humanize.Comma(int64(e.Overlap)), humanize.Comma(int64(e.Rows)))
}

func gateLines(e *report.Evaluation) []report.Gate {
	var out []report.Gate
	for _, c := range e.Checks {
		t := c.String()
		if c.Needed > 0 {
			t += fmt.Sprintf("; about %s samples would decide", humanize.Comma(int64(c.Needed)))
		}
		out = append(out, report.Gate{Verdict: string(c.Verdict), Text: t})
	}
	return out
}

// answered puts the answers of the models side by side.
func answered(models []EvalTarget, e *report.Evaluation, filter eval.Filter) []report.Answered {
	var out []report.Answered
	for _, a := range e.Answers {
		it := report.Answered{Prompt: printable(a.Prompt), Want: printable(a.Want)}
		for _, m := range models {
			got, ok := a.Got[m.Name]
			if !ok {
				continue
			}
			t := report.AnswerText{Model: m.Name, Text: printable(got)}
			if a.Want != "" {
				t.Class = "wrong"
				if filter.Same(got, a.Want) {
					t.Class = "right"
				}
			}
			it.Got = append(it.Got, t)
		}
		out = append(out, it)
	}
	return out
}
