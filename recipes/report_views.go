package recipes

import (
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/train"
)

type legend struct{ Key, Name string }

type chartView struct {
	Title  string
	SVG    template.HTML
	Legend []legend
	Wide   bool
}

func (c chart) view() chartView {
	v := chartView{Title: c.Title, SVG: c.SVG(), Wide: c.Wide}
	if len(c.Series) > 1 {
		for _, s := range c.Series {
			if !s.Faint {
				v.Legend = append(v.Legend, legend{"k" + strings.TrimPrefix(s.Class, "s"), s.Name})
			}
		}
	}
	return v
}

type trainView struct {
	Stage, Line string
	Charts      []chartView
}

// trainView draws the curves of a train stage, of one that was interrupted
// too.
func (x *run) trainView(j *Job, res *Result) (trainView, bool) {
	v := trainView{Stage: j.Stage.ID}
	steps, evals, err := train.ReadMetrics(x.metricsPath(v.Stage))
	if err != nil || len(steps) == 0 {
		return v, false
	}
	last := steps[len(steps)-1]
	v.Line = fmt.Sprintf("%s steps, last loss %s", humanize.Comma(int64(last.Step)), sig(last.Loss, 4))
	if n := len(evals); n > 0 {
		v.Line += fmt.Sprintf(", validation loss %s", sig(evals[n-1].Loss, 4))
	}
	if res != nil && res.Train != nil {
		t := res.Train
		v.Line += fmt.Sprintf(" · %s of %s values trained (%s %%) · %s tokens", humanize.Comma(t.Trainable), humanize.Comma(t.Params),
			sig(100*float64(t.Trainable)/float64(max(t.Params, 1)), 3), humanize.Comma(t.Tokens))
		if t.Adapter != "" {
			v.Line += " · " + t.Adapter
		}
	}
	for _, c := range trainCharts(steps, evals) {
		if view := c.view(); view.SVG != "" {
			v.Charts = append(v.Charts, view)
		}
	}
	return v, true
}

func trainCharts(steps []train.Metrics, evals []train.EvalMetrics) []chart {
	x := make([]float64, len(steps))
	col := func(f func(*train.Metrics) float64) []float64 {
		out := make([]float64, len(steps))
		for i := range steps {
			out[i] = f(&steps[i])
		}
		return out
	}
	for i := range steps {
		x[i] = float64(steps[i].Step)
	}
	loss := col(func(m *train.Metrics) float64 { return m.Loss })
	curves := []series{{Name: "loss", X: x, Y: loss, Class: "s1"}}
	if len(loss) >= 100 {
		curves = []series{{Name: "loss of each step", X: x, Y: loss, Class: "s1", Faint: true}, {Name: "loss (mean around)", X: x, Y: smooth(loss), Class: "s1"}}
	}
	if len(evals) > 0 {
		v := series{Name: "validation loss", Class: "s2", Marks: true}
		for _, e := range evals {
			v.X, v.Y = append(v.X, float64(e.Step)), append(v.Y, e.Loss)
		}
		curves = append(curves, v)
	}
	one := func(title string, zero bool, format func(float64) string, f func(*train.Metrics) float64) chart {
		return chart{Title: title, X: "step", Zero: zero, Format: format, Series: []series{{Name: strings.ToLower(title), X: x, Y: col(f), Class: "s1"}}}
	}
	most := int64(0)
	for i := range steps {
		most = max(most, steps[i].MemoryBytes)
	}
	unit, by := "MiB", float64(1<<20)
	if most >= 4<<30 {
		unit, by = "GiB", 1<<30
	}
	charts := []chart{{Title: "Loss", X: "step", Series: curves, Wide: true}}
	if len(steps) > 0 {
		for i, v := range steps[0].Objective { // the same in every step
			charts = append(charts, one(v.Name, false, nil, func(m *train.Metrics) float64 { return m.Objective[i].V }))
		}
	}
	return append(charts,
		one("Learning rate", true, func(v float64) string { return sig(v, 2) }, func(m *train.Metrics) float64 { return m.LearningRate }),
		one("Gradient norm before clipping", true, nil, func(m *train.Metrics) float64 { return m.GradNorm }),
		one("Tokens a second", true, axisNumber3, func(m *train.Metrics) float64 { return m.TokensPerSecond }),
		one("Largest memory so far, "+unit, true, nil, func(m *train.Metrics) float64 { return float64(m.MemoryBytes) / by }))
}

func axisNumber3(v float64) string {
	if v >= 1e4 {
		return sig(v/1e3, 3) + "k"
	}
	return sig(v, 3)
}

type ingestView struct {
	Stage, Line, Longest string
	Words                []string
	Histogram            template.HTML
	Counts, Bad          []pair
	Samples              []sampleView
}

type sampleView struct {
	Where  string
	Pieces []samplePiece
}

type samplePiece struct {
	Text string
	On   bool // learned
}

func (x *run) ingestView(j *Job, res *Result) ingestView {
	r := res.Ingest
	v := ingestView{Stage: res.Stage, Line: r.Line()}
	v.Words = append(v.Words, heldBackWords(r))
	v.Words = append(v.Words, r.Notes...)
	var labels []string
	var counts []int64
	for _, b := range r.Lengths {
		labels, counts = append(labels, fmt.Sprintf("≤ %s", axisNumber(float64(b.High)))), append(counts, b.Samples)
	}
	v.Histogram = bars("length of rows", labels, counts)
	if r.Longest > 0 {
		v.Longest = fmt.Sprintf("longest: %s tokens, %s; max_length %s", humanize.Comma(int64(r.Longest)), r.LongestAt, humanize.Comma(int64(r.MaxLength)))
	}
	count := func(name string, n int64) { v.Counts = append(v.Counts, pair{name, humanize.Comma(n)}) }
	count("read", r.Rows)
	count("kept whole", r.Kept)
	count("truncated", r.Truncated)
	count("split", r.Split)
	for _, k := range sortedKeys(r.Dropped) {
		count("dropped: "+strings.ReplaceAll(k, "_", " "), r.Dropped[k])
	}
	count("duplicates", r.Duplicates)
	count("training samples", int64(r.TrainSamples))
	count("held back", int64(r.ValSamples))
	count("tokens", r.TrainTokens+r.ValTokens)
	count("supervised tokens", r.TrainSupervised+r.ValSupervised)
	if r.LostSupervised > 0 {
		count("supervised tokens lost to length", r.LostSupervised)
	}
	for _, b := range r.Bad {
		v.Bad = append(v.Bad, pair{b.RowRef.String(), b.Error()})
	}
	v.Samples = x.samples(j)
	return v
}

func heldBackWords(r *data.Report) string {
	switch {
	case r.ValSamples == 0:
		return "No rows are held back: what is measured on this data is measured on training rows."
	case r.Overlap == 0:
		return fmt.Sprintf("%s rows are held back; none of them occurs in the training part.", humanize.Comma(int64(r.ValSamples)))
	}
	return fmt.Sprintf("%s rows are held back; %s training rows have the content of one of them.", humanize.Comma(int64(r.ValSamples)), humanize.Comma(r.Overlap))
}

const (
	shownSamples = 5
	shownTokens  = 600 // of one sample
)

// samples are training rows spread over the data, with the mask.
func (x *run) samples(j *Job) []sampleView {
	ds, err := data.LoadArrow(x.stageDir(j.Stage.ID))
	if err != nil {
		return nil
	}
	ref, _ := j.In("tokenizer")
	tok, err := TokenizerOf(x.pathOf(ref))
	if err != nil {
		tok = nil
	}
	var out []sampleView
	for _, i := range spread(ds.Train.Len(), shownSamples) {
		e, err := ds.Train.At(i)
		if err != nil {
			return nil
		}
		out = append(out, sampleView{
			Where:  fmt.Sprintf("%s · %s tokens, %s learned", e.From, humanize.Comma(int64(len(e.IDs))), humanize.Comma(int64(e.Supervised()))),
			Pieces: pieces(&e, tok),
		})
	}
	return out
}

// pieces cuts a sample at the borders of its mask.
func pieces(e *data.Example, tok *tokenizer.Tokenizer) []samplePiece {
	n := int32(min(len(e.IDs), shownTokens))
	var out []samplePiece
	add := func(from, to int32, on bool) {
		if to = min(to, n); from < to {
			out = append(out, samplePiece{spelled(tok, e.IDs[from:to]), on})
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
		out = append(out, samplePiece{fmt.Sprintf(" … and %d more tokens", len(e.IDs)-int(n)), false})
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

// layerView is a number for each layer of a model, drawn and with its worst
// ones named.
type layerView struct {
	Title, Line, WorstTitle string
	Chart                   chartView
	Head                    []string
	Worst                   [][]string
}

const shownWorst = 10

// layerValue is one layer in a layerView.
type layerValue struct {
	name  string
	value float64
	cells []string
}

// layered draws values by layer number, a colour for each kind of matrix.
func layered(title string, vals []layerValue) chartView {
	c := chart{Title: title, X: "layer", Log: true, Format: func(v float64) string { return sig(v, 2) }}
	byKind := map[string]int{}
	for _, v := range vals {
		layer, kind := layerOf(v.name)
		i, ok := byKind[kind]
		if !ok {
			i = len(c.Series)
			byKind[kind] = i
			c.Series = append(c.Series, series{Name: kind, Class: fmt.Sprintf("s%d", i%7+1), Dots: true})
		}
		s := &c.Series[i]
		s.X, s.Y = append(s.X, float64(layer)), append(s.Y, v.value)
		s.Notes = append(s.Notes, fmt.Sprintf("%s: %s", v.name, sig(v.value, 3)))
	}
	return c.view()
}

var layerRE = regexp.MustCompile(`\.(?:layers|blk|h)?\.?(\d+)\.`)

// layerOf splits a module's name into its layer and what it is there.
func layerOf(name string) (layer int, kind string) {
	name = strings.TrimSuffix(name, ".weight")
	kind = name[strings.LastIndexByte(name, '.')+1:]
	if m := layerRE.FindStringSubmatch(name); m != nil {
		layer, _ = strconv.Atoi(m[1])
	}
	return layer, kind
}

// worst are the largest values, first the worst.
func worst(vals []layerValue) [][]string {
	vals = slices.Clone(vals)
	slices.SortStableFunc(vals, func(a, b layerValue) int {
		switch {
		case a.value > b.value:
			return -1
		case a.value < b.value:
			return 1
		}
		return 0
	})
	var out [][]string
	for _, v := range vals[:min(shownWorst, len(vals))] {
		out = append(out, append([]string{shortModule(v.name)}, v.cells...))
	}
	return out
}

func shortModule(name string) string {
	return strings.TrimPrefix(strings.TrimSuffix(name, ".weight"), "model.")
}

// mergeViews compare what quantization of the base moved with what training
// moved.
func mergeViews(res *Result) []layerView {
	m := res.Merge
	if m.Report == nil || len(m.Report.Layers) == 0 {
		return nil
	}
	v := layerView{Title: "Merge: " + res.Stage, WorstTitle: "Largest share of rounding", Head: []string{"layer", "delta/W", "rounding/delta"}}
	quantized := false
	for _, l := range m.Report.Layers {
		quantized = quantized || l.Quant > 0
	}
	var vals []layerValue
	for _, l := range m.Report.Layers {
		delta := max(l.Delta, 1e-300)
		val := layerValue{name: l.Name, value: l.Rounding / delta, cells: []string{sig(l.Delta/max(l.Weight, 1e-300), 3), sig(l.Rounding/delta, 3)}}
		if quantized {
			val.value = l.QuantOverDelta()
			val.cells = append(val.cells, sig(val.value, 3))
		}
		vals = append(vals, val)
	}
	title := "‖rounding‖/‖delta‖ by layer"
	if quantized {
		title, v.WorstTitle = "‖quantization‖/‖delta‖ by layer", "Largest ‖quantization‖/‖delta‖"
		v.Head = append(v.Head, "quant./delta")
		v.Line = "The base was quantized while the adapter learned. Above 1, that quantization moved a layer further than training did. "
	}
	if m.KL != nil {
		v.Line += fmt.Sprintf("KL of base + adapter to merged: %s over %s tokens (largest %s, same top-1 %.1f %%). ", sig(m.KL.KL, 3), humanize.Comma(m.KL.Tokens), sig(m.KL.Max, 2), 100*m.KL.Top1)
	}
	if m.Trained != nil {
		v.Line += fmt.Sprintf("KL of the model as it was trained to merged: %s (same top-1 %.1f %%).", sig(m.Trained.KL, 3), 100*m.Trained.Top1)
	}
	v.Chart, v.Worst = layered(title, vals), worst(vals)
	return []layerView{v}
}

type typeView struct {
	Title string
	Rows  []typeRow
}

type typeRow struct {
	Type, Size, Why string
	Count           int
}

// typeViews say which types a GGUF's tensors got, and why.
func typeViews(res *Result) []typeView {
	var out []typeView
	for _, f := range res.Export.Files {
		if len(f.Tensors) == 0 {
			continue
		}
		v := typeView{Title: fmt.Sprintf("%s/%s: %.2f bits a weight", res.Stage, f.Type, f.Bits)}
		at := map[[2]string]int{}
		var bytes []int64
		for _, t := range f.Tensors {
			k := [2]string{t.To, t.Why}
			i, ok := at[k]
			if !ok {
				i = len(v.Rows)
				at[k] = i
				v.Rows, bytes = append(v.Rows, typeRow{Type: t.To, Why: t.Why}), append(bytes, 0)
			}
			v.Rows[i].Count++
			bytes[i] += t.Bytes
		}
		for i := range v.Rows {
			v.Rows[i].Size = sized(bytes[i])
		}
		out = append(out, v)
	}
	return out
}

type answersView struct {
	Stage string
	Items []answerItem
}

type answerItem struct {
	Prompt, Want string
	Got          []answerText
}

type answerText struct{ Model, Text, Class string }

func (x *run) answersView(j *Job, e *EvalResult) (answersView, bool) {
	v := answersView{Stage: j.Stage.ID}
	var names []string
	for _, t := range x.targets(j) {
		names = append(names, t.Name)
	}
	for _, a := range e.Answers {
		it := answerItem{Prompt: printable(a.Prompt), Want: printable(a.Want)}
		for _, n := range names {
			got, ok := a.Got[n]
			if !ok {
				continue
			}
			t := answerText{Model: n, Text: printable(got)}
			if a.Want != "" {
				t.Class = "wrong"
				if strings.TrimSpace(got) == strings.TrimSpace(a.Want) {
					t.Class = "right"
				}
			}
			it.Got = append(it.Got, t)
		}
		v.Items = append(v.Items, it)
	}
	return v, len(v.Items) > 0
}
