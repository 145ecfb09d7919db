package data

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOrigins: files belong to the entry that lists them, by their whole path and by the
// end that an ingest keeps; one path with two splits is two entries.
func TestOrigins(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"a/x.jsonl", "b/x.jsonl", "c/train-0.jsonl", "c/test-0.jsonl"} {
		path := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{\"text\": \"x\"}\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	in := func(s string) string { return filepath.Join(dir, s) }
	o := Options{Datasets: []Source{{Path: in("a")}, {Path: in("b/*.jsonl")}, {Path: in("c"), Split: "train"}}, ValDatasets: []Source{{Path: in("c"), Split: "test"}, {Path: in("a")}}}
	g, err := NewOrigins(&o, []string{"a", "b/*.jsonl", "c", "c", "a"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(g.Names, "; "); got != "a; b/*.jsonl; c (train); c (test); a #2" {
		t.Errorf("names %s", got)
	}
	for file, want := range map[string]int{in("a/x.jsonl"): 0, "a/x.jsonl": 0, "b/x.jsonl": 1, "train-0.jsonl": 2, "test-0.jsonl": 3, "y.jsonl": -1, "rain-0.jsonl": -1} {
		for range 2 {
			if got := g.Of(file); got != want {
				t.Errorf("%s is of %d, want %d", file, got, want)
			}
		}
	}

	// A whole path is that file, though another one ends in it; what several end in is none.
	t.Chdir(dir)
	for _, f := range []string{"old/t.jsonl", "t.jsonl", "new/t.jsonl"} {
		_ = os.MkdirAll(filepath.Dir(f), 0o777)
		if err := os.WriteFile(f, []byte("{\"text\": \"x\"}\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		files []string
		file  string
		want  int
	}{
		{[]string{"old/t.jsonl", "t.jsonl"}, "t.jsonl", 1},
		{[]string{"old/t.jsonl", "t.jsonl"}, "old/t.jsonl", 0},
		{[]string{"t.jsonl", "old/t.jsonl"}, "t.jsonl", 0},
		{[]string{in("old/t.jsonl"), in("t.jsonl")}, in("t.jsonl"), 1},
		{[]string{"old/t.jsonl", "new/t.jsonl"}, "t.jsonl", -1},
		{[]string{"old/t.jsonl", "old/t.jsonl"}, "t.jsonl", 0},
	} {
		o := Options{Datasets: []Source{{Path: c.files[0]}, {Path: c.files[1]}}}
		g, err := NewOrigins(&o, c.files)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Of(c.file); got != c.want {
			t.Errorf("%s among %v is of %d, want %d", c.file, c.files, got, c.want)
		}
	}
}
