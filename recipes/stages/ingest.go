package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
)

var ingestKind = recipes.Kind{
	Name: "ingest", Doc: "rows to tokens",
	New: func() any { return new(Ingest) }, Left: func() any { return new(data.Report) },
	Gives: []recipes.RefKind{recipes.DataRef}, HostOnly: true,
	Resolve: resolveIngest, Inputs: ingestInputs, Address: addressIngest,
	Shape: func(j *recipes.Job) (recipes.Ref, bool) { return j.In("tokenizer") },
	Fit: func(j *recipes.Job, spec *arch.Spec) error {
		o := j.Options.(*Ingest)
		o.ForModel(spec.Trained(), spec.V, spec.Encoder > 0)
		return o.Fill()
	},
	Plan: planIngest, Run: runIngest, View: viewIngest,
}

// Ingest turns data files into tokens with a loss mask.
type Ingest struct {
	data.Options `yaml:",inline"`
}

// resolveIngest leaves the defaults to Fit, where the model is known.
func resolveIngest(opts any, s recipes.Setting, bad recipes.Bad) {
	o := opts.(*Ingest)
	o.Seed, o.Name = s.Seed, s.ID
	if len(o.Datasets) == 0 {
		bad("datasets", "datasets: [{path: data/train.parquet}]", "no data sets")
	}
	if _, err := o.ValRows(1); err != nil {
		bad("val_set_size", fail.Hint(err), "found %q", o.ValSetSize)
	}
	for _, ds := range slices.Concat(o.Datasets, o.ValDatasets, o.DecontaminateAgainst) {
		if ds.Path == "" {
			bad("datasets", "", "a data set has no path")
		}
	}
}

func ingestInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Ingest)
	tok, err := tokenizerOf(v, o.Tokenizer)
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "tokenizer", Ref: tok}}
	for i, d := range slices.Concat(o.Datasets, o.ValDatasets, o.DecontaminateAgainst) {
		in = append(in, recipes.Input{Name: fmt.Sprintf("datasets[%d]", i), Ref: recipes.Ref{Kind: recipes.DataRef, Path: d.Path, Why: "given"}})
	}
	if t := o.ChatTemplate; fileTemplate(t) {
		in = append(in, recipes.Input{Name: "chat_template", Ref: recipes.Ref{Kind: recipes.TemplateRef, Path: t, Why: "given"}})
	}
	return in, nil
}

func tokenizerOf(v *recipes.Resolver, name string) (recipes.Ref, error) {
	if name != "" {
		return v.Given(recipes.ModelRef, "tokenizer", name)
	}
	base, ok := v.Base()
	if !ok {
		return base, v.Usagef("tokenizer", "add base_model to the recipe", "no tokenizer and no base_model")
	}
	return base, nil
}

// addressIngest leaves out the names of inputs, whose content is in the address
// instead.
func addressIngest(a *recipes.Addresser, opts any) any {
	o := *opts.(*Ingest)
	o.Options = o.Shaping()
	o.Tokenizer = ""
	if fileTemplate(o.ChatTemplate) {
		o.ChatTemplate = ""
	}
	o.Datasets, o.ValDatasets, o.DecontaminateAgainst = withoutPaths(o.Datasets), withoutPaths(o.ValDatasets), withoutPaths(o.DecontaminateAgainst)
	a.Env["clock"] = fmt.Sprint(clock().Unix())
	return o
}

func withoutPaths(in []data.Source) []data.Source {
	out := slices.Clone(in)
	for i := range out {
		out[i].Path = ""
	}
	return out
}

func planIngest(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	r, err := rowsOf(p, j.ID)
	if err != nil {
		return err
	}
	if r.unknown != "" {
		s.Does = "rows → tokens"
		s.Note("%s", r.unknown)
		return nil
	}
	about := ""
	if r.sampled > 0 && int64(r.sampled) < r.rows {
		about = "~"
		p.Sampled += r.sampled
	}
	s.Does = fmt.Sprintf("%s%s rows → %s%s tokens, %s%s × %s",
		about, humanize.Comma(r.rows), about, count(float64(r.tokens)), about, humanize.Comma(r.bins), humanize.Comma(int64(r.maxLength)))
	s.Seconds = r.seconds
	s.Disk = 4*r.tokens + 40*(r.train+r.val)
	s.Peak = 2 * s.Disk
	if s.Disk > data.HeldBytes { // tokens then wait in a file
		s.Temp = s.Disk + 100*(r.train+r.val) // and what is known of each row
		s.Peak = 2 * data.HeldBytes
	}
	near := j.Options.(*Ingest).NearBytes(r.rows)
	if s.Temp += near; near > 0 {
		s.Note("%s on disk to compare texts", humanize.Bytes(uint64(near)))
	}
	s.Note("val %s rows; %s over %s (longest%s %s)",
		humanize.Comma(r.val), humanize.Comma(r.over), humanize.Comma(int64(r.maxLength)), seen(about), humanize.Comma(int64(r.longest)))
	if r.bad > 0 {
		s.Note("%s%s rows cannot be used and are left out: tune ingest says why", about, humanize.Comma(r.bad))
	}
	return nil
}

func seen(about string) string {
	if about != "" {
		return " seen"
	}
	return ""
}

func runIngest(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o, tok, tmpl, err := ingestParts(x, j)
	if err != nil {
		return err
	}
	o.Beside = x.Dir(j)
	ds, rep, err := data.Ingest(ctx, o, tok, tmpl, x.Progress("rows"))
	if err != nil {
		return err
	}
	defer ds.Close()
	res.Left = rep
	res.Notes = append(res.Notes, rep.Notes...)
	for name, n := range map[string]int64{"truncated": rep.Truncated, "duplicates": rep.Duplicates + rep.NearDuplicates, "dropped": total(rep.Dropped)} {
		if err := x.FailOn(j, name, n); err != nil {
			return err
		}
	}
	return ds.SaveArrow(o.Beside)
}

func total(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// viewIngest says what became of the rows, with some of them.
func viewIngest(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	r := res.Left.(*data.Report)
	s.Facts = append(s.Facts, r.Line())
	v := &report.Data{Line: r.Line(), Samples: samples(x, j), Tables: DataTables(r)}
	s.Data = v
	v.Words = append(v.Words, heldBackWords(r))
	v.Words = append(v.Words, r.Notes...)
	for _, b := range r.Lengths {
		v.Lengths = append(v.Lengths, report.Bar{Label: fmt.Sprintf("≤ %s", report.AxisNumber(float64(b.High))), Count: b.Samples})
	}
	if r.Longest > 0 {
		v.Longest = fmt.Sprintf("longest: %s tokens, %s; max_length %s", humanize.Comma(int64(r.Longest)), rowNames(r)(r.LongestAt), humanize.Comma(int64(r.MaxLength)))
	}
	count := func(name string, n int64) {
		v.Counts = append(v.Counts, report.Pair{Name: name, Value: humanize.Comma(n)})
	}
	count("read", r.Rows)
	count("kept whole", r.Kept)
	count("truncated", r.Truncated)
	count("split", r.Split)
	for _, k := range slices.Sorted(maps.Keys(r.Dropped)) {
		count("dropped: "+strings.ReplaceAll(k, "_", " "), r.Dropped[k])
	}
	if r.PromptsCut > 0 {
		count("prompts cut", r.PromptsCut)
	}
	count("duplicates", r.Duplicates)
	if r.NearDuplicates > 0 {
		count("nearly the same as another", r.NearDuplicates)
	}
	if n := r.Overlap + r.NearOverlap; n > 0 {
		count("training rows that are in an evaluation", n)
	}
	count("training samples", int64(r.TrainSamples))
	count("held back", int64(r.ValSamples))
	count("tokens", r.TrainTokens+r.ValTokens)
	count("supervised tokens", r.TrainSupervised+r.ValSupervised)
	v.Counts = append(v.Counts, report.Pair{Name: "of all tokens", Value: share(r.TrainSupervised+r.ValSupervised, r.TrainTokens+r.ValTokens)})
	if r.LostSupervised > 0 {
		count("supervised tokens lost to length", r.LostSupervised)
	}
	for _, b := range r.Bad {
		v.Bad = append(v.Bad, report.Pair{Name: b.RowRef.String(), Value: b.Error()})
	}
}

func heldBackWords(r *data.Report) string {
	switch {
	case r.ValSamples == 0:
		return "No rows are held back: what is measured on this data is measured on training rows."
	case r.Overlap+r.NearOverlap == 0:
		return fmt.Sprintf("%s rows are held back; none of them occurs in the training part.", humanize.Comma(int64(r.ValSamples)))
	}
	taken := "decontaminate: near takes such rows out"
	if r.Dropped["in_evaluation"] > 0 {
		taken = "they were taken out"
	}
	return fmt.Sprintf("%s rows are held back; %s training rows have the content of one or of a row that is compared with, %s nearly: %s.", humanize.Comma(int64(r.ValSamples)), humanize.Comma(r.Overlap), humanize.Comma(r.NearOverlap), taken)
}

const (
	shownSamples = 5
	shownTokens  = 600 // of one sample
)

// samples are training rows spread over the data, with the mask.
func samples(x *recipes.Env, j *recipes.Job) []report.Sample {
	ds, err := data.LoadArrow(x.Dir(j))
	if err != nil {
		return nil
	}
	ref, _ := j.In("tokenizer")
	tok, err := TokenizerOf(x.Path(ref))
	if err != nil {
		tok = nil
	}
	var out []report.Sample
	for _, i := range report.Spread(ds.Train.Len(), shownSamples) {
		e, err := ds.Train.At(i)
		if err != nil {
			return nil
		}
		out = append(out, report.Sample{
			Where:  fmt.Sprintf("%s · %s tokens, %s learned", e.From, humanize.Comma(int64(len(e.IDs))), humanize.Comma(int64(e.Supervised()))),
			Pieces: pieces(&e, tok),
		})
	}
	return out
}

// pieces cuts a sample at the borders of its mask.
func pieces(e *data.Example, tok *tokenizer.Tokenizer) []report.Piece {
	n := int32(min(len(e.IDs), shownTokens))
	var out []report.Piece
	add := func(from, to int32, on bool) {
		if to = min(to, n); from < to {
			out = append(out, report.Piece{Text: spelled(tok, e.IDs[from:to]), On: on})
		}
	}
	at := int32(0)
	for _, r := range e.Loss {
		add(at, r[0], false)
		add(r[0], r[1], true)
		at = r[1]
	}
	add(at, int32(len(e.IDs)), false)
	if int(n) < len(e.IDs) {
		out = append(out, report.Piece{Text: fmt.Sprintf(" … and %d more tokens", len(e.IDs)-int(n))})
	}
	return out
}

// spelled is the text of ids, special tokens included.
func spelled(tok *tokenizer.Tokenizer, ids []int32) string {
	if tok == nil {
		return strings.Trim(fmt.Sprint(ids), "[]")
	}
	var raw []byte
	for _, id := range ids {
		raw = append(raw, tok.Bytes(id)...)
	}
	return printable(string(raw))
}

// printable shows control characters by their code; html/template escapes the
// rest.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || r == '\t' || strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x%02x`, r)
		}
	}
	return b.String()
}
