package cli

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes/stages"
)

func imatrixCommand() *ucli.Command {
	return &ucli.Command{
		Name: "imatrix", Usage: "importance matrix over calibration text, in llama.cpp's format",
		Description: examples("quant imatrix --model models/M --calibration train.jsonl --output M-imatrix.gguf"),
		Flags: modelFlags(append(sourceFlags(), modelFlag(), nameOutputFlag(), forceFlag(),
			&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
			&ucli.IntFlag{Name: "samples", Value: 64, Usage: "calibration samples"},
			&ucli.IntFlag{Name: "max-length", Value: 512, Usage: "tokens a sample"})...),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "output", "calibration"); err != nil {
				return err
			}
			dev, err := openDevice(c)
			if err != nil {
				return err
			}
			defer dev.Close()
			text, err := sourceOf(c, c.String("calibration"))
			if err != nil {
				return err
			}
			out := outputOf(c, c.String("model"))
			return writeOutput(c, out, func() error {
				progress, clear := bar(c, "imatrix", "tokens")
				im, err := stages.CollectImatrix(c.Context, dev, c.String("model"), text, c.Int("samples"), c.Int("max-length"), progress)
				clear()
				if err != nil {
					return err
				}
				fmt.Fprintf(c.App.Writer, "%s: %d entries over %d chunks\n", out, len(im.Entries), im.Chunks)
				return gguf.WriteImatrix(out, im)
			})
		},
	}
}
