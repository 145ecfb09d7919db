package recipes

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBeganDamaged: a damaged record of beginnings loses them and nothing else.
func TestBeganDamaged(t *testing.T) {
	for _, text := range []string{"null", "", "[1]", "{", `{"a":"b"}`} {
		x := &run{dir: folder(t.TempDir())}
		if err := os.MkdirAll(filepath.Dir(x.dir.state("began")), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(x.dir.state("began"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := x.began("train", 5); got != 5 {
			t.Errorf("%q: %g", text, got)
		}
		if got := x.began("train", 7); got != 5 {
			t.Errorf("%q: began again at %g", text, got)
		}
	}
}
