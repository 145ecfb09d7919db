package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/recipes/schema"
)

//go:embed report.html.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Parse(reportText))

// page is what report.html shows, in its order. The template escapes all text.
type page struct {
	Details
	Name, Verdict, Class, Err, Took, Hash string
	Tables                                []pageTable
	Gates                                 []Gate
	Facts                                 []string
	Next                                  []Command
	Stages                                []stageRow
	StageNotes                            bool // some stage has one
	Trains                                []curvesView
	ManyTrains                            bool
	Ingests                               []dataView
	ManyIngests                           bool
	Layers                                []layersView
	Types                                 []Types
	Answers                               []answersView
	ManyAnswers                           bool
	Learned                               []answersView
	Grids                                 []gridView
	Inputs                                []Input
	Outputs                               []outputRow
	Defaults                              []schema.Default
}

type pageTable struct {
	Eval, Note string
	Head       []tableCell
	Rows       [][]tableCell
}

type tableCell struct {
	Text, Class string
	Right       bool
}

type stageRow struct {
	Stage, Kind, State, Time, Peak, Size string
	Notes                                []string
}

type outputRow struct{ Name, Bytes, Hash string }

// HTML is the whole report as one file.
func (s *Summary) HTML() ([]byte, error) {
	p := &page{
		Details: s.Details, Name: s.Name, Verdict: s.Verdict, Err: s.Err, Took: Duration(s.Seconds), Hash: s.Hash,
		Facts: s.Facts, Next: s.Next, Inputs: s.Details.Inputs, Defaults: s.Details.Defaults,
	}
	if p.Hint == "see report.html" {
		p.Hint = ""
	}
	p.Class = map[string]string{"done": "ok", "incomplete": "unsure", "interrupted": "unsure", "gate cannot tell": "unsure"}[s.Verdict]
	if p.Class == "" {
		p.Class = "bad"
	}
	for _, t := range s.Tables {
		if len(t.Rows) > 0 {
			p.Tables = append(p.Tables, tableOf(t))
		}
	}
	for _, l := range s.Stages {
		p.StageNotes = p.StageNotes || len(l.Notes) > 0
		p.Stages = append(p.Stages, stageRow{l.Stage, l.Kind, l.State, nonzeroTime(l.Seconds), Memory(l.Peak), Size(l.Bytes), l.Notes})
	}
	for _, o := range s.Details.Outputs {
		p.Outputs = append(p.Outputs, outputRow{o.Name, humanize.Comma(o.Bytes), o.Hash})
	}
	p.sections(s.Sections)
	for _, g := range s.Grids {
		p.Grids = append(p.Grids, g.view())
	}
	var b bytes.Buffer
	err := reportTemplate.Execute(&b, p)
	return b.Bytes(), err
}

// sections puts what the stages show in its places.
func (p *page) sections(list []Section) {
	for i := range list {
		s := &list[i]
		if s.Curves != nil {
			p.Trains = append(p.Trains, s.Curves.view(s.Stage))
		}
		if s.Data != nil {
			p.Ingests = append(p.Ingests, s.Data.view(s.Stage))
		}
		for _, l := range s.Layers {
			p.Layers = append(p.Layers, l.view())
		}
		p.Types = append(p.Types, s.Types...)
		p.Gates = append(p.Gates, s.Gates...)
		if len(s.Answers) > 0 {
			p.Answers = append(p.Answers, answersView{s.Stage, s.Answers})
		}
		if len(s.Learned) > 0 {
			p.Learned = append(p.Learned, answersView{s.Stage, s.Learned})
		}
	}
	p.Answers = joined(p.Answers)
	p.ManyTrains, p.ManyIngests, p.ManyAnswers = len(p.Trains) > 1, len(p.Ingests) > 1, len(p.Answers) > 1
}

// joined puts the answers of several evaluations side by side where they were
// asked the same.
func joined(vs []answersView) []answersView {
	var out []answersView
next:
	for _, v := range vs {
		for i := range out {
			if !sameQuestions(out[i], v) {
				continue
			}
			for k := range v.Items {
				out[i].Items[k].Got = append(slices.Clip(out[i].Items[k].Got), v.Items[k].Got...)
			}
			continue next
		}
		out = append(out, answersView{v.Stage, slices.Clone(v.Items)})
	}
	return out
}

func sameQuestions(a, b answersView) bool {
	return slices.EqualFunc(a.Items, b.Items, func(x, y Answered) bool { return x.Prompt == y.Prompt && x.Want == y.Want })
}

func tableOf(t Table) pageTable {
	head, right, cells := t.grid()
	out := pageTable{Eval: t.Eval}
	for i, h := range head {
		out.Head = append(out.Head, tableCell{Text: h, Right: right[i]})
	}
	kl := false
	for _, row := range cells {
		var r []tableCell
		for i, c := range row {
			cell := tableCell{Text: c, Right: right[i]}
			if head[i] == "gate" {
				cell.Class = c
			}
			if strings.HasPrefix(head[i], "KL") && c != "" {
				kl = true
			}
			r = append(r, cell)
		}
		out.Rows = append(out.Rows, r)
	}
	if kl {
		out.Note = "KL is the mean over positions of KL(reference ‖ model) in nats, with the 99 % position in brackets; “merge” compares base + adapter with the merged weights."
	}
	return out
}

// The views are sections with their charts drawn.
type (
	legend    struct{ Key, Name string }
	chartView struct {
		Title  string
		SVG    template.HTML
		Legend []legend
		Wide   bool
	}
	curvesView struct {
		Stage, Line string
		Charts      []chartView
	}
	dataView struct {
		Data
		Stage     string
		Histogram template.HTML
		Grids     []gridView
	}
	layersView struct {
		Title, Line, WorstTitle string
		Chart                   chartView
		Head                    []string
		Worst                   [][]string
	}
	answersView struct {
		Stage string
		Items []Answered
	}
	gridView struct {
		Title, Note string
		Head        []tableCell
		Rows        [][]tableCell
	}
)

func (c Chart) view() chartView {
	v := chartView{Title: c.Title, SVG: c.svg(), Wide: c.Wide}
	if len(c.Series) > 1 {
		for _, s := range c.Series {
			if !s.Faint {
				v.Legend = append(v.Legend, legend{"k" + strings.TrimPrefix(s.Class, "s"), s.Name})
			}
		}
	}
	return v
}

func (c *Curves) view(stage string) curvesView {
	v := curvesView{Stage: stage, Line: c.Line}
	for _, ch := range c.Charts {
		if view := ch.view(); view.SVG != "" {
			v.Charts = append(v.Charts, view)
		}
	}
	return v
}

func (d *Data) view(stage string) dataView {
	v := dataView{Data: *d, Stage: stage, Histogram: bars("length of rows", d.Lengths)}
	for _, g := range d.Tables {
		v.Grids = append(v.Grids, g.view())
	}
	return v
}

func (g Grid) view() gridView {
	v := gridView{Title: g.Title, Note: g.Note}
	cells := func(row []string) (out []tableCell) {
		for i, c := range row {
			out = append(out, tableCell{Text: c, Right: i >= g.Left})
		}
		return out
	}
	v.Head = cells(g.Head)
	for _, r := range g.Rows {
		v.Rows = append(v.Rows, cells(r))
	}
	return v
}

func (l *Layers) view() layersView {
	return layersView{Title: l.Title, Line: l.Line, WorstTitle: l.WorstTitle, Chart: layered(l.ChartTitle, l.Values), Head: l.Head, Worst: worst(l.Values)}
}

// layered draws values by layer number, a colour for each kind of matrix.
func layered(title string, vals []Layer) chartView {
	c := Chart{Title: title, X: "layer", Log: true, Format: TwoDigits}
	byKind := map[string]int{}
	for _, v := range vals {
		layer, kind := layerOf(v.Name)
		i, ok := byKind[kind]
		if !ok {
			i = len(c.Series)
			byKind[kind] = i
			c.Series = append(c.Series, Series{Name: kind, Class: fmt.Sprintf("s%d", i%7+1), Dots: true})
		}
		s := &c.Series[i]
		s.X, s.Y = append(s.X, float64(layer)), append(s.Y, v.Value)
		s.Notes = append(s.Notes, fmt.Sprintf("%s: %s", v.Name, Sig(v.Value, 3)))
	}
	return c.view()
}

const shownWorst = 10

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
func worst(vals []Layer) [][]string {
	vals = slices.Clone(vals)
	slices.SortStableFunc(vals, func(a, b Layer) int {
		switch {
		case a.Value > b.Value:
			return -1
		case a.Value < b.Value:
			return 1
		}
		return 0
	})
	var out [][]string
	for _, v := range vals[:min(shownWorst, len(vals))] {
		out = append(out, append([]string{shortModule(v.Name)}, v.Cells...))
	}
	return out
}

func shortModule(name string) string {
	return strings.TrimPrefix(strings.TrimSuffix(name, ".weight"), "model.")
}
