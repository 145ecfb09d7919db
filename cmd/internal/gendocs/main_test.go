package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tables in docs/ are those that the program would write today.
func TestTablesAreCurrent(t *testing.T) {
	n := 0
	for _, name := range []string{"recipe.md", "commands.md", "optimizers.md"} {
		raw, err := os.ReadFile(filepath.Join("../../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		n += len(region.FindAllString(string(raw), -1))
		if text, err := fill(string(raw)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if text != string(raw) {
			t.Errorf("docs/%s is not what the code says: run make generate", name)
		}
	}
	if n < 20 {
		t.Errorf("only %d tables found: the marks are gone", n)
	}
}

func TestFill(t *testing.T) {
	got, err := fill("a\n<!-- keys eval.gate -->\nold\n<!-- end -->\nb\n")
	if err != nil || !strings.Contains(got, "| `max_increase` |") || strings.Contains(got, "old") || !strings.HasSuffix(got, "<!-- end -->\nb\n") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := fill("<!-- keys nothing -->\n<!-- end -->"); err == nil {
		t.Error("an unknown section is no error")
	}
	if _, err := fill("<!-- flags nothing -->\n<!-- end -->"); err == nil {
		t.Error("an unknown command is no error")
	}
}
