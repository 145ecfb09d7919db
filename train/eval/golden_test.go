package eval

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// The windows of Transformers' strided recipe (perplexity.json).
func TestWindowsGolden(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train/eval"), "perplexity.json"))
	if err != nil {
		t.Fatal(err)
	}
	type recipe struct {
		Window, Stride int
		Windows        []struct {
			Begin, End int
			Scored     int `json:"really_scored"`
		}
	}
	var g struct {
		Tokens []int32
		A      recipe `json:"strided_512"`
		B      recipe `json:"strided_256"`
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	for _, r := range []recipe{g.A, g.B} {
		w, err := Windows(g.Tokens, r.Window, r.Stride)
		if err != nil || len(w) != len(r.Windows) {
			t.Fatalf("window %d stride %d: %d windows, %v; want %d", r.Window, r.Stride, len(w), err, len(r.Windows))
		}
		for i, s := range w {
			if s.Targets() != r.Windows[i].Scored || len(s.IDs) != r.Windows[i].End-r.Windows[i].Begin {
				t.Errorf("window %d: %d targets of %d tokens, want %+v", i, s.Targets(), len(s.IDs), r.Windows[i])
			}
		}
	}
}
