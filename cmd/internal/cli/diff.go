package cli

import (
	"cmp"
	"fmt"
	"slices"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/stages"
)

func diffCommand() *ucli.Command {
	return &ucli.Command{
		Name: "diff", Usage: "what two models differ in: config, tokenizer, tensors; exit 5 where they differ", ArgsUsage: "A B",
		Description: examples("tune diff models/M merged", "tune diff models/M M-F16.gguf --tolerance 1e-3", "tune diff runs/a/train runs/b/train --json"),
		Flags: []ucli.Flag{
			&ucli.Float64Flag{Name: "tolerance", Usage: "relative difference up to which a tensor counts as equal, whatever its type (default: equal values of one type)"},
			&ucli.IntFlag{Name: "rows", Value: 20, Usage: "tensors that are shown, those that differ most first; 0: all"},
			&ucli.BoolFlag{Name: "json", Usage: "as one JSON object, with all tensors that differ"},
			&ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}},
		Action: runDiff,
	}
}

func runDiff(c *ucli.Context) error {
	if err := args(c, "A B", 2); err != nil {
		return err
	}
	tolerance := c.Float64("tolerance")
	if !(tolerance >= 0) {
		return usagef(c, "--tolerance %g: want a number from 0 on", tolerance)
	}
	progress, clear := bar(c, "diff", "tensors")
	d, err := stages.Diff(c.Context, c.Args().Get(0), c.Args().Get(1), tolerance, progress)
	clear()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = writeJSON(c, d)
	} else {
		err = printDiff(c, d)
	}
	if err != nil || d.Equal {
		return err
	}
	return fail.Gatef(d.B, "", "differs from %s", d.A)
}

func printDiff(c *ucli.Context, d *stages.Difference) error {
	out := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, part := range []struct {
		name  string
		lines []string
	}{{"config", d.Config}, {"tokenizer", d.Tokenizer}} {
		if len(part.lines) == 0 {
			fmt.Fprintf(out, "%s\tequal\n", part.name)
		}
		for _, l := range part.lines {
			fmt.Fprintf(out, "%s\t%s\n", part.name, harmless(l))
		}
	}
	fmt.Fprintf(out, "tensors\t%d equal, %d differ\n", d.Same, len(d.Tensors))
	if err := out.Flush(); err != nil || len(d.Tensors) == 0 {
		return err
	}
	list := slices.Clone(d.Tensors)
	weight := func(t stages.TensorDiff) float64 {
		switch {
		case t.Only != "" || !slices.Equal(t.ShapeA, t.ShapeB) || t.Finite > 0:
			return 1e300
		case t.Relative != nil:
			return *t.Relative
		}
		return t.Max
	}
	slices.SortStableFunc(list, func(a, b stages.TensorDiff) int { return cmp.Compare(weight(b), weight(a)) })
	rows := c.Int("rows")
	if rows <= 0 || rows > len(list) {
		rows = len(list)
	}
	fmt.Fprintln(out, "\ntensor\tdifference\trelative\tlargest\tvalues")
	for _, t := range list[:rows] {
		name := harmless(t.Name)
		switch {
		case t.Only == "a":
			fmt.Fprintf(out, "%s\tonly in %s\t\t\t\n", name, d.A)
		case t.Only == "b":
			fmt.Fprintf(out, "%s\tonly in %s\t\t\t\n", name, d.B)
		case !slices.Equal(t.ShapeA, t.ShapeB):
			fmt.Fprintf(out, "%s\t%v and %v\t\t\t\n", name, t.ShapeA, t.ShapeB)
		default:
			what, rel := "values", ""
			if t.TypeA != t.TypeB {
				what = t.TypeA + " and " + t.TypeB
			}
			if t.Finite > 0 {
				what += fmt.Sprintf(", %d not finite", t.Finite)
			}
			if t.Relative != nil {
				rel = report.Sig(*t.Relative, 3)
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%d\n", name, what, rel, report.Sig(t.Max, 3), t.Values)
		}
	}
	if n := len(list) - rows; n > 0 {
		fmt.Fprintf(out, "… %d more: --rows 0 shows all\n", n)
	}
	return out.Flush()
}
