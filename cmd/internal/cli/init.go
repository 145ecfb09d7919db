package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

func initCommand() *ucli.Command {
	return &ucli.Command{
		Name: "init", Usage: "write a recipe for a model and data files, after reading both",
		Description: examples("tune init --model models/M --data 'data/*.parquet' --for ollama -o support.yaml", "tune init --list", "tune init --copy quickstart -o mine.yaml"),
		Flags: []ucli.Flag{modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringFlag{Name: "for", Value: "llama.cpp", Usage: "who will serve it: ollama, llama.cpp, vllm, transformers"},
			&ucli.StringFlag{Name: "copy", Usage: "write the embedded recipe of this name instead"},
			&ucli.BoolFlag{Name: "list", Usage: "the embedded recipes"}},
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
	if err := writeOutput(c, out, func() error { return atomic.WriteFile(out, []byte(text)) }); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "wrote %s; next: tune plan %s\n", out, out)
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
	o := data.Options{ValSetSize: "0", BadRows: "drop", Overflow: "truncate", Name: "init"}
	for _, d := range c.StringSlice("data") {
		o.Datasets = append(o.Datasets, data.Source{Path: d, MaxSamples: 2000})
	}
	_, rep, _, err := stages.IngestFiles(c.Context, c.String("model"), o, nil)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# tune plan FILE shows what this will do, tune run FILE does it; tune help recipe explains every key\nversion: 1\nbase_model: %q\nstages:\n", c.String("model"))
	fmt.Fprintf(&b, "  - ingest:\n      datasets:\n")
	for _, d := range c.StringSlice("data") {
		fmt.Fprintf(&b, "        - {path: %q}    # %s\n", d, kinds(rep))
	}
	fmt.Fprintf(&b, "      max_length: %d    # the longest of the first %d rows has %d tokens\n", roundLength(rep.Longest), rep.Rows, rep.Longest)
	b.WriteString("  - train: {adapter: lora}    # qlora holds the base in 4 bits; none trains every weight\n  - merge: {}\n")
	tasks := "perplexity, kl, speed"
	if rep.Types["chat"]+rep.Types["instruct"]+rep.Types["prompt_completion"] > 0 {
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
	fmt.Fprintf(&b, "  - eval: {tasks: [%s]}    # on rows held back by their content\n", tasks)
	if _, err := os.Stat(c.String("model")); err != nil && !strings.HasPrefix(c.String("model"), "hf://") {
		return "", usagef(c, "no model at %s", filepath.Clean(c.String("model")))
	}
	return b.String(), nil
}

func kinds(rep *data.Report) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(rep.Types)) {
		out = append(out, fmt.Sprintf("%d %s rows", rep.Types[k], k))
	}
	return strings.Join(out, ", ")
}

// roundLength is the next power of two, at least 256: room for rows not seen.
func roundLength(n int) int {
	l := 256
	for l < n {
		l *= 2
	}
	return l
}
