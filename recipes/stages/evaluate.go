package stages

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/train/eval"
)

// Tasks an evaluation knows.
var Tasks = []string{"perplexity", "kl", "top1", "exact_match", "speed"}

// EvalTarget is one model to measure.
type EvalTarget struct {
	Name      string
	Path      string
	Adapters  []string
	Reference string // for kl and top1; "": none
}

// Gate is a limit on a metric of every model.
type Gate struct {
	Metric string
	eval.Limit
}

// EvalRequest is what `tune eval` and an eval stage share.
type EvalRequest struct {
	Models        []EvalTarget
	Tasks         []string
	Rows          data.Examples // ingested rows; none: Text
	Text          []int32
	Tokenizer     *tokenizer.Tokenizer
	Template      string // for the baseline's key
	Samples       int    // 0: all
	Context       int
	Stride        int
	MaxNew        int
	Filter        string // of answers; see eval.NewFilter
	Temperature   float64
	Seed          uint64
	BF16          bool
	Baseline      string
	WriteBaseline string
	Gates         []Gate
	UnsurePasses  bool
	Progress      func(model, task string, done, total int64)
	Report        string       // hint to where a failed gate is explained
	Note          func(string) // is told what the adapters' folders decide; may be nil
}

// TextTokens is how many tokens of a text the first samples take; 0: all are measured.
func (r *EvalRequest) TextTokens() int {
	if r.Samples == 0 {
		return 0
	}
	return min(r.Samples, math.MaxInt32/max(r.Stride, 1))*r.Stride + r.Context
}

// shownAnswers is how many prompts a report shows.
const shownAnswers = 10

type evaluation struct {
	EvalRequest
	dev     kernels.Backend
	samples []eval.Sample
	qs      []eval.Question
	filter  eval.Filter
	series  map[string]map[string]eval.Series
	out     *report.Evaluation
}

// Evaluate measures every model from its own file through the same code. With
// gates it returns the result and an error of kind fail.Gate when one fails or
// cannot tell.
func Evaluate(ctx context.Context, dev kernels.Backend, r EvalRequest) (*report.Evaluation, error) {
	e := &evaluation{EvalRequest: r, dev: dev, series: map[string]map[string]eval.Series{}, out: &report.Evaluation{}}
	if err := e.prepare(); err != nil {
		return nil, err
	}
	base, err := e.baseline()
	if err != nil {
		return nil, err
	}
	for _, m := range r.Models {
		if err := e.room(ctx, m); err != nil {
			return nil, err
		}
	}
	for _, m := range r.Models {
		if err := e.model(ctx, m); fail.Code(err) == int(fail.Numeric) {
			return nil, fail.Numericf(m.Path, fail.Hint(err), "%w", err)
		} else if err != nil {
			return nil, err
		}
	}
	if r.WriteBaseline != "" {
		b := eval.Baseline{Data: e.dataHash(), Task: e.taskHash(), Models: e.series}
		if err := eval.WriteBaseline(r.WriteBaseline, b); err != nil {
			return nil, err
		}
	}
	return e.out, e.judge(base)
}

func (e *evaluation) wants(task string) bool { return slices.Contains(e.Tasks, task) }

// checkTasks refuses a task that there is not, one that is named twice, and none.
func checkTasks(tasks []string) error {
	if len(tasks) == 0 {
		return fail.Usagef("tasks", "known: "+strings.Join(Tasks, ", "), "no task is named")
	}
	for i, t := range tasks {
		if slices.Contains(tasks[:i], t) {
			return fail.Usagef("tasks", "name it once", "%s is named twice", t)
		}
		if !slices.Contains(Tasks, t) {
			return fail.Usagef("tasks", fail.Near(t, Tasks, "known: "+strings.Join(Tasks, ", ")), "unknown task %q", t)
		}
	}
	return nil
}

func (e *evaluation) prepare() error {
	if err := checkTasks(e.Tasks); err != nil {
		return err
	}
	var err error
	if e.Rows.Len() > 0 {
		rows, err := e.Rows.Read(cmp.Or(e.Samples, e.Rows.Len()))
		if err != nil {
			return err
		}
		if e.Stride != e.Context {
			return fail.Usagef("stride", "leave it out: rows are measured one by one", "stride parts a text, and the data are rows")
		}
		e.samples = eval.Examples(rows, e.Context)
		if e.Tokenizer != nil {
			e.qs = eval.Questions(rows, e.Tokenizer)
		}
	} else {
		if e.samples, err = eval.Windows(e.Text, e.Context, e.Stride); err != nil {
			return fail.Usagef("context, stride", "", "%w", err)
		}
		if e.Samples > 0 {
			e.samples = e.samples[:min(e.Samples, len(e.samples))]
		}
	}
	e.out.Rows = len(e.samples)
	if len(e.samples) == 0 {
		return fail.Inputf("data", "hold rows back with val_set_size, or name a file", "there is nothing to measure on")
	}
	if e.wants("exact_match") && len(e.qs) == 0 {
		return fail.Inputf("data", "exact_match needs rows with prompts and answers", "no prompts in the data")
	}
	return e.prepareFilter()
}

// prepareFilter refuses a pattern that does not find its part in what is wanted.
func (e *evaluation) prepareFilter() error {
	var err error
	if e.filter, err = eval.NewFilter(e.Filter); err != nil {
		return fail.Usagef("filter", "a pattern such as '#### (-?[0-9.,]+)'", "%w", err)
	}
	if !e.wants("exact_match") {
		return nil
	}
	for i, q := range e.qs {
		if _, ok := e.filter.Of(q.Want); !ok {
			return fail.Inputf("filter", "every right answer must hold what counts", "%s matches nothing in the answer of row %d: %.80q", e.Filter, i+1, q.Want)
		}
	}
	return nil
}

func (e *evaluation) progress(model, task string) func(done, total int64) {
	if e.Progress == nil {
		return nil
	}
	return func(done, total int64) { e.Progress(model, task, done, total) }
}

// model runs every task on one model.
func (e *evaluation) model(ctx context.Context, t EvalTarget) error {
	began := time.Now()
	m, err := LoadModel(e.dev, t.Path, ModelOptions{Adapters: t.Adapters, BF16: e.BF16, Note: e.Note})
	if err != nil {
		return err
	}
	defer m.Close()
	load := time.Since(began)
	if err := m.countTokenizer(); err != nil { // it is that of the data
		return err
	}
	if err := fitsContext(e.Context, m.Spec.Context(), t.Path); err != nil {
		return err
	}
	if e.Tokenizer != nil && e.Tokenizer.Size() > m.Spec.V {
		return fail.Inputf(t.Path, "models of one evaluation share a tokenizer", "the data's tokenizer has %d tokens, this model %d", e.Tokenizer.Size(), m.Spec.V)
	}
	e.series[t.Name] = map[string]eval.Series{}
	add := func(ms ...eval.Metric) {
		for _, x := range ms {
			x.Model = t.Name
			e.out.Metrics = append(e.out.Metrics, x)
		}
	}
	if e.wants("perplexity") || e.wants("kl") || e.wants("top1") {
		ms, err := e.score(ctx, t, m)
		if err != nil {
			return err
		}
		add(ms...)
	}
	if e.wants("exact_match") {
		a, err := eval.ExactMatch(ctx, m.Model, e.Tokenizer, e.qs, eval.AnswerOptions{MaxNew: e.MaxNew, Filter: e.filter,
			Sampling: kernels.SampleRow{Temperature: e.Temperature, Seed: e.Seed}, Progress: e.progress(t.Name, "exact_match")})
		if err != nil {
			return err
		}
		add(a.Metric())
		e.series[t.Name]["exact_match"] = a.Series()
		e.show(t.Name, a)
	}
	if e.wants("speed") {
		ms, err := eval.Speed(ctx, m.Model, e.samples[0].IDs)
		if err != nil {
			return err
		}
		add(ms...)
		add(eval.Metric{Task: "speed", Metric: "load_seconds", Value: load.Seconds(), N: 1},
			eval.Metric{Task: "speed", Metric: "peak_memory_bytes", Value: float64(e.dev.Info().PeakTotal), N: 1})
	}
	return nil
}

// room refuses a model whose measuring memory has no room for.
func (e *evaluation) room(ctx context.Context, t EvalTarget) error {
	return room(e.dev, t.Path, func(dev *dry.Dry) error {
		m, err := LoadModel(dev, t.Path, ModelOptions{Adapters: t.Adapters, BF16: e.BF16})
		if err != nil {
			return err
		}
		defer m.Close()
		if err := m.countTokenizer(); err != nil {
			return err
		}
		if e.wants("perplexity") || e.wants("kl") || e.wants("top1") {
			if err := e.rehearseScore(ctx, dev, t, m); err != nil {
				return err
			}
		}
		if e.wants("exact_match") {
			requests := make([]engine.Request, len(e.qs))
			for i, q := range e.qs {
				requests[i] = engine.Request{Prompt: q.Prompt, MaxNew: e.MaxNew}
			}
			if err := rehearseAnswers(ctx, m, requests); err != nil {
				return err
			}
		}
		if e.wants("speed") {
			_, err = eval.Speed(ctx, m.Model, e.samples[0].IDs)
		}
		return err
	})
}

func (e *evaluation) rehearseScore(ctx context.Context, dev *dry.Dry, t EvalTarget, m *Loaded) error {
	var ref *model.Model
	if t.Reference != "" && (e.wants("kl") || e.wants("top1")) {
		l, err := LoadModel(dev, t.Reference, ModelOptions{})
		if err != nil {
			return err
		}
		defer l.Close()
		ref = l.Model
	}
	for _, pass := range eval.Largest(e.samples) {
		if _, err := eval.Run(ctx, m.Model, ref, pass, eval.ScoreOptions{BF16: e.BF16}); err != nil {
			return err
		}
	}
	return nil
}

// rehearseAnswers answers the longest of requests on a model that is only counted, where
// every answer ends with its first token.
func rehearseAnswers(ctx context.Context, m *Loaded, requests []engine.Request) error {
	list := slices.Clone(requests)
	slices.SortStableFunc(list, func(a, b engine.Request) int { return len(b.Prompt) + b.MaxNew - len(a.Prompt) - a.MaxNew })
	list = list[:min(engine.Together, len(list))]
	for i := range list {
		list[i].Stop, list[i].StopTexts, list[i].Text = []int32{0}, nil, nil
	}
	_, err := engine.Run(ctx, m.Model, list, nil)
	return err
}

// fitsContext refuses windows that a model has no positions for.
func fitsContext(window, most int, path string) error {
	if most > 0 && window > most {
		return fail.Usagef("context", fmt.Sprintf("context: %d", most), "windows of %d tokens, the context of %s is %d", window, path, most)
	}
	return nil
}

// score runs the tasks that need no generation, in one pass over the data.
func (e *evaluation) score(ctx context.Context, t EvalTarget, m *Loaded) ([]eval.Metric, error) {
	var ref *Loaded
	compare := t.Reference != "" && (e.wants("kl") || e.wants("top1"))
	if compare {
		var err error
		if ref, err = LoadModel(e.dev, t.Reference, ModelOptions{Note: e.Note}); err != nil {
			return nil, err
		}
		defer ref.Close()
		if ref.Spec.V != m.Spec.V {
			return nil, fail.Inputf(t.Path, "kl and top1 need one vocabulary", "has %d tokens, its reference %s %d", m.Spec.V, t.Reference, ref.Spec.V)
		}
	}
	so := eval.ScoreOptions{BF16: e.BF16, Progress: e.progress(t.Name, "perplexity")}
	var scores []eval.Score
	var err error
	if ref != nil {
		scores, err = eval.Run(ctx, m.Model, ref.Model, e.samples, so)
	} else {
		scores, err = eval.Run(ctx, m.Model, nil, e.samples, so)
	}
	if err != nil {
		return nil, err
	}
	var out []eval.Metric
	keep := func(task string, ms ...eval.Metric) {
		out = append(out, ms...)
		e.series[t.Name][task] = eval.SeriesOf(scores, task)
	}
	if e.wants("perplexity") {
		keep("perplexity", eval.Perplexity(scores))
	}
	if ref != nil && e.wants("kl") {
		keep("kl", eval.KL(scores)...)
	}
	if ref != nil && (e.wants("top1") || e.wants("kl")) {
		keep("top1", eval.Top1(scores))
	}
	return out, nil
}

// show keeps the first answers side by side.
func (e *evaluation) show(name string, a *eval.Answers) {
	for i := range min(shownAnswers, len(e.qs)) {
		if i == len(e.out.Answers) {
			e.out.Answers = append(e.out.Answers, report.Answer{Prompt: e.Tokenizer.Decode(e.qs[i].Prompt, true), Want: e.qs[i].Want, Got: map[string]string{}})
		}
		e.out.Answers[i].Got[name] = a.Text[i]
	}
}

func hashOf(f func(w func(any))) string {
	h := sha256.New()
	f(func(v any) {
		switch v := v.(type) {
		case string:
			fmt.Fprintf(h, "%d:%s", len(v), v)
		default:
			_ = binary.Write(h, binary.LittleEndian, v) // a hash does not fail
		}
	})
	return hex.EncodeToString(h.Sum(nil))
}

// dataHash keys a baseline by what was measured on.
func (e *evaluation) dataHash() string {
	return hashOf(func(w func(any)) {
		for _, s := range e.samples {
			w(int64(len(s.IDs)))
			w(s.IDs)
			for _, r := range s.At {
				w(r[:])
			}
		}
		w(e.Template)
		if e.Tokenizer != nil {
			w(e.Tokenizer.Hash())
		}
	})
}

// taskHash keys a baseline by the settings.
func (e *evaluation) taskHash() string {
	return hashOf(func(w func(any)) {
		w(int64(e.MaxNew))
		w(e.Temperature)
		w(int64(e.Seed))
		w(int64(e.Context))
		w(int64(e.Stride))
		if e.Filter != "" {
			w(e.Filter)
		}
	})
}

func (e *evaluation) baseline() (*eval.Baseline, error) {
	needed := false
	for _, g := range e.Gates {
		needed = needed || strings.HasPrefix(g.Kind, "max_")
	}
	if e.WriteBaseline != "" { // the run that makes it is not judged by it
		return nil, nil
	}
	if e.Baseline == "" {
		if needed {
			return nil, errNoBaseline()
		}
		return nil, nil
	}
	return eval.ReadBaseline(e.Baseline, e.dataHash(), e.taskHash())
}

func errNoBaseline() error {
	return fail.Usagef("gate", "baseline: FILE, made with --write-baseline FILE", "a limit on a change needs a baseline")
}

// checkBaseline finds before any work what judging these models by the gates of o
// would find at the end: no baseline, or one without what is to be compared.
func (o *Eval) checkBaseline(models []string) error {
	if o.Baseline == "" {
		if slices.ContainsFunc(o.gates(), func(g Gate) bool { return strings.HasPrefix(g.Kind, "max_") }) {
			return errNoBaseline()
		}
		return nil
	}
	b, err := eval.OpenBaseline(o.Baseline)
	if err != nil {
		return err
	}
	for _, g := range o.gates() {
		for _, m := range models {
			if !strings.HasPrefix(g.Kind, "max_") || g.Metric == "kl" || g.Metric == "top1" { // which models without a reference have not
				continue
			}
			if _, _, err := b.Series(m, g.Metric); err != nil {
				return fail.Inputf(o.Baseline, "make it again with --write-baseline, or name the model as it is named there", "%w", err)
			}
		}
	}
	return nil
}

// judge applies every gate to every model it speaks about.
func (e *evaluation) judge(base *eval.Baseline) error {
	var bad []string
	unsure := 0
	for _, g := range e.Gates {
		relative := strings.HasPrefix(g.Kind, "max_")
		if relative && base == nil {
			continue
		}
		found := false
		for _, t := range e.Models {
			now, ok := e.series[t.Name][g.Metric]
			if !ok {
				continue
			}
			found = true
			var old *eval.Series
			of := t.Name
			if relative {
				var err error
				if old, of, err = base.Series(t.Name, g.Metric); err != nil {
					return fail.Inputf(e.Baseline, "make it again with --write-baseline, or name the model as it is named there", "%w", err)
				}
			}
			c, err := eval.Judge(now, old, g.Limit)
			if err != nil {
				return fail.Inputf(e.Baseline, "make it again with --write-baseline", "%s of %s: %w", g.Metric, t.Name, err)
			}
			for _, x := range []float64{c.Value, c.Baseline, c.Low, c.High, c.Bound} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					return fail.Inputf(e.Baseline, "make it again with --write-baseline", "%s of %s: its numbers give %v", g.Metric, t.Name, x)
				}
			}
			if c.Model, c.Metric = t.Name, g.Metric; of != t.Name {
				c.Of = of
			}
			e.out.Checks = append(e.out.Checks, c)
			switch {
			case c.Verdict == eval.Failed:
				bad = append(bad, c.String())
			case c.Verdict == eval.Unsure && !e.UnsurePasses:
				unsure++
				bad = append(bad, fmt.Sprintf("%s: cannot tell, about %d samples would", c, c.Needed))
			}
		}
		if !found {
			return fail.Usagef("gate", "add the task, or a reference for kl", "gate on %s, which was not measured", g.Metric)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	hint := cmp.Or(e.Report, "--summary FILE.md keeps the measurements")
	if unsure == len(bad) {
		hint = "measure more samples, or set unsure: pass"
	}
	return fail.Gatef("gate", hint, "%s", strings.Join(bad, "; "))
}

// ParseGate reads METRIC.KIND=VALUE, e.g. perplexity.max_increase=1%.
func ParseGate(s string) (Gate, error) {
	key, val, ok := strings.Cut(s, "=")
	metric, kind, ok2 := strings.Cut(key, ".")
	b, err := schema.ParseBound(val)
	known := map[string]bool{"max": true, "min": true, "max_increase": true, "max_decrease": true}
	if !ok || !ok2 || err != nil || !known[kind] {
		return Gate{}, fail.Usagef("--gate", "perplexity.max_increase=1%, exact_match.min=0.9", "found %q", s)
	}
	return Gate{metric, eval.Limit{Kind: kind, Value: b.Value, Relative: b.Relative}}, nil
}
