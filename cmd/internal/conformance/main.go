// Command conformance runs the golden tests and writes the tables of docs/support.md
// from what their subtests say. A test that fails ends it, and nothing is written.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
)

// column is one thing that is checked of every row of a table.
type column struct {
	title string
	// tests are package and name of the subtests that check it: patterns of
	// path.Match in which ROW stands for what is checked.
	tests []string
}

// outcome is what go test says of one test: that it passed, and where its log says so
// the reason why nothing was compared.
type outcome struct {
	passed bool
	reason string
}

// reason is a line of a test's log that says why nothing was compared.
var reason = regexp.MustCompile(`^\s+\w+\.go:\d+: ((?:refused|differs|not measured): .*)\n$`)

// read collects the outcomes of the tests of a package from the events of go test -json.
func read(r io.Reader, pkg string, into map[string]outcome) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("go test %s: %w: %.200s", pkg, err, lines.Text())
		}
		name := pkg + " " + e.Test
		o := into[name]
		switch m := reason.FindStringSubmatch(e.Output); {
		case e.Action == "pass":
			o.passed = true
		case m != nil && o.reason == "":
			o.reason = m[1]
		case e.Action == "output" && strings.HasPrefix(strings.TrimSpace(e.Output), "--- FAIL"):
			fmt.Fprint(os.Stderr, e.Output)
		}
		into[name] = o
	}
	return lines.Err()
}

// run runs the tests that the columns name, one package after another.
func run(columns []column) (map[string]outcome, error) {
	tests := map[string][]string{} // names of top-level tests by package
	var pkgs []string
	for _, c := range columns {
		for _, t := range c.tests {
			pkg, name, _ := strings.Cut(t, " ")
			name, _, _ = strings.Cut(name, "/")
			if tests[pkg] == nil {
				pkgs = append(pkgs, pkg)
			}
			if !slices.Contains(tests[pkg], name) {
				tests[pkg] = append(tests[pkg], name)
			}
		}
	}
	out := map[string]outcome{}
	for _, pkg := range pkgs {
		cmd := exec.Command("go", "test", "-json", "-count=1", "-timeout=30m", "-run", "^("+strings.Join(tests[pkg], "|")+")$", "./"+pkg)
		cmd.Stderr = os.Stderr
		events, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			err = errors.Join(read(events, pkg, out), cmd.Wait())
		}
		if err != nil {
			return nil, fmt.Errorf("the tests of %s: %w", pkg, err)
		}
	}
	return out, named(columns, out)
}

// named reports a pattern that is no test's name any more: its column would say that
// nothing is measured.
func named(columns []column, outcomes map[string]outcome) error {
	for _, c := range columns {
		for _, pattern := range c.tests {
			is := func(name string) bool {
				ok, _ := path.Match(strings.ReplaceAll(pattern, "ROW", "*"), name)
				return ok
			}
			if !slices.ContainsFunc(slices.Collect(maps.Keys(outcomes)), is) {
				return fmt.Errorf("column %s: no test is called %s", c.title, pattern)
			}
		}
	}
	return nil
}

// cell is what the tests of a column say of a row: ✓, or why nothing was compared.
func (c *column) cell(row string, outcomes map[string]outcome) string {
	said := ""
	for _, pattern := range c.tests {
		pattern = strings.ReplaceAll(pattern, "ROW", row)
		for _, name := range slices.Sorted(maps.Keys(outcomes)) {
			o := outcomes[name]
			switch ok, _ := path.Match(pattern, name); {
			case ok && o.reason != "":
				said = o.reason
			case ok && o.passed:
				return "✓"
			}
		}
		// A test may end before its parts, with the reason.
		for parent := path.Dir(pattern); said == "" && parent != "."; parent = path.Dir(parent) {
			said = outcomes[parent].reason
		}
	}
	if said == "" {
		return "not measured"
	}
	return said
}

// table is a table of Markdown; the reasons in its cells are notes below it.
type table struct {
	text  strings.Builder
	notes []string
}

func (t *table) row(cells ...string) {
	for _, c := range cells {
		t.text.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
	}
	t.text.WriteString("|\n")
}

func (t *table) head(cells ...string) {
	t.row(cells...)
	t.text.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
}

// note is a cell with its reason among the notes.
func (t *table) note(cell string) string {
	what, why, ok := strings.Cut(cell, ": ")
	if !ok {
		return cell
	}
	i := slices.Index(t.notes, why)
	if i < 0 {
		i = len(t.notes)
		t.notes = append(t.notes, why)
	}
	return fmt.Sprintf("%s (%d)", what, i+1)
}

func (t *table) String() string {
	var b strings.Builder
	b.WriteString(t.text.String())
	for i, n := range t.notes {
		fmt.Fprintf(&b, "\n%d. %s", i+1, n)
	}
	if len(t.notes) > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: conformance SHARED docs/support.md, in the folder of the module")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// write makes the document; shared is the folder with the reference data.
func write(shared, document string) error {
	outcomes, err := run(slices.Concat(ofArchs, ofClasses, ofBlocks, ofFolders, ofFamilies()))
	if err != nil {
		return err
	}
	archs, err := archTable(shared, outcomes)
	if err != nil {
		return err
	}
	interop, err := os.ReadFile("docs/interop.md")
	if err != nil {
		return err
	}
	return atomic.WriteFile(document, []byte(fmt.Sprintf(text, archs, blockTable(string(interop), outcomes), folderTable(string(interop), outcomes), familyTable(string(interop), outcomes))))
}
