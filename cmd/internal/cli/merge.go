package cli

import (
	"errors"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"
	"slices"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train/eval"
)

// mergeKeys are the keys of a merge stage that tune merge has as flags.
var mergeKeys = []string{"base", "max_shard_size"}

func mergeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "merge", Usage: "adapters into weights; prints the KL between adapter and merged model",
		Description: examples("tune merge --model models/M --adapter runs/support/adapter --output merged",
			"tune merge --model models/M.gguf --adapter A --output merged.gguf --storage f16"),
		Flags: modelFlags(append(slices.Concat(optionFlags(&stages.Merge{}, mergeKeys...), sourceFlags()), modelFlag(), adapterFlag(), outputFlag(), forceFlag(),
			&ucli.Float64SliceFlag{Name: "weight", Usage: "factor of each adapter, in order (default 1)"},
			&ucli.StringFlag{Name: "storage", Value: "auto", Usage: "stored type: auto (that of the base), bf16, f16 or f32"},
			&ucli.BoolFlag{Name: "trained-nf4", Usage: "the adapter was trained over NF4 (QLoRA): compare with that, too"},
			&ucli.StringFlag{Name: "data", Usage: "text or rows to measure the KL on (default: generated tokens)"},
			&ucli.Float64Flag{Name: "max-kl", Usage: "exit 5 when the KL is larger"})...),
		Action: runMerge,
	}
}

func runMerge(c *ucli.Context) error {
	if err := required(c, "model", "adapter", "output"); err != nil {
		return err
	}
	var o stages.Merge
	if err := readOptions(c, &o, mergeKeys...); err != nil {
		return err
	}
	schema.Fill(&o)
	return writeOutput(c, c.String("output"), func() error { return mergeTo(c, &o) })
}

// unmeasured is where a merged model lies until it has been compared, so that
// what was killed before is never taken for one that passed.
func unmeasured(output string) string {
	ext := filepath.Ext(output)
	if ext != ".gguf" {
		ext = ""
	}
	return strings.TrimSuffix(filepath.Clean(output), ext) + ".unmeasured" + ext
}

func mergeTo(c *ucli.Context, opts *stages.Merge) (err error) {
	output, work := c.String("output"), unmeasured(c.String("output"))
	if err := atomic.RemoveAll(work); err != nil {
		return err
	}
	defer func() {
		if err != nil { // a part that was not finished stays: the same command goes on with it
			err = errors.Join(err, atomic.RemoveAll(work))
		}
	}()
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	progress, clear := bar(c, "merge", "bytes")
	o := stages.MergeOptions{Model: c.String("model"), Adapters: c.StringSlice("adapter"), Weights: c.Float64Slice("weight"), Output: work,
		Storage: c.String("storage"), Trained: opts.Base == "trained", MaxShard: int64(opts.MaxShardSize), Name: nameOf(c.String("output")), Progress: progress,
		Note: noteOn(c)}
	nf4 := c.Bool("trained-nf4") || o.Trained
	if nf4 {
		t := dtype.NF4Double
		o.TrainedAs = &t
	}
	rep, err := stages.MergeModel(c.Context, dev, o)
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
	}{Output: output, Bytes: rep.Bytes, Layers: len(rep.Layers)}
	if rep.Reward {
		if c.IsSet("max-kl") {
			return fail.Usagef("--max-kl", "leave it out", "a reward model writes no text whose KL could be measured")
		}
		if err := writeJSON(c, out); err != nil {
			return err
		}
		return atomic.Rename(work, output)
	}
	samples, err := mergeData(c, o.Model)
	if err != nil {
		return err
	}
	kl, err := stages.CompareMerged(c.Context, dev, o.Model, o.Trained, o, samples)
	if err != nil {
		return err
	}
	out.KL = kl
	if nf4 && !o.Trained {
		if out.Trained, err = stages.CompareMerged(c.Context, dev, o.Model, true, o, samples); err != nil {
			return err
		}
	}
	if err := writeJSON(c, out); err != nil {
		return err
	}
	if c.IsSet("max-kl") {
		if err := kl.CheckMerge(output, c.Float64("max-kl")); err != nil {
			return err
		}
	}
	return atomic.Rename(work, output)
}

// mergeData is what a merge is checked on: --data, or 1,024 tokens that run
// through the vocabulary.
func mergeData(c *ucli.Context, modelPath string) ([]eval.Sample, error) {
	if f := c.String("data"); f != "" {
		file, err := sourceOf(c, f)
		if err != nil {
			return nil, err
		}
		tok, src, err := stages.OpenTokenizer(modelPath, c.StringSlice("adapter")...)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		rows, text, err := stages.EvalFile(c.Context, file, tok, min(2048, src.Spec.MaxPos), src.Spec.MaxPos, src.Spec.V, noteOn(c))
		if err != nil {
			return nil, err
		}
		if rows.Len() == 0 {
			n := min(len(text), 4096)
			rows = data.InMemory(data.Example{IDs: text[:min(n, src.Spec.MaxPos)]})
		}
		return stages.KLSamples(rows)
	}
	src, err := stages.OpenSource(modelPath)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	ex := data.Example{}
	for i := range 1024 {
		ex.IDs = append(ex.IDs, int32((int64(i)*2654435761+12345)%int64(src.Spec.V)))
	}
	return stages.KLSamples(data.InMemory(ex))
}
