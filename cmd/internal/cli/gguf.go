package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/quant/gguf"
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
	return &outcome{text: ggufText(t.Output, rep, o.DryRun, c.Bool("quiet")), json: struct {
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
			"types: "+strings.Join(gguf.FileTypes(), " ")),
		Flags: modelFlags(append(batchFlags(" and {type}"),
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, …"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix, GGUF or .dat"},
			&ucli.BoolFlag{Name: "pure", Usage: "one type for all matrices"},
			&ucli.StringSliceFlag{Name: "tensor-type", Usage: "RE=TYPE (may repeat)"},
			&ucli.StringFlag{Name: "output-tensor-type", Usage: "type of the head"},
			&ucli.StringFlag{Name: "token-embedding-type", Usage: "type of the embedding"},
			&ucli.BoolFlag{Name: "leave-output-tensor", Usage: "the head keeps its type"},
			&ucli.BoolFlag{Name: "allow-requantize", Usage: "accept a model that is quantized already"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "plan only"})...),
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
				LeaveOutput: c.Bool("leave-output-tensor"), AllowRequantize: c.Bool("allow-requantize"), DryRun: c.Bool("dry-run"), Force: c.Bool("force")}
			for _, s := range c.StringSlice("tensor-type") {
				t, err := gguf.ParseTensorType(s)
				if err != nil {
					return err
				}
				o.Tensors = append(o.Tensors, t)
			}
			return ggufJobs(c, o)
		},
	}
}
