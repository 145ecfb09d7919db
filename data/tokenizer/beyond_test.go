package tokenizer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats"
)

type sizedFolder struct {
	formats.Reader
	dir string
}

func (f sizedFolder) Path() string   { return f.dir }
func (f sizedFolder) Format() string { return "hf" }

// TestBeyond: a large tokenizer counts, and a usual one is the program's own.
func TestBeyond(t *testing.T) {
	for size, want := range map[int64]int64{2 << 20: 0, 12 << 20: 40 << 20} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "tokenizer.json"), size); err != nil {
			t.Fatal(err)
		}
		if got := Beyond(sizedFolder{dir: dir}); got != want {
			t.Errorf("%d bytes of tokenizer.json: %d, want %d", size, got, want)
		}
	}
}
