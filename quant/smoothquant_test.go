package quant

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestSmoothScales: with half the strength the peaks of inputs and weights meet
// in the middle; what is zero stays.
func TestSmoothScales(t *testing.T) {
	x, w := []float32{8, 0.5, 0, 3}, []float32{0.5, 2, 1, 0}
	for c, s := range smoothScales(x, w) {
		if x[c] == 0 || w[c] == 0 {
			if s != 1 {
				t.Errorf("column %d: scale %g", c, s)
			}
		} else if a, b := x[c]/s, w[c]*s; math.Abs(float64(a/b)-1) > 1e-6 {
			t.Errorf("column %d: peaks %g of inputs and %g of weights", c, a, b)
		}
	}
}

// TestSmoothQuant: on a model with outliers among its activations, 8 bits for
// both lose less after smoothing, and less again when GPTQ rounds what was
// smoothed.
func TestSmoothQuant(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	cal, ids := text(5, 16, 128, src.Spec.V), text(99, 1, 100, src.Spec.V)[0]
	want := logits(t, src, ids)
	off := map[string]float64{}
	for _, job := range []FolderJob{{Method: "rtn"}, {Method: "smoothquant"}, {Method: "gptq", Search: "smoothquant"}} {
		job.Path, job.Scheme = filepath.Join(t.TempDir(), "out"), "W8A8"
		folder(t, src, cal, job)
		with, _ := runActs(t, openSource(t, job.Path), ids, formats.ActInt8)
		off[job.Search+" "+job.Method] = distance(with, want) / dot(want, want)
	}
	t.Log(off)
	if !(off[" smoothquant"] < 0.8*off[" rtn"] && off["smoothquant gptq"] < off[" smoothquant"]) {
		t.Errorf("relative errors of the logits: %v", off)
	}
}
