package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/quant/gguf"
)

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
		if err := atomic.MkdirAll(filepath.Dir(outputOf(c, path))); err != nil {
			return err
		}
	}
	progress, clear := bar(c, "quant gguf", "weights")
	rep, err := gguf.Write(c.Context, path, outputOf(c, path), o, progress)
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
	for _, n := range rep.Notes() {
		fmt.Fprintln(c.App.Writer, n)
	}
	fmt.Fprintf(c.App.Writer, "%.2f bits a weight, %d bytes of tensors, %d fallbacks\n", rep.BitsPerWeight(), rep.Bytes, rep.Fallbacks)
}

func quantGGUFCommand() *ucli.Command {
	return &ucli.Command{
		Name: "gguf", Usage: "a GGUF file, as llama-quantize writes it",
		Description: examples("quant gguf --model models/M --type Q4_K_M --output M-Q4_K_M.gguf", "quant gguf --model M.gguf --type Q4_0 --imatrix im.gguf --output M-Q4_0.gguf --dry-run",
			"types: "+strings.Join(gguf.FileTypes(), " ")),
		Flags: modelFlags(modelFlag(), nameOutputFlag(), forceFlag(),
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
