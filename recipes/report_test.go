package recipes_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train/eval"
)

// wellFormed reads a report as a parser does: every element closed in order.
func wellFormed(t *testing.T, page []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var open []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		switch e := tok.(type) {
		case xml.StartElement:
			open = append(open, e.Name.Local)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				t.Fatalf("</%s> closes %v", e.Name.Local, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("not closed: %v", open)
	}
	for _, bad := range []string{"<script", "http://", "https://", "@import", "NaN", "ZgotmplZ", "<no value>"} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the page contains %q", bad)
		}
	}
}

func TestReportOfWholeRun(t *testing.T) {
	dir := tinyModel(t)
	s, err := tinyRecipe(t, dir).Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
	must(t, err)
	page, err := os.ReadFile(filepath.Join(s.Dir, "report.html"))
	must(t, err)
	wellFormed(t, page)
	text := string(page)
	order := []string{"<h1>tiny", "export/Q8_0", "<h3 style=\"margin-top:0\">Loss", "Learning rate", "Gradient norm", "Tokens a second", "memory",
		"none of them occurs in the training part", "<mark>", "Merge: merge", "Answers side by side", "Resolved recipe", "Hashes and versions", "The base states no licence"}
	at := 0
	for _, w := range order {
		i := strings.Index(text[at:], w)
		if i < 0 {
			t.Fatalf("no %q after byte %d", w, at)
		}
		at += i
	}
	for _, l := range s.Stages {
		if l.State != "done" {
			t.Errorf("stage %s of the first run is %s", l.Stage, l.State)
		}
	}
	rows := text[strings.Index(text, "Length of rows"):strings.Index(text, "Merge: merge")]
	if strings.Contains(rows, dir) || strings.Contains(text, " values trained · ") && strings.Count(text, "values trained") > 1 {
		t.Errorf("a path, or a count twice: %s", rows)
	}
	if n := strings.Count(text, "<svg"); n < 7 {
		t.Errorf("%d charts", n)
	}
	if n := strings.Count(text, `<div class="answers"`); n != 10 {
		t.Errorf("%d prompts are shown", n)
	}
	var again report.Summary // what a page shows is plain data
	raw, err := json.Marshal([]any{s, s.Sections, s.Details})
	must(t, err)
	must(t, json.Unmarshal(raw, &[]any{&again, &again.Sections, &again.Details}))
	if redone, err := again.HTML(); err != nil || !bytes.Equal(redone, page) {
		t.Errorf("the page of the summary's JSON differs, error %v", err)
	}
	for _, f := range []string{"summary.md", "tensorboard/train/events.out.tfevents.0000000000.tunekit"} {
		if !exists(filepath.Join(s.Dir, f)) {
			t.Errorf("no %s", f)
		}
	}
}

// TestManifestIsDeterministic: the same recipe in another run folder, with
// other threads, leaves the same manifest.
func TestManifestIsDeterministic(t *testing.T) {
	dir := tinyModel(t)
	var got [2][]byte
	for i, name := range []string{"a", "b"} {
		s, err := tinyRecipe(t, dir).Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, name), Threads: i + 1})
		must(t, err)
		got[i], err = os.ReadFile(filepath.Join(s.Dir, "manifest.json"))
		must(t, err)
	}
	if !bytes.Equal(got[0], got[1]) {
		t.Errorf("manifests differ:\n%s\n%s", got[0], got[1])
	}
	var m recipes.Manifest
	must(t, json.Unmarshal(got[0], &m))
	if len(m.Stages) != 5 || len(m.Hash) != 64 {
		t.Errorf("manifest %+v", m)
	}
	for _, st := range m.Stages {
		if len(st.Outputs) == 0 || len(st.Inputs) == 0 || len(st.Address) != 64 {
			t.Errorf("stage %+v", st)
		}
	}
}

// TestReportAfterAnError: what was finished is shown, and why it ended.
func TestReportAfterAnError(t *testing.T) {
	dir := tinyModel(t)
	r := tinyRecipe(t, dir, "merge.max_kl=1e-12")
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs")}
	s, err := r.Run(t.Context(), opt)
	if fail.Code(err) != 5 || s == nil || s.Verdict != "gate failed" {
		t.Fatalf("summary %+v, error %v", s, err)
	}
	page, err := os.ReadFile(filepath.Join(opt.Dir, "tiny", "report.html"))
	must(t, err)
	wellFormed(t, page)
	for _, want := range []string{"gate failed", "max_kl is", "not run", "Loss"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q", want)
		}
	}
	s, err = tinyRecipe(t, dir, "eval.gate.exact_match.min=0.9", "eval.samples=4").Run(t.Context(), opt)
	if fail.Code(err) != 5 || s == nil {
		t.Fatalf("summary %+v, error %v", s, err)
	}
	for name, want := range map[string]string{"x.md": "# tiny: gate failed", "x.json": `"verdict":"gate failed"`, "x.xml": `<testsuite name="eval" tests="6" failures="`} {
		path := filepath.Join(dir, name)
		must(t, s.Append(path))
		must(t, s.Append(path))
		raw, err := os.ReadFile(path)
		must(t, err)
		if n := strings.Count(string(raw), want); n != 2 && name != "x.xml" || n == 0 {
			t.Errorf("%s: %d times %q in\n%s", name, n, want, raw)
		}
	}
}

// TestReportOfParts: pages of stages that left little, and text that would be
// markup.
func TestReportOfParts(t *testing.T) {
	dir := tinyModel(t)
	x, err := tinyRecipe(t, dir).Prepare(recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
	must(t, err)
	evil := `</pre><script>alert("1")</script>`
	done := map[string]*recipes.Result{
		"ingest": {Left: &data.Report{Rows: 3, Bad: []data.BadRow{{RowRef: data.RowRef{File: evil, Row: 3}, RowError: rows.RowError{Reason: evil}}}, Notes: []string{evil}}},
		"merge":  {Left: &stages.MergeResult{Report: &lora.MergeReport{}}, Notes: []string{evil}},
		"export": {Left: &stages.ExportResult{Files: []stages.ExportedFile{{Type: "Q8_0", Tensors: []gguf.Tensor{{To: "Q8_0", Why: evil}}}}}},
		"eval": {Left: &report.Evaluation{Rows: 2, Overlap: 1, Answers: []report.Answer{{Prompt: evil, Want: "x", Got: map[string]string{"base": evil}}},
			Metrics: []eval.Metric{{Model: "base", Task: "perplexity", Metric: "perplexity", Value: math.NaN()}}}},
	}
	for _, only := range []string{"", "ingest", "merge", "export", "eval"} {
		some := done
		if only != "" {
			some = map[string]*recipes.Result{only: done[only]}
		}
		s := x.Summary(some, fail.Numericf("train", evil, "%s", evil))
		page, err := s.HTML()
		must(t, err)
		wellFormed(t, page)
		if strings.Contains(s.Markdown(), "<script") {
			t.Error("markup in Markdown")
		}
	}
}

// TestSeveralEvals: evaluations on the same data share a table unless they
// measured a model twice.
func TestSeveralEvals(t *testing.T) {
	dir := tinyModel(t)
	for _, c := range []struct {
		models string
		tables int
	}{{"base", 2}, {"{name: before, model: " + dir + "/model}", 1}} {
		r, err := stages.All.Parse("two.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192, val_set_size: 20}
  - {id: one, eval: {models: [{name: base, model: %[1]s/model}], tasks: [perplexity]}}
  - {id: two, eval: {models: [%[2]s], tasks: [perplexity]}}
`, dir, strings.Replace(c.models, "base", "{name: base, model: "+dir+"/model}", 1)), nil)
		must(t, err)
		s, err := r.Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
		must(t, err)
		rows := 0
		for _, tab := range s.Tables {
			rows += len(tab.Rows)
		}
		if len(s.Tables) != c.tables || rows != 2 {
			t.Errorf("%s: %d tables, %d rows", c.models, len(s.Tables), rows)
		}
	}
}

func TestFrontMatter(t *testing.T) {
	card := "---\nlanguage: en\nlicense: \"apache-2.0\"\n---\nlicense: no\n"
	if got := recipes.FrontMatter(card, "license"); got != "apache-2.0" {
		t.Errorf("got %q", got)
	}
	if got := recipes.FrontMatter("license: mit\n", "license"); got != "" {
		t.Errorf("got %q without a header", got)
	}
}
