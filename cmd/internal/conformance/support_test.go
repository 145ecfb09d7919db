package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestSupport: docs/support.md has the rows that a run would write today.
func TestSupport(t *testing.T) {
	b, err := os.ReadFile("../../../docs/support.md")
	if err != nil {
		t.Fatal(err)
	}
	first := map[string][]string{} // the first column of each table, by its title
	var cases, inItalics []string
	title, rule := "", false
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, " | ")
		switch name := strings.TrimPrefix(cells[0], "| "); {
		case !strings.HasPrefix(line, "|"):
			title, rule = "", false
		case title == "":
			title = name
		case !rule:
			rule = true // |---|---|
		default:
			first[title] = append(first[title], name)
			if title == "architecture" && strings.HasPrefix(cells[1], "*") {
				inItalics = append(inItalics, name+": "+strings.ReplaceAll(cells[1], "*", ""))
			} else if title == "architecture" {
				cases = append(cases, strings.Split(cells[1], ", ")...)
			}
		}
	}
	var types []string
	for _, k := range blockTypes() {
		types = append(types, k.String())
	}
	var names []string
	for _, f := range families {
		names = append(names, f.name)
	}
	for title, want := range map[string][]string{"family": names, "architecture": arch.Names(), "type": types, "layout": formats.Layouts()} {
		if !slices.Equal(first[title], want) {
			t.Errorf("docs/support.md lists of %s %v, there are %v: make conformance", title, first[title], want)
		}
	}
	if want := classRows(t); !slices.Equal(inItalics, want) {
		t.Errorf("docs/support.md lists the classes %q, there are %q: make conformance", inItalics, want)
	}
	want := slices.Sorted(slices.Values(archtest.Cases))
	if slices.Sort(cases); !slices.Equal(slices.DeleteFunc(cases, func(s string) bool { return s == "" }), want) {
		t.Errorf("docs/support.md lists the cases %v, there are %v: make conformance", cases, want)
	}
}

// classRows are the rows of architectures without a case, which have classes in its place.
func classRows(t *testing.T) (rows []string) {
	classes, err := classesByArch("../../..")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, name := range archtest.Cases {
		src, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
		if err != nil {
			t.Fatal(err)
		}
		has[src.Architecture()] = true
		src.Close()
	}
	for _, a := range arch.Names() {
		if !has[a] && len(classes[a]) > 0 {
			rows = append(rows, a+": "+strings.Join(classes[a], ", "))
		}
	}
	return rows
}

// A cell says why nothing was compared, with or without a subtest to say it.
func TestCell(t *testing.T) {
	events := `{"Action":"output","Test":"TestX/a","Output":"    x_test.go:7: refused: no key\n"}
{"Action":"pass","Test":"TestX/a"}
{"Action":"pass","Test":"TestX/b/in"}
{"Action":"output","Test":"TestX/c/in","Output":"        x_test.go:9: not measured: no reference\n"}
{"Action":"pass","Test":"TestX/c/in"}
{"Action":"skip","Test":"TestX/d/in"}
`
	outcomes := map[string]outcome{}
	if err := read(strings.NewReader(events), "p", outcomes); err != nil {
		t.Fatal(err)
	}
	c := column{"in", []string{"p TestX/ROW/in"}}
	for row, want := range map[string]string{"a": "refused: no key", "b": "✓", "c": "not measured: no reference", "d": "not measured", "e": "not measured"} {
		if got := c.cell(row, outcomes); got != want {
			t.Errorf("%s: %q, want %q", row, got, want)
		}
	}
	if err := named([]column{c}, outcomes); err != nil {
		t.Error(err)
	}
	if err := named([]column{{"out", []string{"p TestX/ROW/out"}}}, outcomes); err == nil {
		t.Error("a column without tests is made")
	}
}
