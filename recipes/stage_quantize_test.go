package recipes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestCalibrationLength asks for samples longer than a small model's context,
// as the default of 2,048 tokens does.
func TestCalibrationLength(t *testing.T) {
	src, err := arch.Open(testdir.Shared(t, "golden/quant/orig"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	path := filepath.Join(t.TempDir(), "text.jsonl")
	row := `{"text": "` + strings.Repeat("a few words ", 100) + "\"}\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(row, 4)), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := CalibrationFile(t.Context(), path, src, 3, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || len(got[0]) != src.Spec.MaxPos {
		t.Errorf("%d samples of %d tokens, want 3 of %d", len(got), len(got[0]), src.Spec.MaxPos)
	}
}
