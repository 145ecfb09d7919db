package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes/schema"
)

// ggufJobs writes a GGUF of each model and says its bits a weight and what fell back.
func ggufJobs(c *ucli.Context, o gguf.Options) error {
	list, many, err := tasks(c, map[string]string{"type": o.Type})
	if err != nil {
		return err
	}
	if f := c.String("imatrix"); f != "" {
		if many {
			return usagef(c, "--imatrix belongs to one model, there are several")
		}
		if o.Imatrix, err = gguf.ReadImatrix(f); err != nil {
			return err
		}
		if o.Imatrix, err = o.Imatrix.Only(c.StringSlice("include-weights"), c.StringSlice("exclude-weights")); err != nil {
			return err
		}
	} else if c.IsSet("include-weights") || c.IsSet("exclude-weights") {
		return usagef(c, "--include-weights and --exclude-weights choose entries of --imatrix, which is not given")
	}
	return batch(c, list, many, remembering(c, many, func(t task) (*outcome, error) { return ggufTo(c, t, o) }))
}

func ggufTo(c *ucli.Context, t task, o gguf.Options) (*outcome, error) {
	path, err := resolvePath(t.Model)
	if err != nil {
		return nil, err
	}
	o.Name = nameOf(path)
	if !o.DryRun {
		if err := overInputs(c, t.Output); err != nil {
			return nil, err
		}
		if err := fileName(t.Output); err != nil {
			return nil, err
		}
		if err := atomic.MkdirAll(filepath.Dir(t.Output)); err != nil {
			return nil, err
		}
	}
	dev, err := openDevice(c)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	progress, clear := bar(c, "quant gguf", "weights")
	rep, err := gguf.Write(c.Context, dev, path, t.Output, o, progress)
	clear()
	if err != nil {
		return nil, err
	}
	return &outcome{text: ggufText(t.Output, rep, o.DryRun || c.Bool("verbose"), c.Bool("quiet")), json: struct {
		task
		*gguf.Report
	}{t, rep}, how: o.Type, bits: rep.BitsPerWeight(), size: humanize.Bytes(uint64(rep.Bytes))}, nil
}

// ggufText lists every tensor, or what fell back together where the types and the
// reason are the same, and the sums of what was written to output.
func ggufText(output string, rep *gguf.Report, all, quiet bool) string {
	var b strings.Builder
	type fall struct{ from, to, why string }
	first, count := map[fall]string{}, map[fall]int{}
	var order []fall
	for _, t := range rep.Tensors {
		if all {
			fmt.Fprintf(&b, "%-32s %-6s → %-6s %s\n", t.Name, t.From, t.To, t.Why)
			continue
		}
		if !t.Fallback || quiet {
			continue
		}
		f := fall{t.From, t.To, t.Why}
		if count[f]++; count[f] == 1 {
			order, first[f] = append(order, f), t.Name
		}
	}
	for _, f := range order {
		what := first[f]
		if n := count[f]; n > 1 {
			what = fmt.Sprintf("%d matrices, %s …", n, what)
		}
		fmt.Fprintf(&b, "%s: %s → %s, %s\n", what, f.from, f.to, f.why)
	}
	for _, n := range rep.Notes() {
		fmt.Fprintln(&b, n)
	}
	if n := len(rep.Files); n > 0 {
		output = fmt.Sprintf("%s (%d files)", rep.Files[0], n)
	}
	if output != "" {
		fmt.Fprintf(&b, "%s: ", output)
	}
	fmt.Fprintf(&b, "%.2f bits a weight, %d bytes of tensors, %d fallbacks\n", rep.BitsPerWeight(), rep.Bytes, rep.Fallbacks)
	return b.String()
}

func quantGGUFCommand() *ucli.Command {
	return &ucli.Command{
		Name: "gguf", Usage: "a GGUF file, as llama-quantize writes it",
		Description: examples("quant gguf --model models/M --type Q4_K_M --output M-Q4_K_M.gguf", "quant gguf --model M.gguf --type Q4_0 --imatrix im.gguf --output M-Q4_0.gguf --dry-run",
			"types: "+strings.Join(gguf.FileTypes(), " ")+" COPY"),
		Flags: modelFlags(append(batchFlags(" and {type}"),
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, …"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix, GGUF or .dat"},
			&ucli.StringSliceFlag{Name: "include-weights", Usage: "use the importance of tensors whose names hold this alone (may repeat)"},
			&ucli.StringSliceFlag{Name: "exclude-weights", Usage: "do not use the importance of tensors whose names hold this (may repeat)"},
			&ucli.BoolFlag{Name: "pure", Usage: "one type for all matrices"},
			&ucli.StringSliceFlag{Name: "tensor-type", Usage: "RE=TYPE (may repeat)"},
			&ucli.StringFlag{Name: "tensor-type-file", Usage: "file of RE=TYPE"},
			&ucli.StringFlag{Name: "output-tensor-type", Usage: "type of the head"},
			&ucli.StringFlag{Name: "token-embedding-type", Usage: "type of the embedding"},
			&ucli.BoolFlag{Name: "leave-output-tensor", Usage: "the head keeps its type"},
			&ucli.BoolFlag{Name: "allow-requantize", Usage: "accept a model that is quantized already"},
			&ucli.StringSliceFlag{Name: "override-kv", Usage: "KEY=TYPE:VALUE, metadata that takes the place of the model's; TYPE int, float, bool or str (may repeat)"},
			&ucli.StringFlag{Name: "prune-layers", Usage: "L,…: blocks to leave out, from 0; those behind move up"},
			&ucli.BoolFlag{Name: "keep-split", Usage: "as many files as the model has, NAME-00001-of-0000N.gguf of --output NAME.gguf"},
			&ucli.StringFlag{Name: "split-max-size", Usage: "most bytes of tensors in one file, e.g. 4GB: files as with --keep-split"},
			&ucli.BoolFlag{Name: "verbose", Usage: "list every tensor"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "plan only: list every tensor and the sizes, write nothing"})...),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "type"); err != nil {
				return err
			}
			if !c.Bool("dry-run") {
				if err := required(c, "output"); err != nil {
					return err
				}
			}
			if c.Bool("leave-output-tensor") && c.IsSet("output-tensor-type") {
				return usagef(c, "--leave-output-tensor and --output-tensor-type contradict each other")
			}
			o := gguf.Options{Type: c.String("type"), Pure: c.Bool("pure"), OutputType: c.String("output-tensor-type"), EmbeddingType: c.String("token-embedding-type"),
				LeaveOutput: c.Bool("leave-output-tensor"), AllowRequantize: c.Bool("allow-requantize"), DryRun: c.Bool("dry-run"), Force: c.Bool("force"),
				KeepSplit: c.Bool("keep-split")}
			if err := ggufEdits(c, &o); err != nil {
				return err
			}
			for _, s := range c.StringSlice("tensor-type") {
				t, err := gguf.ParseTensorType(s)
				if err != nil {
					return err
				}
				o.Tensors = append(o.Tensors, t)
			}
			if f := c.String("tensor-type-file"); f != "" {
				list, err := gguf.ReadTensorTypes(f)
				if err != nil {
					return err
				}
				o.Tensors = append(o.Tensors, list...)
			}
			return ggufJobs(c, o)
		},
	}
}

// ggufEdits reads the flags that change more than types.
func ggufEdits(c *ucli.Context, o *gguf.Options) (err error) {
	for _, s := range c.StringSlice("override-kv") {
		e, err := gguf.ParseOverride(s)
		if err != nil {
			return err
		}
		o.Override = append(o.Override, e)
	}
	if c.IsSet("prune-layers") {
		if o.Prune, err = gguf.ParseLayers(c.String("prune-layers")); err != nil {
			return err
		}
	}
	if c.IsSet("split-max-size") {
		n, err := schema.ParseSize(c.String("split-max-size"))
		if err != nil {
			return usagef(c, "--split-max-size: %v", err)
		}
		o.SplitSize = int64(n)
	}
	return nil
}
