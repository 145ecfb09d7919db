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
		Flags: modelFlags(append(append(sourceFlags(), batchFlags("")...),
			&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
			&ucli.IntFlag{Name: "samples", Value: 64, Usage: "calibration samples"},
			&ucli.IntFlag{Name: "max-length", Value: 512, Usage: "tokens a sample"})...),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "output", "calibration"); err != nil {
				return err
			}
			for _, flag := range []string{"samples", "max-length"} {
				if n := c.Int(flag); n < 1 || n > 1<<24 {
					return usagef(c, "--%s %d: want 1 to %d", flag, n, 1<<24)
				}
			}
			text, err := sourceOf(c, c.String("calibration"))
			if err != nil {
				return err
			}
			list, many, err := tasks(c, nil)
			if err != nil {
				return err
			}
			dev, err := openDevice(c)
			if err != nil {
				return err
			}
			defer dev.Close()
			return batch(c, list, many, remembering(c, many, func(t task) (o *outcome, err error) {
				if err := fileName(t.Output); err != nil {
					return nil, err
				}
				err = writeOutput(c, t.Output, func() error {
					progress, clear := bar(c, "imatrix", "tokens")
					im, err := stages.CollectImatrix(c.Context, dev, t.Model, t.Output, text, c.Int("samples"), c.Int("max-length"), progress)
					clear()
					if err != nil {
						return err
					}
					o = &outcome{text: fmt.Sprintf("%s: %d entries over %d chunks\n", t.Output, len(im.Entries), im.Chunks), how: "imatrix", json: struct {
						task
						Entries int `json:"entries"`
						Chunks  int `json:"chunks"`
					}{t, len(im.Entries), im.Chunks}}
					return gguf.WriteImatrix(t.Output, im)
				})
				return o, err
			}))
		},
	}
}
