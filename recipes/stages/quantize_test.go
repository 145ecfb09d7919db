package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes/report"
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
	got, err := calibrationFile(t.Context(), path, src, 3, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || len(got[0]) != src.Spec.MaxPos {
		t.Errorf("%d samples of %d tokens, want 3 of %d", len(got), len(got[0]), src.Spec.MaxPos)
	}
}

// TestQuantizeView: the worst layers of a folder, and what fell back, are said.
func TestQuantizeView(t *testing.T) {
	left := &QuantizeResult{Report: &quant.Report{Method: "gptq", Scheme: "W4A16", Group: 64, Samples: 8, Tokens: 1024, Kept: []string{"lm_head"}}, Bits: 4.2}
	for i := range 12 {
		left.Layers = append(left.Layers, quant.LayerReport{Layer: "model.layers." + string(rune('a'+i)) + ".mlp.up_proj", Method: "gptq", Relative: float64(i) / 100})
	}
	left.Layers[3].Fallback = "not positive definite"
	v := quantizeLayers("gptq", left)
	if len(v) != 1 || len(v[0].Values) != 12 || v[0].Values[11].Cells[0] != "0.110" || !strings.Contains(v[0].Line, "1 layers fell back") {
		t.Errorf("view %+v", v)
	}
	page, err := (&report.Summary{Sections: []report.Section{{Layers: v}}}).HTML()
	first, second := strings.Index(string(page), `<td class="r">0.110`), strings.Index(string(page), `<td class="r">0.100`)
	if err != nil || first < 0 || first > second {
		t.Errorf("the worst layer is not the first, error %v", err)
	}
}
