package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

func fitCommand() *ucli.Command {
	return &ucli.Command{
		Name: "fit", Usage: "what a model takes, and which quantization of it fits into memory; reads no weights", ArgsUsage: "MODEL…",
		Description: examples("tune fit models/M --memory 24GiB", "tune fit models/A models/B config.json --memory 8GiB --context 32768"),
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "memory", Usage: "of the machine or GPU, e.g. 24GiB (default: 0.9 of what is available here)"},
			&ucli.IntFlag{Name: "context", Usage: "tokens of a conversation (default: 8192, or what the model was trained for)"},
			&ucli.BoolFlag{Name: "json", Usage: "one JSON object a model"}},
		Action: runFit,
	}
}

func runFit(c *ucli.Context) error {
	if c.NArg() == 0 {
		return args(c, "MODEL", 1)
	}
	memory := cpu.DefaultLimit()
	if s := c.String("memory"); s != "" {
		n, err := schema.ParseSize(s)
		if err != nil {
			return usagef(c, "--memory: %v", err)
		}
		memory = int64(n)
	}
	context := c.Int("context")
	if context < 0 || context > 1<<28 || c.IsSet("context") && context == 0 {
		return usagef(c, "--context %d: want at least 1", context)
	}
	any, last := false, ""
	var problems error
	for i, path := range c.Args().Slice() {
		f, err := stages.FitModel(path, memory, context)
		if err != nil { // the others are shown all the same
			problems = errors.Join(problems, err)
			continue
		}
		any, last = any || f.Any(), path
		if c.Bool("json") {
			err = writeJSON(c, f)
		} else {
			if i > 0 {
				fmt.Fprintln(c.App.Writer)
			}
			err = printFit(c, f)
		}
		if err != nil {
			return err
		}
	}
	if problems != nil || any {
		return problems
	}
	return fail.Limitf(last, "a smaller model, a shorter context (--context), or several devices", "no type of its weights fits into %s", humanize.IBytes(uint64(memory)))
}

func printFit(c *ucli.Context, f *stages.Fit) error {
	licence := f.Licence
	if licence == "" {
		licence = "not stated"
	}
	size := func(n int64) string { return humanize.IBytes(uint64(n)) }
	fmt.Fprintf(c.App.Writer, "%s  %s, %s parameters, trained for %d tokens, licence %s\n", harmless(f.Model), f.Arch, humanize.SIWithDigits(float64(f.Params), 2, ""), f.Longest, harmless(licence))
	fmt.Fprintf(c.App.Writer, "with %d tokens: cache %s, computing %s; memory %s\n", f.Context, size(f.Cache), size(f.Working), size(f.Memory))
	out := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "weights\tfor\tbits\tsize\ttotal\tfits\tcontext that fits")
	for _, r := range f.Rows {
		fits, most := "no", "–"
		if r.Fits {
			fits = "yes"
		}
		if r.Context > 0 {
			most = fmt.Sprint(r.Context)
		}
		fmt.Fprintf(out, "%s\t%s\t%.2f\t%s\t%s\t%s\t%s\n", r.Type, r.For, r.Bits, size(r.Weights), size(r.Total), fits, most)
	}
	if err := out.Flush(); err != nil { // what follows has columns of its own
		return err
	}
	for _, s := range f.Parallel {
		how := "even"
		if !s.Even {
			how = "not even: " + s.Why
		}
		if s.Even && s.Group > 0 {
			how += fmt.Sprintf(", groups of %d stay whole", s.Group)
		} else if s.Even {
			how += ", quantized groups would be cut"
		}
		fmt.Fprintf(out, "%d devices\t%s\n", s.Devices, how)
	}
	for _, n := range f.Notes {
		fmt.Fprintf(out, "note\t%s\n", harmless(n))
	}
	return out.Flush()
}
