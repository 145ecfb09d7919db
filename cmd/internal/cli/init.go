package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train"
)

func initCommand() *ucli.Command {
	return &ucli.Command{
		Name: "init", Usage: "write a recipe for a model and data files, after reading both",
		Description: examples("tune init --model models/M --data 'data/*.parquet' --for ollama -o support.yaml", "tune init --list", "tune init --copy quickstart -o mine.yaml"),
		Flags: append(sourceFlags(), modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringFlag{Name: "for", Value: "llama.cpp", Usage: "who will serve it: ollama, llama.cpp, vllm, transformers"},
			&ucli.StringFlag{Name: "copy", Usage: "write the recipe of this name instead"},
			&ucli.BoolFlag{Name: "list", Usage: "the recipes inside the program, which run by name"}),
		Action: runInit,
	}
}

func runInit(c *ucli.Context) error {
	if c.Bool("list") {
		for _, name := range []string{"model", "data", "output", "copy"} {
			if c.IsSet(name) {
				return usagef(c, "--list takes no --%s; --copy NAME writes one of the list", name)
			}
		}
		for _, e := range recipes.Embedded() {
			fmt.Fprintf(c.App.Writer, "%-12s %s\n", e.Name, e.Doc)
		}
		return nil
	}
	text, err := recipeText(c)
	if err != nil {
		return err
	}
	out := c.String("output")
	if out == "" {
		fmt.Fprint(c.App.Writer, text)
		return nil
	}
	if err := fileName(out); err != nil {
		return err
	}
	if err := writeOutput(c, out, func() error { return atomic.WriteFile(out, []byte(text)) }); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "wrote %s; next: tune plan %s\n", out, report.Shell(out))
	return nil
}

// recipeText is an embedded recipe, or one for --model and --data.
func recipeText(c *ucli.Context) (string, error) {
	if name := c.String("copy"); name != "" {
		if c.IsSet("model") || c.IsSet("data") {
			return "", usagef(c, "--copy takes the recipe as it is, without --model and --data")
		}
		return recipes.EmbeddedText(name)
	}
	if err := required(c, "model", "data"); err != nil {
		return "", err
	}
	text, err := starter(c)
	if err == nil {
		_, err = stages.All.Parse("recipe", []byte(text), nil)
	}
	return text, err
}

// starter writes a recipe that names what it found in the model and the data.
func starter(c *ucli.Context) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# tune plan FILE shows what this will do, tune run FILE does it; tune help recipe explains every key\nversion: 1\nbase_model: %q\nstages:\n", c.String("model"))
	fmt.Fprintf(&b, "  - ingest:\n      datasets:\n")
	found, err := lookAt(c)
	if err != nil {
		return "", err
	}
	held := ""
	for _, d := range found.data {
		src := d.source
		if val := rows.HeldOut(src.Path); val != "" && src.Split == "" {
			other := src
			src.Split, other.Split = "train", val
			held += "        - " + sourceText(other) + "\n"
		}
		fmt.Fprintf(&b, "        - %s    # %s\n", sourceText(src), kinds(d.report))
	}
	if held != "" {
		fmt.Fprintf(&b, "      val_datasets:\n%s", held)
	}
	if key := templateKey(c, ""); key != "" {
		fmt.Fprintf(&b, "      %s\n", key)
	}
	length := roundLength(found.longest)
	fmt.Fprintf(&b, "      max_length: %d    # the longest of the first %d rows has %d tokens\n", min(length, found.context), found.rows, found.longest)
	if found.longest > found.context {
		overflow := "drop    # rows that the model has no room for"
		if found.types["text"] == found.rows {
			overflow = "split    # texts that the model has no room for become several samples"
		}
		fmt.Fprintf(&b, "      overflow: %s\n", overflow)
	}
	objective := ""
	if found.objective != "" {
		objective = ", objective: " + found.objective
	}
	b.WriteString("  - train: {adapter: lora" + objective + "}    # qlora holds the base in 4 bits; none trains every weight\n  - merge: {}\n")
	tasks := "perplexity, kl, speed"
	if found.types["chat"]+found.types["instruct"]+found.types["prompt_completion"] > 0 {
		tasks = "perplexity, kl, exact_match, speed"
	}
	switch who := c.String("for"); who {
	case "ollama", "llama.cpp":
		fmt.Fprintf(&b, "  - export: {type: Q4_K_M, imatrix: ingest, for: [%s]}\n", who)
	case "vllm", "transformers", "tgi":
		fmt.Fprintf(&b, "  - quantize: {method: awq, calibration: ingest, for: [%s]}\n", who)
	default:
		return "", usagef(c, "--for %q: ollama, llama.cpp, vllm or transformers", who)
	}
	fmt.Fprintf(&b, "  - eval: {tasks: [%s]}    # on rows that training does not see\n", tasks)
	return b.String(), nil
}

// found is what init saw in the first rows.
type found struct {
	data    []foundSource
	rows    int64
	types   map[string]int64
	longest int
	context int // of the model
	// objective is what rows of preferences are learned by; "" for what supervised
	// training learns.
	objective string
}

type foundSource struct {
	source data.Source
	report *data.Report
}

// initRows is how many rows of each source init reads.
const initRows = 2000

// lookAt reads the first rows of every --data. Rows that cannot be used are said:
// what a plan of the recipe will refuse.
func lookAt(c *ucli.Context) (*found, error) {
	model, err := stages.OpenSource(c.String("model"))
	if err != nil {
		return nil, err
	}
	f := &found{types: map[string]int64{}, context: model.Spec.MaxPos}
	model.Close()
	if c.String("type") == "prompt" {
		return nil, usagef(c, "rows of prompts are learned from by rewards, which a recipe has to name: begin with tune init --copy grpo-pocket, or grpo-gsm8k")
	}
	for _, d := range c.StringSlice("data") {
		src, err := sourceOf(c, d)
		if err != nil {
			return nil, err
		}
		first := src
		first.MaxSamples = initRows
		if first.Path, err = resolvePath(src.Path); err != nil {
			return nil, err
		}
		o := data.Options{Datasets: []data.Source{first}, ValSetSize: "0", BadRows: "drop", Overflow: "truncate", ChatTemplate: src.Template, Name: "init"}
		ds, rep, _, err := stages.IngestFiles(c.Context, c.String("model"), o, nil)
		if err != nil {
			return nil, err
		}
		if rows.HeldOut(src.Path) == "" { // else the recipe says what becomes of its splits
			for _, n := range rep.Notes {
				if !strings.Contains(n, "(overflow: truncate)") { // it is how they were looked at, not what the recipe does
					noteOn(c)(n)
				}
			}
		}
		f.objective = cmp.Or(f.objective, string(train.ObjectiveFor(ds.Train)))
		ds.Close()
		if n := rep.Dropped["bad_row"]; n > 0 {
			noteOn(c)(fmt.Sprintf("%d of the first %d rows of %s cannot be used (%s: %s); tune plan will refuse them unless bad_rows: drop leaves them out",
				n, rep.Rows, d, rep.Bad[0].RowRef, rep.Bad[0].Reason))
		}
		f.data = append(f.data, foundSource{src, rep})
		f.rows, f.longest = f.rows+rep.Rows, max(f.longest, rep.Longest)
		for k, n := range rep.Types {
			f.types[k] += n
		}
	}
	return f, nil
}

// sourceText is a source as an entry of a recipe.
func sourceText(s data.Source) string {
	b := fmt.Sprintf("{path: %q", s.Path)
	for _, e := range [][2]string{{"split", s.Split}, {"type", s.Type}} {
		if e[1] != "" {
			b += fmt.Sprintf(", %s: %s", e[0], e[1])
		}
	}
	if len(s.Columns) > 0 {
		var list []string
		for _, k := range slices.Sorted(maps.Keys(s.Columns)) {
			list = append(list, fmt.Sprintf("%s: %q", k, s.Columns[k]))
		}
		b += ", columns: {" + strings.Join(list, ", ") + "}"
	}
	return b + "}"
}

func kinds(rep *data.Report) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(rep.Types)) {
		out = append(out, fmt.Sprintf("%d %s rows", rep.Types[k], k))
	}
	s := strings.Join(out, ", ")
	if rep.Rows == initRows {
		return "the first " + s
	}
	return s
}

// roundLength is the next power of two, at least 256: room for rows not seen.
func roundLength(n int) int {
	l := 256
	for l < n {
		l *= 2
	}
	return l
}
