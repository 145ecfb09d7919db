package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
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
	got, err := calibrationFile(t.Context(), data.Source{Path: path}, "", src, 3, 2048)
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

// The options as they are written, which addresses depend on: what is not asked
// for leaves them as they were before there was such a key.
func TestQuantizeWritten(t *testing.T) {
	o := &Quantize{Method: "gptq"}
	o.Fill(func(key, hint, format string, args ...any) { t.Errorf("%s: "+format, append([]any{key}, args...)...) })
	raw, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(string(raw)) {
		if key, _, ok := strings.Cut(line, ":"); ok && line[0] != ' ' {
			keys = append(keys, key)
		}
	}
	want := "model method scheme format for group_size actorder damp_percent calibration samples max_length ignore double_quant allow_requantize"
	if got := strings.Join(keys, " "); got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	if m := o.Job("out").Options.(*quant.GPTQOptions); m.ActOrder != "static" || m.DampPercent != 0.01 {
		t.Errorf("%+v", m)
	}
}

// Every method finds its options among the stage's keys, and another method's
// are refused where they say something.
func TestMethodOptions(t *testing.T) {
	for _, m := range quant.Methods() {
		bad := map[string]bool{}
		o := &Quantize{Method: MethodName(m.Name), GPTQOptions: quant.GPTQOptions{ActOrder: "none"}}
		o.Fill(func(key, _, _ string, _ ...any) { bad[key] = true })
		_, own := o.Job("out").Options.(*quant.GPTQOptions)
		if (o.Job("out").Options == nil) != (m.Options == nil) || bad["actorder"] == own || len(bad) > 1 {
			t.Errorf("%s: options %T, refused %v", m.Name, o.Job("out").Options, bad)
		}
	}
}
