package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
)

// bar returns a progress function for one job.
func bar(c *ucli.Context, name, unit string) (func(done, total int64), func()) {
	w := newWatcher(c.App.ErrWriter, c.Bool("quiet"))
	return func(done, total int64) {
		w.event(recipes.Event{Stage: name, What: "progress", Done: done, Total: total, Unit: unit})
	}, w.clear
}

func outputFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "where to write"}
}

func forceFlag() ucli.Flag {
	return &ucli.BoolFlag{Name: "force", Usage: "replace what is at --output"}
}

// writeOutput runs write for a path that must not exist yet. With --force what
// is there steps aside and comes back when write fails: nothing is lost. The
// folders above are made.
func writeOutput(c *ucli.Context, path string, write func() error) error {
	if _, err := os.Lstat(path); err != nil {
		if err := atomic.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		return write()
	}
	if !c.Bool("force") {
		return fail.Usagef(path, "--force replaces it", "already exists")
	}
	restore, drop, err := atomic.Aside(path)
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return errors.Join(err, restore())
	}
	return drop()
}

func mergeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "merge", Usage: "adapters into weights; prints the KL between adapter and merged model",
		Description: examples("tune merge --model models/M --adapter runs/support/adapter --output merged",
			"tune merge --model models/M.gguf --adapter A --output merged.gguf --storage f16"),
		Flags: modelFlags(modelFlag(), adapterFlag(), outputFlag(), forceFlag(),
			&ucli.Float64SliceFlag{Name: "weight", Usage: "factor of each adapter, in order (default 1)"},
			&ucli.StringFlag{Name: "storage", Value: "auto", Usage: "stored type: auto (that of the base), bf16, f16 or f32"},
			&ucli.StringFlag{Name: "base", Value: "original", Usage: "original, or trained: into the weights as NF4 held them in training"},
			&ucli.BoolFlag{Name: "trained-nf4", Usage: "the adapter was trained over NF4 (QLoRA): compare with that, too"},
			&ucli.StringFlag{Name: "data", Usage: "text or rows to measure the KL on (default: generated tokens)"},
			&ucli.Float64Flag{Name: "max-kl", Usage: "exit 5 when the KL is larger"},
			&ucli.StringFlag{Name: "max-shard-size", Value: "5GB", Usage: "bytes a file"}),
		Action: runMerge,
	}
}

func runMerge(c *ucli.Context) error {
	if err := required(c, "model", "adapter", "output"); err != nil {
		return err
	}
	if b := c.String("base"); b != "original" && b != "trained" {
		return usagef(c, "--base %q: original or trained", b)
	}
	shard, err := recipes.ParseSize(c.String("max-shard-size"))
	if err != nil {
		return usagef(c, "--max-shard-size: %v", err)
	}
	return writeOutput(c, c.String("output"), func() error { return mergeTo(c, int64(shard)) })
}

func mergeTo(c *ucli.Context, shard int64) error {
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	progress, clear := bar(c, "merge", "bytes")
	o := recipes.MergeOptions{Model: c.String("model"), Adapters: c.StringSlice("adapter"), Weights: c.Float64Slice("weight"), Output: c.String("output"),
		Storage: c.String("storage"), Trained: c.String("base") == "trained", MaxShard: shard, Name: nameOf(c.String("output")), Progress: progress}
	nf4 := c.Bool("trained-nf4") || o.Trained
	if nf4 {
		t := dtype.NF4Double
		o.TrainedAs = &t
	}
	rep, err := recipes.MergeModel(c.Context, dev, o)
	clear()
	if err != nil {
		return err
	}
	out := struct {
		Output  string `json:"output"`
		Bytes   int64  `json:"bytes"`
		Layers  int    `json:"layers"`
		KL      any    `json:"kl"`
		Trained any    `json:"kl_to_trained,omitempty"`
	}{Output: o.Output, Bytes: rep.Bytes, Layers: len(rep.Layers)}
	batches, err := mergeData(c, o.Model)
	if err != nil {
		return err
	}
	kl, err := recipes.CompareMerged(c.Context, dev, o.Model, o.Trained, o, batches)
	if err != nil {
		return err
	}
	out.KL = kl
	if nf4 && !o.Trained {
		if out.Trained, err = recipes.CompareMerged(c.Context, dev, o.Model, true, o, batches); err != nil {
			return err
		}
	}
	if err := writeJSON(c, out); err != nil {
		return err
	}
	if c.IsSet("max-kl") {
		return kl.CheckKL(o.Output, c.Float64("max-kl"))
	}
	return nil
}

func nameOf(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}

// mergeData is what a merge is checked on: --data, or 1,024 tokens that run
// through the vocabulary.
func mergeData(c *ucli.Context, modelPath string) ([]data.Batch, error) {
	if f := c.String("data"); f != "" {
		tok, src, err := recipes.OpenTokenizer(modelPath)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		rows, text, err := recipes.EvalFile(c.Context, f, tok, min(2048, src.Spec.MaxPos), src.Spec.MaxPos, src.Spec.V)
		if err != nil {
			return nil, err
		}
		if rows.Len() == 0 {
			n := min(len(text), 4096)
			rows = data.InMemory(data.Example{IDs: text[:min(n, src.Spec.MaxPos)]})
		}
		return recipes.KLBatches(rows)
	}
	v, err := recipes.VocabOf(modelPath)
	if err != nil {
		return nil, err
	}
	ex := data.Example{}
	for i := range 1024 {
		ex.IDs = append(ex.IDs, int32((int64(i)*2654435761+12345)%int64(v)))
	}
	return recipes.KLBatches(data.InMemory(ex))
}

func exportCommand() *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "a model as GGUF or as a plain safetensors folder",
		Description: examples("tune export --model merged --format gguf --type Q4_K_M --output M-Q4_K_M.gguf",
			"tune export --model M-Q4_K_M.gguf --format safetensors --type BF16 --output M-bf16"),
		Flags: modelFlags(modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringFlag{Name: "format", Value: "gguf", Usage: "gguf or safetensors"},
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, F16, … (gguf; default Q4_K_M) or BF16, F16, F32 (safetensors; default BF16)"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix"}),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "output"); err != nil {
				return err
			}
			switch c.String("format") {
			case "gguf":
				typ := c.String("type")
				if typ == "" {
					typ = "Q4_K_M"
				}
				return ggufJob(c, gguf.Options{Type: typ, AllowRequantize: true, Force: c.Bool("force")})
			case "safetensors":
				typ := c.String("type")
				if typ == "" {
					typ = "BF16"
				}
				path, err := resolvePath(c.String("model"))
				if err != nil {
					return err
				}
				progress, clear := bar(c, "export", "tensors")
				defer clear()
				return writeOutput(c, c.String("output"), func() error {
					return recipes.ExportSafetensors(c.Context, path, c.String("output"), typ, progress)
				})
			}
			return usagef(c, "--format %q: gguf or safetensors", c.String("format"))
		},
	}
}

// ggufJob writes one GGUF and prints its bits a weight and every fallback.
func ggufJob(c *ucli.Context, o gguf.Options) error {
	path, err := resolvePath(c.String("model"))
	if err != nil {
		return err
	}
	if f := c.String("imatrix"); f != "" {
		if o.Imatrix, err = gguf.ReadImatrix(f); err != nil {
			return err
		}
	}
	if o.Name == "" {
		o.Name = nameOf(path)
	}
	if !o.DryRun {
		if err := atomic.MkdirAll(filepath.Dir(c.String("output"))); err != nil {
			return err
		}
	}
	progress, clear := bar(c, "quant gguf", "weights")
	rep, err := gguf.Write(c.Context, path, c.String("output"), o, progress)
	clear()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, rep)
	}
	printGGUF(c, rep, o.DryRun)
	return nil
}

func printGGUF(c *ucli.Context, rep *gguf.Report, all bool) {
	for _, t := range rep.Tensors {
		if t.Fallback || all {
			fmt.Fprintf(c.App.Writer, "%-32s %-6s → %-6s %s\n", t.Name, t.From, t.To, t.Why)
		}
	}
	fmt.Fprintf(c.App.Writer, "%.2f bits a weight, %d bytes of tensors, %d fallbacks\n", rep.BitsPerWeight(), rep.Bytes, rep.Fallbacks)
}

func quantGGUFCommand() *ucli.Command {
	return &ucli.Command{
		Name: "gguf", Usage: "a GGUF file, as llama-quantize writes it",
		Description: examples("quant gguf --model models/M --type Q4_K_M --output M-Q4_K_M.gguf", "quant gguf --model M.gguf --type Q4_0 --imatrix im.gguf --output M-Q4_0.gguf --dry-run",
			"types: "+strings.Join(gguf.FileTypes(), " ")),
		Flags: modelFlags(modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, …"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix, GGUF or .dat"},
			&ucli.BoolFlag{Name: "pure", Usage: "one type for all matrices"},
			&ucli.StringSliceFlag{Name: "tensor-type", Usage: "RE=TYPE (may repeat)"},
			&ucli.StringFlag{Name: "output-tensor-type", Usage: "type of the head"},
			&ucli.StringFlag{Name: "token-embedding-type", Usage: "type of the embedding"},
			&ucli.BoolFlag{Name: "leave-output-tensor", Usage: "the head keeps its type"},
			&ucli.BoolFlag{Name: "allow-requantize", Usage: "accept a model that is quantized already"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "plan only"}),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "type"); err != nil {
				return err
			}
			if !c.Bool("dry-run") {
				if err := required(c, "output"); err != nil {
					return err
				}
			}
			o := gguf.Options{Type: c.String("type"), Pure: c.Bool("pure"), OutputType: c.String("output-tensor-type"), EmbeddingType: c.String("token-embedding-type"),
				LeaveOutput: c.Bool("leave-output-tensor"), AllowRequantize: c.Bool("allow-requantize"), DryRun: c.Bool("dry-run"), Force: c.Bool("force")}
			for _, s := range c.StringSlice("tensor-type") {
				t, err := gguf.ParseTensorType(s)
				if err != nil {
					return err
				}
				o.Tensors = append(o.Tensors, t)
			}
			return ggufJob(c, o)
		},
	}
}

func evalCommand() *ucli.Command {
	return &ucli.Command{
		Name: "eval", Usage: "measure models: perplexity, KL, answers, speed; judge them against a baseline",
		Description: examples("tune eval --model models/M --tasks perplexity --data wiki.txt --context 2048",
			"tune eval --model M-gptq --model M-awq --reference models/M --tasks perplexity,kl --data held-out.jsonl",
			"tune eval --model new --tasks perplexity,exact_match --data d.jsonl --baseline b.json --gate perplexity.max_increase=1%"),
		Flags: modelFlags(
			&ucli.StringSliceFlag{Name: "model", Aliases: []string{"m"}, Usage: "model to measure (may repeat)"}, adapterFlag(),
			&ucli.StringFlag{Name: "reference", Usage: "model for kl and top1"},
			&ucli.StringFlag{Name: "tasks", Value: "perplexity", Usage: strings.Join(recipes.Tasks, ",")},
			&ucli.StringFlag{Name: "data", Usage: "text, JSONL or Parquet"},
			&ucli.IntFlag{Name: "samples", Usage: "rows or windows used (default: all)"},
			&ucli.IntFlag{Name: "context", Usage: "tokens a window (default: min(2048, the model's))"},
			&ucli.IntFlag{Name: "stride", Usage: "tokens between windows (default: context)"},
			&ucli.IntFlag{Name: "max-new-tokens", Value: 256},
			&ucli.Float64Flag{Name: "temperature"},
			&ucli.StringSliceFlag{Name: "gate", Usage: "METRIC.max|min|max_increase|max_decrease=VALUE (may repeat)"},
			&ucli.StringFlag{Name: "unsure", Value: "fail", Usage: "what a gate that cannot tell does: pass or fail"},
			&ucli.StringFlag{Name: "baseline", Usage: "file written by --write-baseline"},
			&ucli.StringFlag{Name: "write-baseline", Usage: "keep this measurement for later gates"},
			&ucli.StringSliceFlag{Name: "summary", Usage: "append to FILE.md, .json or .xml (may repeat)"}),
		Action: runEval,
	}
}

func runEval(c *ucli.Context) error {
	if err := required(c, "model", "data"); err != nil {
		return err
	}
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	r, err := evalRequest(c, dev)
	if err != nil {
		return err
	}
	w := newWatcher(c.App.ErrWriter, c.Bool("quiet"))
	r.Progress = func(model, task string, done, total int64) {
		w.event(recipes.Event{Stage: "eval", What: "progress", Done: done, Total: total, Unit: task, Text: model})
	}
	out, err := recipes.Evaluate(c.Context, dev, r)
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
		if werr := recipes.AppendEval(f, out); err == nil {
			err = werr
		}
	}
	return err
}

func evalRequest(c *ucli.Context, dev kernels.Backend) (recipes.EvalRequest, error) {
	r := recipes.EvalRequest{Tasks: splitComma(c.String("tasks")), Samples: c.Int("samples"), Context: c.Int("context"), Stride: c.Int("stride"),
		MaxNew: c.Int("max-new-tokens"), Temperature: c.Float64("temperature"), Seed: 42, Baseline: c.String("baseline"), WriteBaseline: c.String("write-baseline"),
		UnsurePasses: c.String("unsure") == "pass"}
	name := c.String("dtype")
	if name == "auto" {
		name = "f32"
	}
	var err error
	if r.BF16, err = recipes.ParseBF16(dev, name); err != nil {
		return r, err
	}
	for _, m := range c.StringSlice("model") {
		t := recipes.EvalTarget{Name: m, Path: m, Adapters: c.StringSlice("adapter"), Reference: c.String("reference")}
		r.Models = append(r.Models, t)
	}
	for _, g := range c.StringSlice("gate") {
		gate, err := recipes.ParseGate(g)
		if err != nil {
			return r, err
		}
		r.Gates = append(r.Gates, gate)
	}
	return r, loadEvalData(c.Context, c.String("data"), &r)
}

func loadEvalData(ctx context.Context, path string, r *recipes.EvalRequest) error {
	tok, src, err := recipes.OpenTokenizer(r.Models[0].Path)
	if err != nil {
		return err
	}
	spec := src.Spec
	src.Close()
	if r.Context == 0 {
		r.Context = min(2048, spec.MaxPos)
	}
	if r.Stride == 0 {
		r.Stride = r.Context
	}
	r.Tokenizer, r.Template = tok, tok.ChatTemplate()
	r.Rows, r.Text, err = recipes.EvalFile(ctx, path, tok, r.Context, spec.MaxPos, spec.V)
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

func ingestCommand() *ucli.Command {
	return &ucli.Command{
		Name: "ingest", Usage: "check data files and turn them into tokens; without --output it only checks",
		Description: examples("tune ingest --model models/M --data d.parquet --show 5 --errors bad.jsonl", "tune ingest --model models/M --data 'train/*.jsonl' --output tokens"),
		Flags: []ucli.Flag{modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringFlag{Name: "type", Value: "auto", Usage: "auto, text, chat, instruct, prompt_completion, tokens"},
			&ucli.StringFlag{Name: "columns", Usage: "our names to yours as YAML: {messages: conv}"},
			&ucli.IntFlag{Name: "max-length", Usage: "tokens a sample may have"},
			&ucli.StringFlag{Name: "overflow", Value: "error"}, &ucli.StringFlag{Name: "train-on", Value: "assistant"},
			&ucli.StringFlag{Name: "train-on-eos", Value: "turn"}, &ucli.StringFlag{Name: "val-set-size"},
			&ucli.StringFlag{Name: "bad-rows", Value: "error"}, &ucli.StringFlag{Name: "dedup", Value: "none"},
			&ucli.StringFlag{Name: "chat-template", Usage: "model, a file, or the template"},
			&ucli.IntFlag{Name: "show", Usage: "print so many samples, learned text marked"},
			&ucli.StringFlag{Name: "errors", Usage: "write the bad rows to this JSONL file"},
			&ucli.BoolFlag{Name: "json"}, &ucli.BoolFlag{Name: "quiet"}},
		Action: runIngest,
	}
}

func runIngest(c *ucli.Context) error {
	if err := required(c, "model", "data"); err != nil {
		return err
	}
	o := data.Options{MaxLength: c.Int("max-length"), Overflow: c.String("overflow"), TrainOn: c.String("train-on"), TrainOnEOS: c.String("train-on-eos"),
		ValSetSize: c.String("val-set-size"), BadRows: c.String("bad-rows"), Dedup: c.String("dedup"), ChatTemplate: c.String("chat-template"), Seed: 42, Name: "ingest"}
	columns, err := recipes.ParseColumns(c.String("columns"))
	if err != nil {
		return err
	}
	for _, p := range c.StringSlice("data") {
		o.Datasets = append(o.Datasets, data.Source{Path: p, Type: c.String("type"), Columns: columns})
	}
	progress, clear := bar(c, "ingest", "rows")
	ds, rep, tok, err := recipes.IngestFiles(c.Context, c.String("model"), o, progress)
	clear()
	if rep != nil && rep.Rows > 0 {
		if c.IsSet("errors") && len(rep.Bad) > 0 {
			if werr := recipes.WriteLines(c.String("errors"), rep.Bad); werr != nil {
				return werr
			}
		}
		printIngest(c, rep)
	}
	if err != nil {
		return err
	}
	shown, err := ds.Train.Read(c.Int("show"))
	if err != nil {
		return err
	}
	for i := range shown {
		if err := data.Show(c.App.Writer, &shown[i], tok, isTerminal(os.Stdout)); err != nil {
			return err
		}
	}
	if c.IsSet("output") {
		return writeOutput(c, c.String("output"), func() error { return ds.SaveArrow(c.String("output")) })
	}
	return nil
}

func printIngest(c *ucli.Context, rep *data.Report) {
	if c.Bool("json") {
		_ = json.NewEncoder(c.App.Writer).Encode(rep)
		return
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%d rows: %d kept, %d truncated, %d split", rep.Rows, rep.Kept, rep.Truncated, rep.Split)
	for _, k := range sortedKeys(rep.Dropped) {
		fmt.Fprintf(w, ", %d %s", rep.Dropped[k], k)
	}
	fmt.Fprintf(w, "\n%d to train on (%d tokens, %d learned), %d held back; %d duplicates; longest %d tokens (%s)\n", rep.TrainSamples, rep.TrainTokens, rep.TrainSupervised,
		rep.ValSamples, rep.Duplicates, rep.Longest, rep.LongestAt)
	for _, n := range rep.Notes {
		fmt.Fprintln(w, n)
	}
	for _, b := range rep.Bad {
		fmt.Fprintf(w, "%s: %s %s\n", b.RowRef, b.Column, b.Reason)
	}
}
