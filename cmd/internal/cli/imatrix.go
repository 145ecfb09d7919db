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
		Description: examples("quant imatrix --model models/M --calibration train.jsonl --output M-imatrix.gguf", "quant imatrix --model models/M --calibration train.jsonl --in-file M-imatrix.gguf --from-sample 64 --output more.gguf",
			"quant imatrix --in-file a.gguf --in-file b.dat --output both.gguf", "quant imatrix --in-file M-imatrix.gguf --show-statistics"),
		Flags: modelFlags(append(append(sourceFlags(), batchFlags("")...),
			&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
			&ucli.IntFlag{Name: "samples", Value: 64, Usage: "calibration samples"},
			&ucli.IntFlag{Name: "from-sample", Usage: "samples at the beginning of the text to leave out: those that --in-file has seen"},
			&ucli.IntFlag{Name: "max-length", Value: 512, Usage: "tokens a sample"},
			&ucli.BoolFlag{Name: "process-output", Usage: "collect for output.weight too, where the model has one"},
			&ucli.StringSliceFlag{Name: "in-file", Usage: "importance matrix of an earlier run to add to, GGUF or .dat (may repeat); without --calibration they are merged"},
			&ucli.BoolFlag{Name: "show-statistics", Usage: "print what the matrix of --in-file is like, a line a weight, and collect nothing"})...),
		Action: func(c *ucli.Context) error {
			in, err := inFiles(c)
			if err != nil {
				return err
			}
			if c.Bool("show-statistics") || in != nil && !c.IsSet("calibration") {
				return mergedImatrix(c, in)
			}
			if c.Int("from-sample") < 0 {
				return usagef(c, "--from-sample %d: want 0 or more", c.Int("from-sample"))
			}
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
			if many && in != nil {
				return usagef(c, "--in-file belongs to one model, there are several")
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
					im, err := stages.CollectImatrix(c.Context, dev, t.Model, t.Output, text, c.Bool("process-output"), c.Int("from-sample"), c.Int("samples"), c.Int("max-length"), progress)
					clear()
					if err == nil && in != nil {
						im, err = gguf.MergeImatrix([]*gguf.Imatrix{in, im})
					}
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

// inFiles is the matrix of --in-file, of several the sum; nil without one.
func inFiles(c *ucli.Context) (*gguf.Imatrix, error) {
	var list []*gguf.Imatrix
	for _, f := range c.StringSlice("in-file") {
		m, err := gguf.ReadImatrix(f)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	if len(list) < 2 {
		return append(list, nil)[0], nil
	}
	return gguf.MergeImatrix(list)
}

// mergedImatrix writes or shows what --in-file holds.
func mergedImatrix(c *ucli.Context, m *gguf.Imatrix) error {
	for _, flag := range []string{"model", "calibration", "samples", "from-sample", "max-length", "process-output"} {
		if c.IsSet(flag) {
			return usagef(c, "--%s is for collecting: with --in-file alone, or --show-statistics, no model runs", flag)
		}
	}
	if m == nil {
		return usagef(c, "--show-statistics needs --in-file")
	}
	if c.Bool("show-statistics") {
		if c.IsSet("output") {
			return usagef(c, "--show-statistics prints, and writes no --output")
		}
		return showImatrix(c, m)
	}
	if err := required(c, "output"); err != nil {
		return err
	}
	out := c.String("output")
	if err := fileName(out); err != nil {
		return err
	}
	return writeOutput(c, out, func() error {
		if err := gguf.WriteImatrix(out, m); err != nil {
			return err
		}
		if c.Bool("json") {
			return writeJSON(c, map[string]any{"output": out, "entries": len(m.Entries), "chunks": m.Chunks})
		}
		_, err := fmt.Fprintf(c.App.Writer, "%s: %d entries over %d chunks\n", out, len(m.Entries), m.Chunks)
		return err
	})
}

// showImatrix prints the statistics in the columns of llama-imatrix.
func showImatrix(c *ucli.Context, m *gguf.Imatrix) error {
	stats := m.Statistics()
	w := c.App.Writer
	if !c.Bool("json") {
		fmt.Fprintf(w, "%-40s %10s %10s %10s %10s %8s %14s %8s %8s %10s\n", "tensor", "mean", "stddev", "skew", "kurt", "h norm", "sum E[A²]", "gain", "pcc", "cov")
	}
	for _, s := range stats {
		if c.Bool("json") {
			if err := writeJSON(c, s); err != nil {
				return err
			}
			continue
		}
		opt := func(v *float64) string {
			if v == nil {
				return "-"
			}
			return fmt.Sprintf("%.4f", *v)
		}
		fmt.Fprintf(w, "%-40s %10.4f %10.4f %10.4f %10.4f %7.2f%% %14.4f %8s %8s %10s\n", s.Name, s.Mean, s.StdDev, s.Skewness, s.Kurtosis, 100*s.Entropy, s.Sum, opt(s.Gain), opt(s.Pearson), opt(s.Covariance))
	}
	return nil
}
