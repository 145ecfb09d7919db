package eval

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// Series is a metric by sample, in a form that two runs can be compared in:
// the value is F(Σ Sum / Σ Weight).
type Series struct {
	Sum    []float64 `json:"sum"`
	Weight []float64 `json:"weight"`
	Log    bool      `json:"log,omitempty"` // F is exp: perplexity
}

// Value is the metric.
func (s Series) Value() float64 {
	v := total(s.Sum) / total(s.Weight)
	if s.Log {
		return math.Exp(v)
	}
	return v
}

func total(x []float64) (t float64) {
	for _, v := range x {
		t += v
	}
	return t
}

// Verdict is what a gate says.
type Verdict string

const (
	Pass   Verdict = "pass"   // within the limit
	Failed Verdict = "fail"   // beyond the limit
	Unsure Verdict = "unsure" // the interval holds the limit
)

// Limit bounds a metric. Relative bounds are shares of the baseline.
type Limit struct {
	Kind     string // max, min, max_increase, max_decrease
	Value    float64
	Relative bool
}

// Check is one gate's result.
type Check struct {
	Model    string  `json:"model"`
	Metric   string  `json:"metric"`
	Limit    string  `json:"limit"`
	Value    float64 `json:"value"`
	Baseline float64 `json:"baseline,omitempty"`
	Of       string  `json:"baseline_model,omitempty"` // whose value that is, where its name is another
	Low      float64 `json:"low"`                      // 95 % interval of what is limited: the metric, or how much worse it is (a share of the baseline for limits in percent)
	High     float64 `json:"high"`
	Bound    float64 `json:"bound"` // the limit in the same unit
	Verdict  Verdict `json:"verdict"`
	Needed   int     `json:"samples_needed,omitempty"` // to decide, when unsure
}

const z95 = 1.959963984540054

// Judge compares a series with a limit; base is needed by max_increase and
// max_decrease and must come from the same samples in the same order. The
// interval is of the paired difference, so that what the samples have in
// common cancels: wholly past the limit fails, wholly within passes, anything
// else is unsure.
func Judge(now Series, base *Series, l Limit) (Check, error) {
	c := Check{Metric: "", Limit: l.String(), Value: now.Value()}
	// Everything is turned so that more is worse.
	worse := now.Sum
	var bound float64
	switch l.Kind {
	case "max":
		bound = inner(l.Value, now.Log)
	case "min":
		worse, bound = scaled(now.Sum, -1), -inner(l.Value, now.Log)
	case "max_increase", "max_decrease":
		if base == nil {
			return c, fmt.Errorf("%s needs a baseline", l.Kind)
		}
		if len(base.Sum) != len(now.Sum) {
			return c, fmt.Errorf("baseline has %d samples, this run %d", len(base.Sum), len(now.Sum))
		}
		c.Baseline = base.Value()
		sign := 1.0
		if l.Kind == "max_decrease" {
			sign = -1
		}
		worse = make([]float64, len(now.Sum))
		for i := range worse {
			worse[i] = sign * (now.Sum[i] - base.Sum[i])
		}
		bound = allowed(l, c.Baseline, sign, now.Log)
	default:
		return c, fmt.Errorf("unknown limit %q", l.Kind)
	}
	mean, se := interval(worse, now.Weight)
	c.Low, c.High, c.Bound = mean-z95*se, mean+z95*se, bound
	switch {
	case c.Low > bound:
		c.Verdict = Failed
	case c.High <= bound:
		c.Verdict = Pass
	default:
		c.Verdict = Unsure
		c.Needed = int(math.Ceil(float64(len(now.Sum)) * math.Pow(z95*se/math.Abs(bound-mean), 2)))
	}
	c.outer(l, now.Log)
	return c, nil
}

// outer turns interval and bound, which are of means with more being worse, into what
// the limit is said in.
func (c *Check) outer(l Limit, log bool) {
	share := math.Abs(c.Baseline)
	if !l.Relative {
		share = 1
	}
	out := func(v float64) float64 { return v / share } // of a difference
	switch {
	case l.Kind == "min":
		c.Low, c.High = c.High, c.Low
		out = func(v float64) float64 { return outermost(-v, log) }
	case l.Kind == "max":
		out = func(v float64) float64 { return outermost(v, log) }
	case log:
		sign := 1.0
		if l.Kind == "max_decrease" {
			sign = -1
		}
		out = func(v float64) float64 { return sign * math.Expm1(sign*v) * c.Baseline / share }
	}
	c.Low, c.High, c.Bound = out(c.Low), out(c.High), l.Value
}

// outermost is the inverse of inner.
func outermost(v float64, log bool) float64 {
	if log {
		return math.Exp(v)
	}
	return v
}

// String says it in words: the value, the baseline and the limit.
func (c Check) String() string {
	s := fmt.Sprintf("%s %s is %.4g", c.Model, c.Metric, c.Value)
	if c.Baseline != 0 {
		was := ""
		if c.Of != "" {
			was = c.Of + " "
		}
		s += fmt.Sprintf(" (%swas %.4g, %+.2g %%)", was, c.Baseline, 100*(c.Value-c.Baseline)/math.Abs(c.Baseline))
	}
	return s + ", limit " + c.Limit
}

// inner is the value of a mean that gives the metric v.
func inner(v float64, log bool) float64 {
	if log {
		return math.Log(v)
	}
	return v
}

func scaled(x []float64, by float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = by * v
	}
	return out
}

// allowed is the limit on the mean difference in the bad direction. For
// perplexities the difference of mean losses is the logarithm of their ratio.
func allowed(l Limit, base, sign float64, log bool) float64 {
	v := l.Value
	switch {
	case log && !l.Relative:
		return sign * math.Log(1+sign*v/base)
	case log:
		return sign * math.Log(1+sign*v)
	case l.Relative:
		return v * math.Abs(base)
	}
	return v
}

// interval is Σa/Σw and its standard error over samples.
func interval(a, w []float64) (mean, se float64) {
	sw := total(w)
	mean = total(a) / sw
	var q float64
	for i := range a {
		d := a[i] - mean*w[i]
		q += d * d
	}
	if k := float64(len(a)); k > 1 {
		se = math.Sqrt(q*k/(k-1)) / sw
	}
	return mean, se
}

func (l Limit) String() string {
	if l.Relative {
		return fmt.Sprintf("%s %g%%", l.Kind, l.Value*100)
	}
	return fmt.Sprintf("%s %g", l.Kind, l.Value)
}

// Baseline is a measurement kept for later comparison.
type Baseline struct {
	Version int    `json:"version"`
	Data    string `json:"data"` // hash of what was measured on: samples, tokenizer and template
	Task    string `json:"task"` // hash of the settings: context, stride, generation
	// Models by name, then metrics by name.
	Models map[string]map[string]Series `json:"models"`
}

// BaselineTo refuses a path that holds something other than a baseline.
func BaselineTo(path string) error {
	return atomic.Own(path, "a baseline", func() bool {
		var have struct {
			Task   *string
			Models map[string]json.RawMessage
		}
		raw, err := os.ReadFile(path)
		return err == nil && json.Unmarshal(raw, &have) == nil && have.Task != nil && have.Models != nil // of any version
	})
}

// WriteBaseline stores b as JSON, where there is nothing or another baseline.
func WriteBaseline(path string, b Baseline) error {
	if err := BaselineTo(path); err != nil {
		return err
	}
	b.Version = 1
	raw, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return err
	}
	if dir := filepath.Dir(path); dir != "." {
		if err := atomic.MkdirAll(dir); err != nil {
			return fail.Limitf(path, "", "%w", err)
		}
	}
	return atomic.WriteFile(path, append(raw, '\n'))
}

// ReadBaseline reads a baseline and checks that it belongs to this data and
// these settings. A missing file is a usage error; one from other data is bad
// input; neither is ever a pass.
func ReadBaseline(path, data, task string) (*Baseline, error) {
	b, err := OpenBaseline(path)
	if err != nil {
		return nil, err
	}
	if b.Data != data {
		return nil, fail.Inputf(path, "on main, run again with --write-baseline "+path, "was made from other data (%.4s… ≠ %.4s…)", b.Data, data)
	}
	if b.Task != task {
		return nil, fail.Inputf(path, "on main, run again with --write-baseline "+path, "was made with other settings (%.4s… ≠ %.4s…)", b.Task, task)
	}
	return b, nil
}

// OpenBaseline reads a baseline of any data and settings.
func OpenBaseline(path string) (*Baseline, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Usagef(path, "make it on the main branch with --write-baseline "+path, "no baseline: %w", err)
	}
	var b Baseline
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, fail.Inputf(path, "make it again with --write-baseline "+path, "not a baseline: %w", err)
	}
	if b.Version != 1 {
		return nil, fail.Inputf(path, "make it again with --write-baseline "+path, "baseline version %d, this program reads 1", b.Version)
	}
	for m, series := range b.Models {
		for k, s := range series {
			if len(s.Sum) != len(s.Weight) || len(s.Sum) == 0 {
				return nil, fail.Inputf(path, "", "metric %s of %s has %d sums and %d weights", k, m, len(s.Sum), len(s.Weight))
			}
		}
	}
	return &b, nil
}

// Series is what the baseline has of a metric of a model by name, and the name of the
// model that it is of: a baseline of one model is that of every model.
func (b *Baseline) Series(model, metric string) (*Series, string, error) {
	if s, ok := b.Models[model][metric]; ok {
		return &s, model, nil
	}
	names := slices.Sorted(maps.Keys(b.Models))
	if _, named := b.Models[model]; !named && len(names) == 1 {
		if s, ok := b.Models[names[0]][metric]; ok {
			return &s, names[0], nil
		}
	}
	if len(names) == 0 {
		return nil, "", fmt.Errorf("has no models")
	}
	return nil, "", fmt.Errorf("has no %s of model %s, but of %s: %s", metric, model, strings.Join(names, ", "), strings.Join(slices.Sorted(maps.Keys(b.Models[names[0]])), ", "))
}
