// Package report shows what a run left: on a screen, as Markdown, JSON, JUnit
// XML and one HTML page, and models of a run side by side. It reads plain data
// only, a Summary or the files of a run folder, and knows no kind of stage.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Summary is what a run ends with. It marshals to summary.json.
type Summary struct {
	Name    string      `json:"name"`
	Dir     string      `json:"dir"`
	Hash    string      `json:"hash"` // over the addresses and outputs of all stages
	Seconds float64     `json:"seconds"`
	Verdict string      `json:"verdict"` // done, incomplete, gate failed, cannot tell, error
	Err     string      `json:"error,omitempty"`
	Tables  []Table     `json:"tables"`
	Stages  []StageLine `json:"stages"`
	Facts   []string    `json:"facts,omitempty"` // one line each: rows, fallbacks, overlap
	Next    []Command   `json:"next,omitempty"`
	Grids   []Grid      `json:"grids,omitempty"` // tables of stages' own

	Sections []Section `json:"-"` // of the stages that have something to show
	Details  Details   `json:"-"`
}

// Details are what only report.html shows of a run.
type Details struct {
	Hint                     string // of Err
	Version, Device, Kernels string
	Seed                     uint64
	Licence                  string // of the base
	Recipe                   string // resolved, as YAML
	Defaults                 []schema.Default
	Inputs                   []Input
	Outputs                  []Output
}

// Input is a resolved input of a finished stage.
type Input struct{ Stage, Name, Ref, Why, Hash string }

// Output is a file of a finished stage; Name begins with the stage's id.
type Output struct {
	Name  string
	Bytes int64
	Hash  string
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
	For   string `json:"for"`
	Line  string `json:"line"`
	Asked bool   `json:"-"` // the recipe names the program
}

// shownCommands is how many a screen shows.
const shownCommands = 3

// Shell quotes a word where a shell would take it apart.
func Shell(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\"'`$&|;<>()*?[]{}!#~\\") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Print writes the summary for a person.
func (s *Summary) Print(w io.Writer) {
	head := fmt.Sprintf("%s in %s · %s", s.Verdict, Duration(s.Seconds), filepath.Join(s.Dir, "report.html"))
	fmt.Fprintf(w, "%s    hash %s\n", head, s.Hash[:min(12, len(s.Hash))])
	for _, t := range s.Tables {
		if len(t.Rows) == 0 {
			continue
		}
		if t.Eval != "" {
			fmt.Fprintf(w, "\n%s\n", t.Eval)
		}
		head, right, cells := t.grid()
		Aligned(w, append([][]string{head}, cells...), right)
	}
	for _, g := range s.Grids {
		fmt.Fprintf(w, "\n%s\n", g.Title)
		g.Print(w)
	}
	for _, f := range s.Facts {
		fmt.Fprintln(w, f)
	}
	for i, c := range s.Next {
		if i == shownCommands {
			fmt.Fprintf(w, "      more in %s\n", filepath.Join(s.Dir, "summary.md"))
			break
		}
		fmt.Fprintf(w, "next: %s\n", c.Line)
	}
}

// Print writes the table for a person, without its title.
func (g *Grid) Print(w io.Writer) {
	Aligned(w, append([][]string{g.Head}, g.Rows...), g.right())
}

// Markdown is the summary for summary.md and for CI.
func (s *Summary) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n", mdText(s.Name), s.Verdict)
	fmt.Fprintf(&b, "%s in `%s`, hash `%s` (same inputs give the same hash).\n", Duration(s.Seconds), s.Dir, s.Hash[:min(12, len(s.Hash))])
	if s.Err != "" {
		fmt.Fprintf(&b, "\n**%s**\n", mdText(s.Err))
	}
	for _, t := range s.Tables {
		if len(t.Rows) > 0 {
			head, right, cells := t.grid()
			mdTable(&b, t.Eval, head, right, cells)
		}
	}
	for _, g := range s.Grids {
		mdTable(&b, g.Title, g.Head, g.right(), g.Rows)
	}
	for _, f := range s.Facts {
		fmt.Fprintf(&b, "\n- %s", mdText(f))
	}
	b.WriteString("\n\n| stage | kind | state | time | peak | artifact |\n|---|---|---|---:|---:|---:|\n")
	for _, l := range s.Stages {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", mdText(l.Stage), l.Kind, l.State, nonzeroTime(l.Seconds), Memory(l.Peak), Size(l.Bytes))
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

// mdTable writes a table below its title, if it has one.
func mdTable(b *strings.Builder, title string, head []string, right []bool, cells [][]string) {
	if title != "" {
		fmt.Fprintf(b, "\n## %s\n", mdText(title))
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
		b.WriteString("|")
		for _, c := range row {
			b.WriteString(" " + mdText(c) + " |")
		}
		b.WriteByte('\n')
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
		return writeJUnit(path, add)
	case ".json":
		if add, err = json.Marshal(s); err != nil {
			return err
		}
		add = append(add, '\n')
	default:
		add = []byte(s.Markdown() + "\n")
	}
	return atomic.Append(path, add)
}

// SummaryTo refuses a path that a summary cannot be written to. Text and JSON
// grow at their end; JUnit is one document and replaces only another.
func SummaryTo(path string) error {
	if strings.ToLower(filepath.Ext(path)) != ".xml" {
		return atomic.Ordinary(path)
	}
	return atomic.Own(path, "a JUnit report", func() bool {
		raw, err := os.ReadFile(path)
		return err == nil && bytes.Contains(raw[:min(len(raw), 4096)], []byte("<testsuite"))
	})
}

// writeJUnit replaces a JUnit report.
func writeJUnit(path string, raw []byte) error {
	if err := SummaryTo(path); err != nil {
		return err
	}
	return atomic.WriteFile(path, raw)
}
