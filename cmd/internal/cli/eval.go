package cli

import (
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// evalKeys are the keys of an eval stage that tune eval has as flags.
var evalKeys = []string{"samples", "context", "stride", "max_new_tokens", "temperature", "filter", "unsure", "baseline"}

func evalCommand() *ucli.Command {
	return &ucli.Command{
		Name: "eval", Usage: "measure models: perplexity, KL, answers, speed; judge them against a baseline",
		Description: examples("tune eval --model models/M --tasks perplexity --data wiki.txt --context 2048",
			"tune eval --model M-gptq --model M-awq --reference models/M --tasks perplexity,kl --data held-out.jsonl",
			"tune eval --model new --tasks perplexity,exact_match --data d.jsonl --baseline b.json --gate perplexity.max_increase=1%"),
		Flags: modelFlags(append(slices.Concat(optionFlags(&stages.Eval{}, evalKeys...), sourceFlags()),
			&ucli.StringSliceFlag{Name: "model", Aliases: []string{"m"}, Usage: "model to measure (may repeat)"}, adapterFlag(),
			&ucli.StringSliceFlag{Name: "name", Usage: "name of the model at its place, in baselines and gates (default: its path; may repeat)"},
			&ucli.StringFlag{Name: "reference", Usage: "model for kl and top1"},
			&ucli.StringFlag{Name: "tasks", Value: "perplexity", Usage: strings.Join(stages.Tasks, ",")},
			&ucli.StringFlag{Name: "data", Usage: "text, JSONL or Parquet"},
			&ucli.StringSliceFlag{Name: "gate", Usage: "METRIC.max|min|max_increase|max_decrease=VALUE (may repeat)"},
			&ucli.StringFlag{Name: "write-baseline", Usage: "keep this measurement for later gates"},
			&ucli.StringSliceFlag{Name: "summary", Usage: "append to FILE.md, .json or .xml (may repeat)"})...),
		Action: runEval,
	}
}

func runEval(c *ucli.Context) error {
	if err := required(c, "model", "data"); err != nil {
		return err
	}
	if err := besides(c); err != nil {
		return err
	}
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	r, err := evalRequest(c, dev)
	if err != nil {
		return err
	}
	w := newWatcher(c.App.ErrWriter, c.Bool("quiet"))
	r.Progress = func(model, task string, done, total int64) {
		w.event(recipes.Event{Stage: "eval", What: "progress", Done: done, Total: total, Unit: task, Text: model})
	}
	out, err := stages.Evaluate(c.Context, dev, r)
	w.clear()
	if out == nil {
		return err
	}
	for _, m := range out.Metrics {
		if len(r.Models) == 1 {
			m.Model = ""
		}
		if werr := writeJSON(c, m); werr != nil {
			return werr
		}
	}
	for _, k := range out.Checks {
		if werr := writeJSON(c, map[string]any{"gate": k}); werr != nil {
			return werr
		}
	}
	for _, f := range c.StringSlice("summary") {
		if werr := out.Append(f); err == nil {
			err = werr
		}
	}
	return err
}

func evalRequest(c *ucli.Context, dev kernels.Backend) (stages.EvalRequest, error) {
	var o stages.Eval
	if err := readOptions(c, &o, evalKeys...); err != nil {
		return stages.EvalRequest{}, err
	}
	schema.Fill(&o)
	r := stages.EvalRequest{Tasks: splitComma(c.String("tasks")), Samples: o.Samples, Context: o.Context, Stride: o.Stride,
		MaxNew: o.MaxNewTokens, Filter: o.Filter, Temperature: o.Temperature, Seed: 42, Baseline: o.Baseline, WriteBaseline: c.String("write-baseline"),
		UnsurePasses: o.Unsure == "pass", Note: noteOn(c)}
	for _, t := range r.Tasks {
		if (t == "kl" || t == "top1") && !c.IsSet("reference") {
			return r, usagef(c, "%s compares with a reference: --reference is required", t)
		}
	}
	name := c.String("dtype")
	if name == "auto" {
		name = "f32"
	}
	var err error
	if r.BF16, err = stages.ParseBF16(dev, name); err != nil {
		return r, err
	}
	models, names := c.StringSlice("model"), c.StringSlice("name")
	if len(names) > len(models) {
		return r, usagef(c, "%d names for %d models: a name belongs to the model at its place", len(names), len(models))
	}
	for i, m := range models {
		name := m
		if i < len(names) {
			name = names[i]
		}
		if slices.ContainsFunc(r.Models, func(t stages.EvalTarget) bool { return t.Name == name }) {
			return r, usagef(c, "two models are called %s: --name gives them others", name)
		}
		t := stages.EvalTarget{Name: name, Path: m, Adapters: c.StringSlice("adapter"), Reference: c.String("reference")}
		r.Models = append(r.Models, t)
	}
	for _, g := range c.StringSlice("gate") {
		gate, err := stages.ParseGate(g)
		if err != nil {
			return r, err
		}
		if !slices.Contains(r.Tasks, gate.Metric) {
			return r, usagef(c, "--gate %s: %s is not among --tasks", g, gate.Metric)
		}
		r.Gates = append(r.Gates, gate)
	}
	o.Tasks, o.Reference = r.Tasks, c.String("reference")
	if err := o.CheckRead(r.Gates); err != nil {
		return r, err
	}
	return r, loadEvalData(c, &r)
}

func loadEvalData(c *ucli.Context, r *stages.EvalRequest) error {
	file, err := sourceOf(c, c.String("data"))
	if err != nil {
		return err
	}
	if file.Split == "" {
		file.Split = data.HeldBack(file.Path).Split
	}
	tok, src, err := stages.OpenTokenizer(r.Models[0].Path, r.Models[0].Adapters...)
	if err != nil {
		return err
	}
	spec := src.Spec
	src.Close()
	if r.Context == 0 {
		r.Context = stages.InTable(&spec, min(2048, spec.MaxPos))
	}
	if n := spec.Context(); n > 0 && r.Context > n {
		return usagef(c, "--context %d is more than the model's context of %d", r.Context, n)
	}
	if r.Stride == 0 {
		r.Stride = r.Context
	}
	r.Tokenizer, r.Template = tok, tok.ChatTemplate()
	if file.Template != "" {
		tmpl, err := stages.ChatTemplate(tok, file.Template, time.Time{})
		if err != nil {
			return err
		}
		r.Template = tmpl.Source()
	}
	r.Rows, r.Text, err = stages.EvalFile(c.Context, file, "", tok, r.Context, &spec, r.TextTokens(), noteOn(c))
	if err == nil {
		err = stages.Answered(&spec, file.Path, r.Text)
	}
	return err
}

func splitComma(s string) []string {
	var out []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}
