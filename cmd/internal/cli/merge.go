package cli

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train/eval"
)

// mergeKeys are the keys of a merge stage that tune merge has as flags.
var mergeKeys = []string{"method", "density", "majority_sign_method", "svd_rank", "base", "max_shard_size"}

func mergeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "merge", Usage: "adapters into weights, or into one adapter; prints the KL between adapter and merged model",
		Description: examples("tune merge --model models/M --adapter runs/support/adapter --output merged",
			"tune merge --model models/M.gguf --adapter A --output merged.gguf --storage f16",
			"tune merge --adapter A:0.7 --adapter B:0.3 --method ties --density 0.5 --output AB"),
		Flags: modelFlags(append(slices.Concat(optionFlags(&stages.Merge{}, mergeKeys...), sourceFlags()), modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "adapter", Usage: "PEFT adapter folder or GGUF, with its weight: A:0.7 (may repeat); without --model the result is an adapter"},
			&ucli.Float64SliceFlag{Name: "weight", Usage: "factor of each adapter, in order (default 1)"},
			&ucli.Uint64Flag{Name: "seed", Value: 42, Usage: "of the random masks of dare"},
			&ucli.StringFlag{Name: "storage", Value: "auto", Usage: "stored type: auto (that of the base), bf16, f16 or f32"},
			&ucli.BoolFlag{Name: "trained-nf4", Usage: "the adapter was trained over NF4 (QLoRA): compare with that, too"},
			&ucli.StringFlag{Name: "data", Usage: "text or rows to measure the KL on (default: generated tokens)"},
			&ucli.Float64Flag{Name: "max-kl", Usage: "exit 5 when the KL is larger"})...),
		Action: runMerge,
	}
}

func runMerge(c *ucli.Context) error {
	if err := required(c, "adapter", "output"); err != nil {
		return err
	}
	var o stages.Merge
	if err := readOptions(c, &o, mergeKeys...); err != nil {
		return err
	}
	schema.Fill(&o)
	if err := o.Check(); err != nil {
		return err
	}
	adapters, weights, err := weighted(c)
	if err != nil {
		return err
	}
	if c.IsSet("seed") && !strings.HasPrefix(o.Method, "dare") {
		return usagef(c, "--seed is of the masks of dare: method %s has none", o.Method)
	}
	for _, flag := range append([]string{"columns", "chat-template"}, sourceKeys...) {
		if c.IsSet(flag) && !c.IsSet("data") {
			return usagef(c, "--%s says how --data is read, and there is none", flag)
		}
	}
	if !c.IsSet("model") {
		for _, flag := range []string{"base", "max-shard-size", "storage", "trained-nf4", "data", "max-kl"} {
			if c.IsSet(flag) {
				return usagef(c, "--%s belongs to weights that are merged: give --model", flag)
			}
		}
		return writeOutput(c, c.String("output"), func() error { return combineTo(c, &o, adapters, weights) })
	}
	if lora.IsGGUF(c.String("output")) {
		if err := fileName(c.String("output")); err != nil {
			return err
		}
	}
	if c.IsSet("max-shard-size") && lora.IsGGUF(c.String("output")) {
		return usagef(c, "--max-shard-size belongs to a folder: a GGUF is one file")
	}
	return writeOutput(c, c.String("output"), func() error { return mergeTo(c, &o, adapters, weights) })
}

// weighted are the adapters of --adapter and their factors, which stand behind a colon
// or under --weight.
func weighted(c *ucli.Context) (paths []string, weights []float64, err error) {
	given := false
	for _, a := range c.StringSlice("adapter") {
		w := 1.0
		if path, factor, ok := lastCut(a); ok {
			if f, err := strconv.ParseFloat(factor, 64); err == nil {
				a, w, given = path, f, true
			}
		}
		if w-w != 0 {
			return nil, nil, usagef(c, "--adapter %s: the weight is no number", a)
		}
		paths, weights = append(paths, a), append(weights, w)
	}
	if c.IsSet("weight") {
		if given {
			return nil, nil, usagef(c, "--weight and --adapter PATH:WEIGHT both give weights")
		}
		weights = c.Float64Slice("weight")
	}
	return paths, weights, nil
}

// lastCut is a path and what stands behind its last colon, where there is no such path.
func lastCut(s string) (path, behind string, ok bool) {
	if _, err := os.Lstat(s); err == nil {
		return s, "", false
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// combineTo makes one adapter of several.
func combineTo(c *ucli.Context, o *stages.Merge, adapters []string, weights []float64) error {
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	f, err := stages.CombineAdapters(dev, stages.MergeOptions{Adapters: adapters, Weights: weights, Combine: o.Combination, Seed: c.Uint64("seed"),
		Output: c.String("output")})
	if err != nil {
		return err
	}
	return writeJSON(c, struct {
		Output string `json:"output"`
		Method string `json:"method"`
		Layers int    `json:"layers"`
		R      int    `json:"r"`
	}{c.String("output"), o.Method, f.Layers(), f.Config.R})
}

// unmeasured is where a merged model lies until it has been compared, so that
// what was killed before is never taken for one that passed; how tells what is merged
// and in which way, so that one is never gone on with as another. What other merges into
// output left behind is removed.
func unmeasured(output, how string) (string, error) {
	ext := filepath.Ext(output)
	if ext != ".gguf" {
		ext = ""
	}
	prefix := strings.TrimSuffix(filepath.Clean(output), ext) + ".unmeasured"
	work := prefix + "-" + how + ext
	list, err := os.ReadDir(filepath.Dir(prefix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fail.Inputf(filepath.Dir(prefix), "", "%w", err)
	}
	for _, e := range list {
		if path := filepath.Join(filepath.Dir(prefix), e.Name()); strings.HasPrefix(path, prefix) && path != work+".part" {
			if err := atomic.RemoveAll(path); err != nil {
				return "", err
			}
		}
	}
	return work, nil
}

func mergeTo(c *ucli.Context, opts *stages.Merge, adapters []string, weights []float64) (err error) {
	h := sha256.New()
	for _, path := range append([]string{c.String("model")}, adapters...) {
		fmt.Fprintln(h, path, stampOf(path))
	}
	fmt.Fprintln(h, weights, opts.Combination, opts.Base, c.Uint64("seed"), c.Bool("trained-nf4"))
	output := c.String("output")
	work, err := unmeasured(output, fmt.Sprintf("%.4x", h.Sum(nil)))
	if err != nil {
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
	o := stages.MergeOptions{Model: c.String("model"), Adapters: adapters, Weights: weights, Combine: opts.Combination, Seed: c.Uint64("seed"), Output: work,
		Storage: c.String("storage"), Trained: opts.Base == "trained", MaxShard: int64(opts.MaxShardSize), Name: nameOf(c.String("output")), Note: noteOn(c)}
	nf4 := c.Bool("trained-nf4") || o.Trained
	if nf4 {
		t := dtype.NF4Double
		o.TrainedAs = &t
	}
	samples, err := mergeData(c, o.Model, adapters)
	if err != nil {
		return err
	}
	held := []bool{o.Trained}
	if nf4 && !o.Trained {
		held = append(held, true)
	}
	if err := o.Room(c.Context, dev, held, samples); err != nil {
		return err
	}
	progress, clear := bar(c, "merge", "bytes")
	o.Progress = progress
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

// mergeTokens is how much of a text a merge is checked on.
const mergeTokens = 4096

// mergeData is what a merge is checked on: --data, or 1,024 tokens that run
// through the vocabulary. A reward model, which writes no text, is checked on nothing.
func mergeData(c *ucli.Context, modelPath string, adapters []string) ([]eval.Sample, error) {
	for _, path := range adapters {
		if f, err := lora.ReadFolder(path); err == nil && f.Reward() {
			return nil, nil
		}
	}
	if f := c.String("data"); f != "" {
		file, err := sourceOf(c, f)
		if err != nil {
			return nil, err
		}
		tok, src, err := stages.OpenTokenizer(modelPath, adapters...)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		rows, text, err := stages.EvalFile(c.Context, file, c.String("output"), tok, stages.InTable(&src.Spec, min(2048, src.Spec.MaxPos)), &src.Spec, mergeTokens, noteOn(c))
		if err == nil {
			err = stages.Answered(&src.Spec, f, text)
		}
		if err != nil {
			return nil, err
		}
		if rows.Len() == 0 {
			n := min(len(text), mergeTokens)
			rows = data.InMemory(data.Example{IDs: text[:stages.InTable(&src.Spec, min(n, src.Spec.MaxPos))]})
		}
		return stages.KLSamples(rows)
	}
	src, err := stages.OpenSource(modelPath)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	const tokens = 1024
	length := stages.InTable(&src.Spec, tokens) // of a text: one, or as many as a shorter context takes
	if src.Spec.MaxPos > 1 {
		length = min(length, src.Spec.MaxPos)
	}
	var rows []data.Example
	for at := 0; at+1 < tokens; at += length {
		ex := data.Example{}
		for i := at; i < min(at+length, tokens); i++ {
			ex.IDs = append(ex.IDs, int32((int64(i)*2654435761+12345)%int64(src.Spec.V)))
		}
		rows = append(rows, ex)
	}
	return stages.KLSamples(data.InMemory(rows...))
}
