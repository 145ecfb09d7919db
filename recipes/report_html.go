package recipes

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

//go:embed report.html.tmpl
var reportText string

var reportTemplate = template.Must(template.New("report").Parse(reportText))

// page is what report.html shows, in its order. The template escapes all text.
type page struct {
	Name, Verdict, Class, Err, Hint, Took, Hash string
	Version, Device, Kernels                    string
	Seed                                        uint64
	Tables                                      []pageTable
	Gates                                       []gateLine
	Facts                                       []string
	Next                                        []Command
	Stages                                      []stageRow
	Trains                                      []trainView
	ManyTrains                                  bool
	Ingests                                     []ingestView
	ManyIngests                                 bool
	Layers                                      []layerView
	Types                                       []typeView
	Answers                                     []answersView
	ManyAnswers                                 bool
	Recipe                                      string
	Defaults                                    []Default
	Licence                                     string
	Inputs                                      []inputRow
	Outputs                                     []outputRow
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

type gateLine struct{ Verdict, Text string }

type stageRow struct {
	Stage, Kind, State, Time, Peak, Size string
	Notes                                []string
}

type pair struct{ Name, Value string }

type inputRow struct{ Stage, Name, Ref, Why, Hash string }

type outputRow struct{ Name, Bytes, Hash string }

// html is the whole report as one file.
func (x *run) html(s *Summary, err error) ([]byte, error) {
	p := &page{
		Name: s.Name, Verdict: s.Verdict, Err: s.Err, Hint: fail.Hint(err), Took: duration(s.Seconds), Hash: string(s.Hash),
		Version: Version, Device: x.dev.Info().Name, Kernels: x.dev.Info().Level, Seed: x.Seed, Facts: s.Facts, Next: s.Next, Licence: x.licence(),
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
		p.Stages = append(p.Stages, stageRow{l.Stage, l.Kind, l.State, nonzeroTime(l.Seconds), ibytes(l.Peak), sized(l.Bytes), l.Notes})
	}
	x.sections(p)
	var ferr error
	if p.Recipe, p.Defaults, ferr = x.Full(); ferr != nil {
		return nil, ferr
	}
	var b bytes.Buffer
	ferr = reportTemplate.Execute(&b, p)
	return b.Bytes(), ferr
}

// sections fills what each stage shows. A part that cannot be made is left
// out: a report is best when something went wrong.
func (x *run) sections(p *page) {
	for _, j := range x.jobs {
		res := x.done[j.Stage.ID]
		if j.Stage.Train != nil {
			if v, ok := x.trainView(j, res); ok {
				p.Trains = append(p.Trains, v)
			}
		}
		if res == nil {
			continue
		}
		for _, name := range sortedKeys(res.Inputs) {
			in := res.Inputs[name]
			p.Inputs = append(p.Inputs, inputRow{res.Stage, name, in.Ref, in.Why, string(in.SHA256)})
		}
		for _, f := range res.Outputs {
			p.Outputs = append(p.Outputs, outputRow{res.Stage + "/" + f.Path, humanize.Comma(f.Bytes), string(f.SHA256)})
		}
		switch {
		case res.Ingest != nil:
			p.Ingests = append(p.Ingests, x.ingestView(j, res))
		case res.Quantize != nil:
			p.Layers = append(p.Layers, quantizeViews(res)...)
		case res.Merge != nil:
			p.Layers = append(p.Layers, mergeViews(res)...)
		case res.Export != nil:
			p.Types = append(p.Types, typeViews(res)...)
		case res.Eval != nil:
			p.Gates = append(p.Gates, gateLines(res.Eval)...)
			if v, ok := x.answersView(j, res.Eval); ok {
				p.Answers = append(p.Answers, v)
			}
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
				out[i].Items[k].Got = append(out[i].Items[k].Got, v.Items[k].Got...)
			}
			continue next
		}
		out = append(out, v)
	}
	return out
}

func sameQuestions(a, b answersView) bool {
	return slices.EqualFunc(a.Items, b.Items, func(x, y answerItem) bool { return x.Prompt == y.Prompt && x.Want == y.Want })
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

func gateLines(e *EvalResult) []gateLine {
	var out []gateLine
	for _, c := range e.Checks {
		t := fmt.Sprintf("%s: %s is %s, limit %s", c.Model, c.Metric, sig(c.Value, 4), c.Limit)
		if c.Needed > 0 {
			t += fmt.Sprintf("; about %s samples would decide", humanize.Comma(int64(c.Needed)))
		}
		out = append(out, gateLine{string(c.Verdict), t})
	}
	return out
}

// licence is what the base says about itself: general.license of a GGUF, or
// the front matter of a folder's README.md.
func (x *run) licence() string {
	if x.BaseModel == "" {
		return ""
	}
	path, err := resolvePath(x.BaseModel)
	if err != nil {
		return ""
	}
	r, err := formats.Open(path)
	if err != nil {
		return ""
	}
	defer r.Close()
	for _, kv := range r.KV() {
		if s, ok := kv.Value.(string); ok && (kv.Key == "general.license" || kv.Key == "general.license.name") {
			return s
		}
	}
	readme, _ := r.File("README.md")
	return frontMatter(string(readme), "license")
}

// frontMatter reads one plain key of a model card's YAML header.
func frontMatter(card, key string) string {
	rest, ok := strings.CutPrefix(card, "---\n")
	if !ok {
		return ""
	}
	head, _, ok := strings.Cut(rest, "\n---")
	if !ok {
		return ""
	}
	for line := range strings.SplitSeq(head, "\n") {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}
