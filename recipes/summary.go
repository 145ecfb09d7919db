package recipes

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// Summary is what a run ends with. It marshals to summary.json.
type Summary struct {
	Name    string        `json:"name"`
	Dir     string        `json:"dir"`
	Results []*Result     `json:"-"`
	Hash    digest        `json:"hash"` // over the addresses and outputs of all stages
	Took    time.Duration `json:"-"`
	Seconds float64       `json:"seconds"`
	Verdict string        `json:"verdict"` // done, incomplete, gate failed, cannot tell, error
	Err     string        `json:"error,omitempty"`
	Tables  []Table       `json:"tables"`
	Stages  []StageLine   `json:"stages"`
	Facts   []string      `json:"facts,omitempty"` // one line each: rows, fallbacks, overlap
	Next    []Command     `json:"next,omitempty"`
}

// StageLine is one stage of a summary.
type StageLine struct {
	Stage   string   `json:"stage"`
	Kind    string   `json:"kind"`
	State   string   `json:"state"` // done, unchanged, failed, not run
	Seconds float64  `json:"seconds,omitempty"`
	Peak    int64    `json:"peak_bytes,omitempty"`
	Bytes   int64    `json:"bytes,omitempty"` // of its artifact
	Notes   []string `json:"notes,omitempty"`
}

// Command is a line to type, for a program.
type Command struct {
	For  string `json:"for"`
	Line string `json:"line"`
}

// summary collects what the run has so far.
func (x *run) summary(took time.Duration, err error) *Summary {
	s := &Summary{Name: x.Name, Dir: x.dir, Took: took, Seconds: took.Seconds(), Tables: x.tables()}
	complete := true
	for _, j := range x.jobs {
		line := StageLine{Stage: j.Stage.ID, Kind: j.Stage.Kind(), State: "not run"}
		if r := x.done[j.Stage.ID]; r != nil {
			s.Results = append(s.Results, r)
			line.State, line.Seconds, line.Peak, line.Notes = "done", r.Seconds, r.Peak, r.Notes
			if r.Cached {
				line.State = "unchanged"
			}
			for _, f := range r.Outputs {
				line.Bytes += f.Bytes
			}
		} else {
			complete = false
		}
		s.Stages = append(s.Stages, line)
	}
	if err != nil && x.at < len(x.jobs) {
		s.Stages[x.at].State = "failed"
		s.Err = err.Error()
	}
	s.Hash = x.runHash()
	s.Verdict = s.verdict(complete, err)
	s.Facts = x.facts()
	s.Next = x.commands()
	return s
}

func (s *Summary) verdict(complete bool, err error) string {
	var e *fail.Error
	switch {
	case err == nil && complete:
		return "done"
	case err == nil:
		return "incomplete"
	case errors.As(err, &e) && e.Kind == fail.Interrupted:
		return "interrupted"
	case errors.As(err, &e) && e.Kind == fail.Gate:
		for _, r := range s.Results {
			if r.Eval != nil && anyCheck(r.Eval.Checks, eval.Failed) || r.Merge != nil {
				return "gate failed"
			}
		}
		return "gate cannot tell"
	}
	return "error"
}

func anyCheck(cs []eval.Check, v eval.Verdict) bool {
	for _, c := range cs {
		if c.Verdict == v {
			return true
		}
	}
	return false
}

// facts are the counted events of a run, in words.
func (x *run) facts() []string {
	var out []string
	for _, j := range x.jobs {
		r := x.done[j.Stage.ID]
		if r == nil {
			continue
		}
		if r.Ingest != nil {
			out = append(out, r.Ingest.Line())
		}
		if r.Eval != nil {
			if words := overlapWords(r.Eval); !slices.Contains(out, words) { // several stages measure on the same rows
				out = append(out, words)
			}
		}
		if r.Export != nil {
			for _, f := range r.Export.Files {
				if f.Fallbacks > 0 {
					out = append(out, fmt.Sprintf("%s/%s: %d of %d matrices fall back to another type", r.Stage, f.Type, f.Fallbacks, matrices(f)))
				}
			}
		}
	}
	return out
}

func matrices(f ExportedFile) int {
	n := 0
	for _, t := range f.Tensors {
		if len(t.Shape) > 1 {
			n++
		}
	}
	return n
}

// overlapWords says how many evaluated rows training has seen.
func overlapWords(e *EvalResult) string {
	if e.Overlap == 0 {
		return fmt.Sprintf("none of the %s evaluated rows occurs in training", humanize.Comma(int64(e.Rows)))
	}
	return fmt.Sprintf("%s of the %s evaluated rows occur in training: their scores are memory, not skill", humanize.Comma(int64(e.Overlap)), humanize.Comma(int64(e.Rows)))
}

// commands are the next things to type (serving and trying), best model first.
func (x *run) commands() []Command {
	var out []Command
	chat := ""
	for _, j := range x.jobs {
		s := j.Stage
		if x.done[s.ID] == nil {
			continue
		}
		ref := Ref{Kind: ModelRef, Stage: s.ID}
		switch {
		case s.Merge != nil && s.Merge.Format != "gguf":
			out = append(out, Command{"vLLM", fmt.Sprintf("vllm serve %s --served-model-name %s", shell(x.pathOf(ref)), shell(x.Name))})
			chat = x.pathOf(ref)
		case s.Quantize != nil && slices.Contains(s.Quantize.For, "vllm"): // checked against what it loads
			out = append(out, Command{"vLLM", fmt.Sprintf("vllm serve %s --served-model-name %s", shell(x.pathOf(ref)), shell(x.Name+"-"+s.ID))})
		case s.Train != nil && s.Train.Adapter != "none" && x.BaseModel != "" && filepath.Ext(x.BaseModel) != ".gguf" && !strings.HasPrefix(x.BaseModel, embeddedPrefix):
			out = append(out, Command{"vLLM", fmt.Sprintf("vllm serve %s --enable-lora --max-lora-rank %d --lora-modules %s", shell(x.BaseModel), max(8, s.Train.LoRA.R), shell(x.Name+"="+x.pathOf(ref)))})
		case s.Export != nil && s.Export.Format == "gguf":
			ref.Member = s.Export.Type[0]
			chat = x.pathOf(ref)
			out = append(out, Command{"llama.cpp", fmt.Sprintf("llama-server -m %s --jinja -c %d", shell(chat), x.contextOf(chat))})
			if exists(filepath.Join(x.stageDir(s.ID), "Modelfile")) {
				out = append(out, Command{"Ollama", fmt.Sprintf("ollama create %s -f %s && ollama run %s", shell(x.Name), shell(filepath.Join(x.stageDir(s.ID), "Modelfile")), shell(x.Name))})
			}
		}
	}
	if chat != "" {
		out = append([]Command{{"try", "tune chat -m " + shell(chat)}}, out...)
	}
	return out
}

// shell quotes a word where a shell would take it apart.
func shell(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\"'`$&|;<>()*?[]{}!#~\\") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Print writes the summary for a person.
func (s *Summary) Print(w io.Writer) {
	head := fmt.Sprintf("%s in %s · %s", s.Verdict, duration(s.Took.Seconds()), filepath.Join(s.Dir, "report.html"))
	fmt.Fprintf(w, "%s    hash %s\n", head, s.Hash.short())
	for _, t := range s.Tables {
		if len(t.Rows) == 0 {
			continue
		}
		if t.Eval != "" {
			fmt.Fprintf(w, "\n%s\n", t.Eval)
		}
		printGrid(w, t)
	}
	for _, f := range s.Facts {
		fmt.Fprintln(w, f)
	}
	for i, c := range s.Next {
		if i == 2 {
			fmt.Fprintf(w, "      more in %s\n", filepath.Join(s.Dir, "summary.md"))
			break
		}
		fmt.Fprintf(w, "next: %s\n", c.Line)
	}
}

func printGrid(w io.Writer, t Table) {
	head, right, cells := t.grid()
	aligned(w, append([][]string{head}, cells...), right)
}

// aligned writes rows in columns.
func aligned(w io.Writer, rows [][]string, right []bool) {
	width := make([]int, len(right))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right[i] {
				b.WriteString(pad + c + "  ")
			} else {
				b.WriteString(c + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// duration writes seconds as people say them.
func duration(sec float64) string {
	switch {
	case sec < 9.95:
		return fmt.Sprintf("%.1f s", sec)
	case sec < 99.5:
		return fmt.Sprintf("%.0f s", sec)
	case sec < 59.5*60:
		return fmt.Sprintf("%.0f min", sec/60)
	case sec < 48*3600:
		m := int(sec/60 + 0.5)
		return fmt.Sprintf("%d h %02d min", m/60, m%60)
	}
	return fmt.Sprintf("%.1f days", sec/86400)
}

// Markdown is the summary for summary.md and for CI.
func (s *Summary) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n", mdText(s.Name), s.Verdict)
	fmt.Fprintf(&b, "%s in `%s`, hash `%s` (same inputs give the same hash).\n", duration(s.Seconds), s.Dir, s.Hash.short())
	if s.Err != "" {
		fmt.Fprintf(&b, "\n**%s**\n", mdText(s.Err))
	}
	for _, t := range s.Tables {
		mdTable(&b, t)
	}
	for _, f := range s.Facts {
		fmt.Fprintf(&b, "\n- %s", mdText(f))
	}
	b.WriteString("\n\n| stage | kind | state | time | peak | artifact |\n|---|---|---|---:|---:|---:|\n")
	for _, l := range s.Stages {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", mdText(l.Stage), l.Kind, l.State, nonzeroTime(l.Seconds), ibytes(l.Peak), sized(l.Bytes))
	}
	if len(s.Next) > 0 {
		b.WriteString("\n## Use it\n\n```sh\n")
		for _, c := range s.Next {
			fmt.Fprintf(&b, "# %s\n%s\n", c.For, c.Line)
		}
		b.WriteString("```\n")
	}
	return b.String()
}

func nonzeroTime(sec float64) string {
	if sec == 0 {
		return ""
	}
	return duration(sec)
}

func ibytes(n int64) string {
	if n <= 0 {
		return ""
	}
	return humanize.IBytes(uint64(n))
}

func mdTable(b *strings.Builder, t Table) {
	if len(t.Rows) == 0 {
		return
	}
	head, right, cells := t.grid()
	if t.Eval != "" {
		fmt.Fprintf(b, "\n## %s\n", mdText(t.Eval))
	}
	fmt.Fprintf(b, "\n| %s |\n|", strings.Join(head, " | "))
	for _, r := range right {
		if r {
			b.WriteString("---:|")
		} else {
			b.WriteString("---|")
		}
	}
	b.WriteByte('\n')
	for _, row := range cells {
		for i := range row {
			row[i] = mdText(row[i])
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
}

// mdText keeps text from being read as Markdown or HTML.
func mdText(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "*", `\*`, "`", "'", "[", `\[`).Replace(s)
}

// Append adds the summary to a file: .md, .json (a line) or .xml (JUnit) by its
// name; a name without one of these endings, as CI systems give it, is
// Markdown.
func (s *Summary) Append(path string) error {
	var add []byte
	var err error
	switch strings.ToLower(filepath.Ext(path)) {
	case ".xml": // one document: replaced, not appended to
		if add, err = s.junit(); err != nil {
			return err
		}
		return atomic.WriteFile(path, add)
	case ".json":
		if add, err = json.Marshal(s); err != nil {
			return err
		}
		add = append(add, '\n')
	default:
		add = []byte(s.Markdown() + "\n")
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail.Inputf(path, "", "%w", err)
	}
	return atomic.WriteFile(path, append(old, add...))
}

// junit is every evaluation of the run, or a case a stage without one.
func (s *Summary) junit() ([]byte, error) {
	type suites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Name    string       `xml:"name,attr"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	all := suites{Name: s.Name}
	for _, r := range s.Results {
		if r.Eval != nil {
			all.Suites = append(all.Suites, junitOf(r.Stage, r.Eval))
		}
	}
	stages := junitSuite{Name: "stages"}
	for _, l := range s.Stages {
		tc := junitCase{Class: s.Name, Name: l.Stage, Out: l.State}
		if l.State == "failed" {
			stages.Failures++
			tc.Failure = &junitMessage{s.Err}
		}
		stages.Cases = append(stages.Cases, tc)
	}
	stages.Tests = len(stages.Cases)
	all.Suites = append(all.Suites, stages)
	out, err := xml.MarshalIndent(all, "", " ")
	return append([]byte(xml.Header), append(out, '\n')...), err
}
