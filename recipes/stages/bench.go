package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

var benchKind = recipes.Kind{
	Name: "bench", Doc: "prompt and decode speed of models",
	New: func() any { return new(Bench) }, Left: func() any { return new(BenchResult) },
	Resolve: func(o any, _ recipes.Setting, _ recipes.Bad) { schema.Fill(o) },
	Inputs:  benchInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*Bench)
		o.Models = nil
		return o
	},
	Full: func(j *recipes.Job) any {
		o := *j.Options.(*Bench)
		o.Models = nil
		for _, in := range j.Inputs {
			o.Models = append(o.Models, in.Ref.String())
		}
		return &o
	},
	Plan: planBench, Run: runBench, View: viewBench,
}

// Bench times models from their own files.
type Bench struct {
	Models schema.Names `yaml:"models" doc:"stages or paths" unset:"all models above"`
	Prompt []int        `yaml:"prompt" doc:"tokens of the prompt, each length a row" default:"[512]" range:"[1,10000000]"`
	Decode int          `yaml:"decode" doc:"tokens made after it" default:"128" range:"[2,1000000]"`
	Rounds int          `yaml:"rounds" doc:"how often; best and median are shown" default:"3" range:"[1,1000]"`
	DType  string       `yaml:"dtype" doc:"arithmetic; auto is the faster one on this machine" default:"auto" enum:"auto|f32|bf16"`
}

// BenchResult is what a bench stage leaves for the report.
type BenchResult struct {
	DType string     `json:"dtype"`
	Rows  []BenchRow `json:"rows"`
}

// BenchRow is one model at one length.
type BenchRow struct {
	Model string  `json:"model"`
	Load  float64 `json:"load_seconds"`
	Speed
}

func benchInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	names := opts.(*Bench).Models
	if names == nil {
		for _, m := range v.AllModels() {
			names = append(names, m.Ref)
		}
	}
	if len(names) == 0 {
		return nil, v.Usagef("models", "name a model", "no models above")
	}
	var in []recipes.Input
	for _, name := range names {
		ref, err := v.Given(recipes.ModelRef, "models", name)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "models[" + name + "]", Ref: ref})
	}
	return in, nil
}

// benchName is the model's name in an input's.
func benchName(input string) string {
	return strings.TrimSuffix(strings.TrimPrefix(input, "models["), "]")
}

// planBench counts a prompt and two tokens after it in the longest cache.
func planBench(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	o := j.Options.(*Bench)
	longest := slices.Max(o.Prompt)
	for _, in := range j.Inputs {
		m, err := p.Source(in.Ref)
		if err != nil {
			return err
		}
		if need := longest + o.Decode; need > m.Spec.MaxPos {
			return fail.Usagef(p.Env.Where(j)+".prompt", fmt.Sprintf("prompt and decode together: at most %d", m.Spec.MaxPos),
				"%d + %d tokens are more than the context of %s", longest, o.Decode, benchName(in.Name))
		}
		err = counted(p, s, func(dev *dry.Dry) error {
			mod, err := dryModel(dev, m)
			if err != nil {
				return err
			}
			defer mod.Close()
			_, err = MeasureSpeed(p.Context, &Loaded{Model: mod}, longest, o.Decode, 1, func(int64, int64) {})
			return err
		})
		if err != nil {
			return err
		}
		for _, n := range o.Prompt {
			read := dry.Work{Matrix: 2 * float64(n) * float64(m.Spec.Params())}
			s.Seconds += float64(o.Rounds) * (p.Rates.Seconds(read, o.DType != "f32") + float64(o.Decode)*stepSeconds(p, m, 1))
		}
	}
	s.Does = fmt.Sprintf("speed of %d models at %d lengths", len(j.Inputs), len(o.Prompt))
	return nil
}

func runBench(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Bench)
	bf16, err := ParseBF16(x.Device(), o.DType)
	if err != nil {
		return err
	}
	left := &BenchResult{DType: map[bool]string{false: "f32", true: "bf16"}[bf16]}
	for _, in := range j.Inputs {
		rows, err := benchModel(ctx, x, o, in, bf16)
		if err != nil {
			return err
		}
		left.Rows = append(left.Rows, rows...)
	}
	res.Left = left
	raw, err := json.MarshalIndent(left, "", " ")
	if err != nil {
		return err
	}
	if err := atomic.MkdirAll(x.Dir(j)); err != nil {
		return err
	}
	return atomic.WriteFile(filepath.Join(x.Dir(j), speedFile), append(raw, '\n')) // times are no part of the artifact
}

// benchModel times one model at every length.
func benchModel(ctx context.Context, x *recipes.Env, o *Bench, in recipes.Input, bf16 bool) ([]BenchRow, error) {
	began := time.Now()
	m, err := LoadModel(x.Device(), recipes.OnlyModelIn(x.Path(in.Ref)), ModelOptions{BF16: bf16})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	load := time.Since(began).Seconds()
	var rows []BenchRow
	for _, n := range o.Prompt {
		s, err := MeasureSpeed(ctx, m, n, o.Decode, o.Rounds, x.Progress("rounds"))
		if err != nil {
			return nil, err
		}
		rows = append(rows, BenchRow{Model: benchName(in.Name), Load: load, Speed: *s})
	}
	return rows, nil
}

func viewBench(_ *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	left, o := res.Left.(*BenchResult), j.Options.(*Bench)
	g := report.Grid{Title: "Speed: " + j.ID, Left: 1, Head: []string{"model", "prompt", "tok/s", "median", "decode", "tok/s", "median", "p50 ms", "p95 ms", "load s"},
		Note: fmt.Sprintf("Arithmetic %s, rates of the best of %d rounds; p50 and p95 are the times of a token.", left.DType, o.Rounds)}
	for _, r := range left.Rows {
		row := []string{r.Model, fmt.Sprint(r.Prompt), report.Sig(r.PromptRate, 3), report.Sig(r.PromptMedian, 3)}
		row = append(row, fmt.Sprint(r.New), report.Sig(r.DecodeRate, 3), report.Sig(r.DecodeMedian, 3))
		g.Rows = append(g.Rows, append(row, report.Sig(r.P50, 3), report.Sig(r.P95, 3), report.Sig(r.Load, 2)))
	}
	s.Grids = append(s.Grids, g)
}
