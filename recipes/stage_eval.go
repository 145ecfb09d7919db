package recipes

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// gates lists a stage's limits in a fixed order.
func (o *Eval) gates() []Gate {
	var out []Gate
	for _, metric := range sortedKeys(o.Gate) {
		l := o.Gate[metric]
		for _, b := range []struct {
			kind string
			Bound
		}{{"max", l.Max}, {"min", l.Min}, {"max_increase", l.MaxIncrease}, {"max_decrease", l.MaxDecrease}} {
			if b.Set {
				out = append(out, Gate{metric, eval.Limit{Kind: b.kind, Value: b.Value, Relative: b.Relative}})
			}
		}
	}
	return out
}

// targets lists the models of an eval stage.
func (x *run) targets(j *Job) []EvalTarget {
	var out []EvalTarget
	common, hasCommon := j.In("reference")
	for _, in := range j.Inputs {
		name, ok := strings.CutPrefix(in.Name, "models[")
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, "]")
		t := EvalTarget{Name: name, Path: x.pathOf(in.Ref)}
		if a, ok := j.In("adapters[" + name + "]"); ok {
			t.Adapters = []string{x.pathOf(a)}
		}
		if hasCommon {
			t.Reference = x.pathOf(common)
		} else if r, ok := j.In("references[" + name + "]"); ok {
			t.Reference = x.pathOf(r)
		}
		out = append(out, t)
	}
	return out
}

func runEval(ctx context.Context, x *run, j *Job, res *Result) error {
	o := j.Stage.Eval
	r := EvalRequest{
		Models: x.targets(j), Tasks: o.Tasks, Samples: o.Samples, Context: o.Context, Stride: o.Stride, MaxNew: o.MaxNewTokens,
		Temperature: o.Temperature, Seed: x.Seed, Baseline: o.Baseline, WriteBaseline: x.opt.WriteBaseline,
		Gates: o.gates(), UnsurePasses: o.Unsure == "pass",
		Progress: func(model, task string, done, total int64) {
			x.event(Event{What: "progress", Done: done, Total: total, Unit: task, Text: model})
		},
	}
	overlap, err := x.evalData(ctx, j, &r)
	if err != nil {
		return err
	}
	if err := x.failOn(j, "duplicates", int64(overlap)); err != nil {
		return err
	}
	out, err := Evaluate(ctx, x.dev, r)
	if out == nil {
		return err
	}
	out.Overlap = overlap
	res.Eval = out
	if werr := x.writeEval(j, out); err == nil {
		err = werr
	}
	return err
}

// evalData finds the rows to measure on: those held back by the ingest stage,
// or a file. It counts the prompts that also occur in training.
func (x *run) evalData(ctx context.Context, j *Job, r *EvalRequest) (overlap int, err error) {
	ref, _ := j.In("data")
	var train []data.Examples
	if ref.Stage != "" {
		ds, err := x.dataset(ctx, ref, Ref{})
		if err != nil {
			return 0, err
		}
		tr, _ := x.job(ref.Stage).In("tokenizer")
		tok, src, err := ingestTokenizer(x.pathOf(tr))
		if err != nil {
			return 0, err
		}
		src.Close()
		r.Tokenizer = tok
		r.Rows, train = ds.Val, []data.Examples{ds.Train}
		if r.Rows.Len() == 0 {
			r.Rows = ds.Train
			x.event(Event{What: "note", Text: "nothing is held back: measuring on the training rows"})
		}
	} else {
		tok, src, err := OpenTokenizer(r.Models[0].Path)
		if err != nil {
			return 0, err
		}
		spec := src.Spec
		src.Close()
		r.Tokenizer = tok
		if r.Rows, r.Text, err = EvalFile(ctx, ref.Path, tok, r.Context, spec.MaxPos, spec.V); err != nil {
			return 0, err
		}
		for _, other := range x.jobs {
			if other.Stage.Ingest != nil && exists(x.stageDir(other.Stage.ID)) {
				ds, err := data.LoadArrow(x.stageDir(other.Stage.ID))
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
func (x *run) writeEval(j *Job, out *EvalResult) error {
	dir := x.stageDir(j.Stage.ID)
	if err := atomic.MkdirAll(dir); err != nil {
		return fail.Limitf(dir, "", "%w", err)
	}
	steady, timed := *out, EvalResult{} // times differ from run to run: they are no part of the artifact
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
	junit, err := JUnit(j.Stage.ID, &steady)
	if err != nil {
		return err
	}
	return atomic.WriteFile(filepath.Join(dir, "junit.xml"), junit)
}
