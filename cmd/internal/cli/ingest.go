package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/recipes/stages"
)

// ingestKeys are the keys of an ingest stage that tune ingest has as flags.
var ingestKeys = []string{"max_length", "overflow", "train_on", "train_on_eos", "reasoning", "val_set_size", "bad_rows",
	"dedup", "dedup_action", "dedup_threshold", "dedup_ngram", "dedup_num_perm", "decontaminate"}

func ingestCommand() *ucli.Command {
	return &ucli.Command{
		Name: "ingest", Usage: "check data files and turn them into tokens; without --output it only checks",
		Description: examples("tune ingest --model models/M --data d.parquet --show 5 --errors bad.jsonl", "tune ingest --model models/M --data 'train/*.jsonl' --output tokens"),
		Flags: slices.Concat([]ucli.Flag{modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringSliceFlag{Name: "decontaminate-against", Usage: "files of evaluations, read to compare the rows with (may repeat)"}},
			sourceFlags(), optionFlags(&data.Options{}, ingestKeys...),
			[]ucli.Flag{&ucli.IntFlag{Name: "show", Usage: "print so many samples, learned text marked"},
				&ucli.StringFlag{Name: "errors", Usage: "write the bad rows to this JSONL file"},
				&ucli.BoolFlag{Name: "json", Usage: "the report, and each sample shown, as JSON objects"}, &ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}}),
		Action: runIngest,
	}
}

func runIngest(c *ucli.Context) error {
	if err := required(c, "model", "data"); err != nil {
		return err
	}
	o := data.Options{Seed: 42, Name: "ingest", Beside: cmp.Or(c.String("output"), filepath.Join(os.TempDir(), "tokens"))}
	if err := readOptions(c, &o, ingestKeys...); err != nil {
		return err
	}
	for _, p := range c.StringSlice("data") {
		src, err := sourceOf(c, p)
		if err != nil {
			return err
		}
		o.Datasets, o.ChatTemplate = append(o.Datasets, src), src.Template
	}
	for _, p := range c.StringSlice("decontaminate-against") { // with names of its own
		o.DecontaminateAgainst = append(o.DecontaminateAgainst, data.Source{Path: p})
	}
	if out := c.String("output"); out != "" {
		if err := outputFree(c, out); err != nil { // before the work
			return err
		}
	}
	if f := c.String("errors"); f != "" {
		if err := badRowsTo(f); err != nil {
			return err
		}
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
		if c.Bool("json") {
			if err := writeJSON(c, sampleOf(&shown[i], tok)); err != nil {
				return err
			}
			continue
		}
		if err := data.Show(coloured(c.App.Writer), &shown[i], tok, isTerminal(os.Stdout)); err != nil {
			return err
		}
	}
	if c.IsSet("output") {
		return writeOutput(c, c.String("output"), func() error { return ds.SaveArrow(c.String("output")) })
	}
	return nil
}

// sampleOf is a sample of --show for programs: its ids, and the text of its pieces.
func sampleOf(e *data.Example, tok *tokenizer.Tokenizer) any {
	type piece struct {
		Text    string `json:"text"`
		Learned bool   `json:"learned"`
	}
	s := struct {
		Sample  string     `json:"sample"`
		IDs     []int32    `json:"ids"`
		Learned [][2]int32 `json:"learned"` // ranges [start, end) of ids
		Pieces  []piece    `json:"pieces,omitempty"`
	}{e.From.String(), e.IDs, e.Loss, nil}
	add := func(from, to int32, learned bool) {
		if from < to && tok != nil {
			s.Pieces = append(s.Pieces, piece{tok.Decode(e.IDs[from:to], false), learned})
		}
	}
	at := int32(0)
	for _, r := range e.Loss {
		add(at, r[0], false)
		add(r[0], r[1], true)
		at = r[1]
	}
	add(at, int32(len(e.IDs)), false)
	return s
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
	if rep.Compared > 0 {
		fmt.Fprintf(w, ", %d to compare with", rep.Compared)
	}
	fmt.Fprintf(w, "\n%d to train on (%d tokens, %d learned), %d held back; %d duplicates; longest %d tokens (%s)\n", rep.TrainSamples, rep.TrainTokens, rep.TrainSupervised,
		rep.ValSamples, rep.Duplicates, rep.Longest, rep.LongestAt)
	if rep.NearDuplicates+rep.Overlap+rep.NearOverlap > 0 {
		fmt.Fprintf(w, "%d nearly the same as another; training rows in an evaluation: %d, nearly: %d\n", rep.NearDuplicates, rep.Overlap, rep.NearOverlap)
	}
	printLengths(w, rep)
	for _, g := range stages.DataTables(rep) {
		fmt.Fprintf(w, "\n%s\n", g.Title)
		g.Print(w)
	}
	if len(rep.Notes)+len(rep.Bad) > 0 {
		fmt.Fprintln(w)
	}
	for _, n := range rep.Notes {
		fmt.Fprintln(w, n)
	}
	for _, b := range rep.Bad {
		fmt.Fprintf(w, "%s: %s\n", b.RowRef, b.Error())
	}
}

// printLengths draws how long the rows are.
func printLengths(w io.Writer, rep *data.Report) {
	most := int64(1)
	for _, b := range rep.Lengths {
		most = max(most, b.Samples)
	}
	for _, b := range rep.Lengths {
		fmt.Fprintf(w, "%9s tokens %9d %s\n", fmt.Sprint("≤ ", b.High), b.Samples, strings.Repeat("█", int((40*b.Samples+most-1)/most)))
	}
}

// badRowsTo refuses a file that holds something other than bad rows, such as the
// data itself.
func badRowsTo(path string) error {
	return atomic.Own(path, "a list of bad rows", func() bool {
		f, err := os.Open(path)
		if err != nil {
			return false
		}
		defer f.Close()
		d := json.NewDecoder(io.LimitReader(f, 1<<20))
		d.DisallowUnknownFields()
		var b data.BadRow
		return d.Decode(&b) == nil && b.File != "" && b.Reason != ""
	})
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
