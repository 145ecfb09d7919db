package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

func compareCommand() *ucli.Command {
	return &ucli.Command{
		Name: "compare", Usage: "the models of a run side by side, and the one that fits a need; the trainings of several runs", ArgsUsage: "RUN [RUN …]",
		Description: examples("tune compare runs/pick", "tune compare runs/pick --max-size 5GiB --max kl=0.05 --pick smallest --link best.gguf", "tune compare runs/a runs/b --html curves.html"),
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "max-size", Usage: "leave out larger ones"},
			&ucli.StringSliceFlag{Name: "max", Usage: "METRIC=VALUE (may repeat)"}, &ucli.StringSliceFlag{Name: "min", Usage: "METRIC=VALUE (may repeat)"},
			&ucli.StringFlag{Name: "pick", Usage: "smallest, or best METRIC"},
			&ucli.StringFlag{Name: "link", Usage: "make this a symbolic link to the pick"},
			&ucli.StringFlag{Name: "html", Usage: "of trainings: write a page with their curves"},
			&ucli.BoolFlag{Name: "json", Usage: "one JSON object a line"}},
		Action: runCompare,
	}
}

func runCompare(c *ucli.Context) error {
	if c.NArg() > 1 {
		return compareTrainings(c)
	}
	if err := args(c, "RUN [RUN …]", 1); err != nil {
		return err
	}
	if c.IsSet("html") {
		return fail.Usagef("--html", "tune compare runs/a runs/b --html curves.html; the curves of one run are in its report.html", "--html is of the trainings of several runs, one is given")
	}
	if l := c.String("link"); l != "" {
		if err := atomic.OnlyLink(l); err != nil {
			return err
		}
	}
	rows, err := report.Compare(c.Args().First(), recipes.ResolvePath)
	if err != nil {
		return err
	}
	if err := leaveOut(c, rows); err != nil {
		return err
	}
	if c.Bool("json") {
		for _, r := range rows {
			if err := writeJSON(c, r); err != nil {
				return err
			}
		}
	} else {
		printRows(c, rows)
	}
	if c.String("pick") == "" {
		return nil
	}
	if metric, ok := strings.CutPrefix(c.String("pick"), "best "); ok {
		if err := knownMetric(rows, "--pick", metric); err != nil {
			return err
		}
	}
	best, ok := report.Pick(rows, c.String("pick"))
	if !ok {
		return usagef(c, "--pick %q: smallest, or \"best METRIC\"", c.String("pick"))
	}
	if best == nil {
		return fail.Gatef(c.Args().First(), "loosen a limit, or add smaller types to the export", "no model meets the limits")
	}
	fmt.Fprintf(c.App.ErrWriter, "pick: %s (%s)\n", best.Name, best.Path)
	if l := c.String("link"); l != "" {
		abs, err := filepath.Abs(best.Path)
		if err != nil {
			return err
		}
		if st, err := os.Stat(abs); err == nil && st.IsDir() && lora.IsGGUF(l) {
			return fail.Usagef("--link", "--link "+strings.TrimSuffix(l, filepath.Ext(l)), "%s is the name of a GGUF, the pick %s is a folder", l, best.Name)
		}
		return atomic.Symlink(abs, l)
	}
	return nil
}

// compareTrainings shows what the train stages of several runs have logged.
func compareTrainings(c *ucli.Context) error {
	for _, flag := range []string{"max-size", "max", "min", "pick", "link"} {
		if c.IsSet(flag) {
			return fail.Usagef("--"+flag, "name one run", "--%s chooses among the models of a run, %d runs are given", flag, c.NArg())
		}
	}
	var list []report.Training
	for _, run := range c.Args().Slice() {
		of, err := report.Trainings(run)
		if err != nil {
			return err
		}
		list = append(list, of...)
	}
	if path := c.String("html"); path != "" {
		page, err := report.TrainingsPage(list)
		if err != nil {
			return err
		}
		if err := atomic.WriteFile(path, page); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		for _, t := range list {
			if err := writeJSON(c, t); err != nil {
				return err
			}
		}
		return nil
	}
	summary, validations := report.CompareTrainings(list)
	printGrid(c, summary)
	if len(validations.Head) > 1 {
		fmt.Fprintf(c.App.Writer, "\n%s\n", strings.ToLower(validations.Title))
		printGrid(c, validations)
	}
	return nil
}

// printGrid prints a table in columns.
func printGrid(c *ucli.Context, g report.Grid) {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{g.Head}, g.Rows...) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
}

func leaveOut(c *ucli.Context, rows []report.Compared) error {
	if s := c.String("max-size"); s != "" {
		n, err := schema.ParseSize(s)
		if err != nil {
			return usagef(c, "--max-size: %v", err)
		}
		report.LeaveOut(rows, int64(n), s)
	}
	for _, kind := range []string{"max", "min"} {
		for _, s := range c.StringSlice(kind) {
			metric, val, ok := strings.Cut(s, "=")
			limit, err := strconv.ParseFloat(val, 64)
			if !ok || err != nil {
				return usagef(c, "--%s %q: METRIC=VALUE", kind, s)
			}
			if err := knownMetric(rows, "--"+kind, metric); err != nil {
				return err
			}
			report.LeaveOutBy(rows, kind, metric, limit, s)
		}
	}
	return nil
}

// knownMetric refuses a metric that was measured of no model.
func knownMetric(rows []report.Compared, flag, metric string) error {
	known := report.Metrics(rows)
	if slices.Contains(known, metric) {
		return nil
	}
	return fail.Usagef(flag, fail.Near(metric, known, "measured: "+strings.Join(known, ", ")), "%q was not measured in this run", metric)
}

func printRows(c *ucli.Context, rows []report.Compared) {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	cols := []string{"perplexity", "kl", "top1", "exact_match", "decode_tokens_per_second"}
	fmt.Fprintf(w, "model\tsize\t%s\t\n", strings.Join(cols, "\t"))
	for _, r := range rows {
		size := "" // the base lies outside of the run
		if r.Bytes > 0 {
			size = humanize.Bytes(uint64(r.Bytes))
		}
		fmt.Fprintf(w, "%s\t%s", r.Name, size)
		for _, k := range cols {
			if v, ok := r.Metrics[k]; ok {
				fmt.Fprintf(w, "\t%.4g", v)
			} else {
				fmt.Fprint(w, "\t")
			}
		}
		note := r.Out
		if r.Pareto && note == "" {
			note = "pareto"
		}
		fmt.Fprintf(w, "\t%s\n", note)
	}
	w.Flush()
}
