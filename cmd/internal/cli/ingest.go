package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	ucli "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/stages"
)

// ingestKeys are the keys of an ingest stage that tune ingest has as flags.
var ingestKeys = []string{"max_length", "overflow", "train_on", "train_on_eos", "val_set_size", "bad_rows", "dedup", "chat_template"}

func ingestCommand() *ucli.Command {
	return &ucli.Command{
		Name: "ingest", Usage: "check data files and turn them into tokens; without --output it only checks",
		Description: examples("tune ingest --model models/M --data d.parquet --show 5 --errors bad.jsonl", "tune ingest --model models/M --data 'train/*.jsonl' --output tokens"),
		Flags: slices.Concat([]ucli.Flag{modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringFlag{Name: "columns", Usage: "our names to yours as YAML: {messages: conv}"}},
			optionFlags(&data.Source{}, "type"), optionFlags(&data.Options{}, ingestKeys...),
			[]ucli.Flag{&ucli.IntFlag{Name: "show", Usage: "print so many samples, learned text marked"},
				&ucli.StringFlag{Name: "errors", Usage: "write the bad rows to this JSONL file"},
				&ucli.BoolFlag{Name: "json"}, &ucli.BoolFlag{Name: "quiet"}}),
		Action: runIngest,
	}
}

func runIngest(c *ucli.Context) error {
	if err := required(c, "model", "data"); err != nil {
		return err
	}
	o, src := data.Options{Seed: 42, Name: "ingest", Beside: c.String("output")}, data.Source{Type: "auto"}
	if err := errors.Join(readOptions(c, &o, ingestKeys...), readOptions(c, &src, "type")); err != nil {
		return err
	}
	var err error
	src.Columns, err = parseColumns(c.String("columns"))
	if err != nil {
		return err
	}
	for _, p := range c.StringSlice("data") {
		src.Path = p
		o.Datasets = append(o.Datasets, src)
	}
	progress, clear := bar(c, "ingest", "rows")
	ds, rep, tok, err := stages.IngestFiles(c.Context, c.String("model"), o, progress)
	clear()
	if rep != nil && rep.Rows > 0 {
		if c.IsSet("errors") && len(rep.Bad) > 0 {
			if werr := writeLines(c.String("errors"), rep.Bad); werr != nil {
				return werr
			}
		}
		printIngest(c, rep)
	}
	if err != nil {
		return err
	}
	defer ds.Close()
	shown, err := ds.Train.Read(c.Int("show"))
	if err != nil {
		return err
	}
	for i := range shown {
		if err := data.Show(coloured(c.App.Writer), &shown[i], tok, isTerminal(os.Stdout)); err != nil {
			return err
		}
	}
	if c.IsSet("output") {
		return writeOutput(c, c.String("output"), func() error { return ds.SaveArrow(c.String("output")) })
	}
	return nil
}

func printIngest(c *ucli.Context, rep *data.Report) {
	if c.Bool("json") {
		_ = json.NewEncoder(c.App.Writer).Encode(rep)
		return
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%d rows: %d kept, %d truncated, %d split", rep.Rows, rep.Kept, rep.Truncated, rep.Split)
	for _, k := range slices.Sorted(maps.Keys(rep.Dropped)) {
		fmt.Fprintf(w, ", %d %s", rep.Dropped[k], k)
	}
	fmt.Fprintf(w, "\n%d to train on (%d tokens, %d learned), %d held back; %d duplicates; longest %d tokens (%s)\n", rep.TrainSamples, rep.TrainTokens, rep.TrainSupervised,
		rep.ValSamples, rep.Duplicates, rep.Longest, rep.LongestAt)
	for _, n := range rep.Notes {
		fmt.Fprintln(w, n)
	}
	for _, b := range rep.Bad {
		fmt.Fprintf(w, "%s: %s %s\n", b.RowRef, b.Column, b.Reason)
	}
}

// parseColumns reads --columns, a YAML mapping.
func parseColumns(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	m := map[string]string{}
	if err := yaml.Unmarshal([]byte(s), &m); err != nil {
		return nil, fail.Usagef("--columns", "{messages: conv, role: from, content: value}", "%w", err)
	}
	return m, nil
}

// writeLines writes values as JSON lines.
func writeLines[T any](path string, values []T) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, v := range values {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	return atomic.WriteFile(path, b.Bytes())
}
