package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train/eval"
)

func compareCommand() *ucli.Command {
	return &ucli.Command{
		Name: "compare", Usage: "the models of a run side by side, and the one that fits a need", ArgsUsage: "RUN",
		Description: examples("tune compare runs/pick", "tune compare runs/pick --max-size 5GiB --max kl=0.05 --pick smallest --link best.gguf"),
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "max-size", Usage: "leave out larger ones"},
			&ucli.StringSliceFlag{Name: "max", Usage: "METRIC=VALUE (may repeat)"}, &ucli.StringSliceFlag{Name: "min", Usage: "METRIC=VALUE (may repeat)"},
			&ucli.StringFlag{Name: "pick", Usage: "smallest, or best METRIC"},
			&ucli.StringFlag{Name: "link", Usage: "make this a symbolic link to the pick"},
			&ucli.BoolFlag{Name: "json"}},
		Action: runCompare,
	}
}

// row is one model of a run.
type row struct {
	Name    string             `json:"name"`
	Path    string             `json:"path"`
	Bytes   int64              `json:"bytes"`
	Metrics map[string]float64 `json:"metrics"`
	Pareto  bool               `json:"pareto"` // nothing is both smaller and better
	Out     string             `json:"left_out,omitempty"`
}

func readRows(run string) ([]row, error) {
	files, _ := filepath.Glob(filepath.Join(run, "*", "eval.json"))
	if len(files) == 0 {
		return nil, fail.Usagef(run, "add an eval stage", "no evaluation in this run")
	}
	by := map[string]*row{}
	var order []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, fail.Inputf(f, "", "%w", err)
		}
		var e recipes.EvalResult
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fail.Inputf(f, "", "%w", err)
		}
		speed, err := timed(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		for _, m := range append(e.Metrics, speed...) {
			r := by[m.Model]
			if r == nil {
				r = &row{Name: m.Model, Metrics: map[string]float64{}}
				r.Path, r.Bytes = locate(run, m.Model)
				if r.Bytes == 0 { // not made by the run, such as the base
					r.Path, r.Bytes = given(run, filepath.Base(filepath.Dir(f)), m.Model)
				}
				by[m.Model], order = r, append(order, m.Model)
			}
			r.Metrics[m.Metric] = m.Value
		}
	}
	var out []row
	for _, n := range order {
		out = append(out, *by[n])
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Bytes < out[j].Bytes })
	best := 0.0
	for i := range out {
		if p, ok := out[i].Metrics["perplexity"]; ok && out[i].Bytes > 0 && (best == 0 || p < best) {
			out[i].Pareto, best = true, p
		}
	}
	return out, nil
}

// timed reads the speeds an evaluation measured; they lie in a file of their
// own, since they differ from run to run.
func timed(dir string) ([]eval.Metric, error) {
	path := filepath.Join(dir, "speed.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil // nothing was timed
	}
	var out []eval.Metric
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	return out, nil
}

// locate finds a model's files in the run: a stage's folder, or a file in it.
func locate(run, name string) (string, int64) {
	id, member, _ := strings.Cut(name, "/")
	path := filepath.Join(run, id)
	if member != "" {
		if m, _ := filepath.Glob(filepath.Join(path, "*-"+member+".gguf")); len(m) == 1 {
			path = m[0]
		}
	}
	return path, recipes.WeightBytes(path)
}

// given finds a model that an eval stage took from elsewhere.
func given(run, stage, name string) (string, int64) {
	var state struct {
		Inputs map[string]struct{ Ref string }
	}
	raw, err := os.ReadFile(filepath.Join(run, ".state", stage+".json"))
	if err != nil || json.Unmarshal(raw, &state) != nil {
		return "", 0
	}
	path, err := recipes.ResolvePath(state.Inputs["models["+name+"]"].Ref)
	if err != nil {
		return "", 0
	}
	return path, recipes.WeightBytes(path)
}

func runCompare(c *ucli.Context) error {
	if err := args(c, "RUN", 1); err != nil {
		return err
	}
	rows, err := readRows(c.Args().First())
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
	best, err := pick(c, rows)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "pick: %s (%s)\n", best.Name, best.Path)
	if l := c.String("link"); l != "" {
		abs, err := filepath.Abs(best.Path)
		if err != nil {
			return err
		}
		return atomic.Symlink(abs, l)
	}
	return nil
}

func leaveOut(c *ucli.Context, rows []row) error {
	if s := c.String("max-size"); s != "" {
		n, err := recipes.ParseSize(s)
		if err != nil {
			return usagef(c, "--max-size: %v", err)
		}
		for i := range rows {
			if rows[i].Bytes > int64(n) {
				rows[i].Out = "larger than " + s
			}
		}
	}
	for _, f := range []struct {
		flag string
		bad  func(v, limit float64) bool
	}{{"max", func(v, l float64) bool { return v > l }}, {"min", func(v, l float64) bool { return v < l }}} {
		for _, s := range c.StringSlice(f.flag) {
			metric, val, ok := strings.Cut(s, "=")
			limit, err := strconv.ParseFloat(val, 64)
			if !ok || err != nil {
				return usagef(c, "--%s %q: METRIC=VALUE", f.flag, s)
			}
			for i := range rows {
				if v, ok := rows[i].Metrics[metric]; !ok || f.bad(v, limit) {
					rows[i].Out = f.flag + " " + s
				}
			}
		}
	}
	return nil
}

func pick(c *ucli.Context, rows []row) (*row, error) {
	how := c.String("pick")
	var best *row
	for i := range rows {
		r := &rows[i]
		if r.Out != "" || r.Bytes == 0 { // the base is not of this run
			continue
		}
		switch {
		case best == nil:
			best = r
		case how == "smallest":
		default:
			metric := strings.TrimPrefix(how, "best ")
			a, ok := r.Metrics[metric]
			if !ok {
				return nil, usagef(c, "--pick %q: smallest, or \"best METRIC\"", how)
			}
			lower := metric == "perplexity" || strings.HasPrefix(metric, "kl")
			if b := best.Metrics[metric]; lower && a < b || !lower && a > b {
				best = r
			}
		}
	}
	if best == nil {
		return nil, fail.Gatef(c.Args().First(), "loosen a limit, or add smaller types to the export", "no model meets the limits")
	}
	return best, nil
}

func printRows(c *ucli.Context, rows []row) {
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
