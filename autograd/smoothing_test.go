package autograd_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestLabelSmoothing compares losses and gradients of Transformers' label smoother: the
// logits are hidden states under a head of ones on the diagonal.
func TestLabelSmoothing(t *testing.T) {
	var g struct {
		Logits [][][]float32
		Labels [][]int32
		Cases  []struct {
			Epsilon float32
			Shift   bool `json:"shift_labels"`
			Items   *int `json:"num_items_in_batch"`
			Loss    float64
			Grad    struct {
				L2      float64
				Stride  int
				Samples []float64
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train"), "label_smoothing.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &g); err != nil || len(g.Cases) != 12 {
		t.Fatalf("%d cases, %v", len(g.Cases), err)
	}
	rows, v := len(g.Logits)*len(g.Logits[0]), len(g.Logits[0][0])
	var logits []float32
	for _, b := range g.Logits {
		for _, row := range b {
			logits = append(logits, row...)
		}
	}
	dev := cpu.New(cpu.Options{})
	ones := make([]float32, v*v)
	for i := range v {
		ones[i*v+i] = 1
	}
	w, err := dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), v*v)
	if err != nil {
		t.Fatal(err)
	}
	dev.Upload(w, kernels.Bytes(ones))
	head := autograd.HeadSpec{W: &autograd.Param{Name: "head", Mat: kernels.Mat{Buffer: w, Rows: v, Cols: v, Of: v}}}
	for _, c := range g.Cases {
		var target []int32
		n := 0
		for _, labels := range g.Labels {
			for i := range labels {
				id := int32(-1)
				if !c.Shift {
					id = max(labels[i], -1)
				} else if i+1 < len(labels) {
					id = max(labels[i+1], -1)
				}
				if target = append(target, id); id >= 0 {
					n++
				}
			}
		}
		if c.Items != nil {
			n = *c.Items
		}
		coef := make([]float32, rows)
		for i := range coef {
			coef[i] = 1 / float32(n)
		}
		tape := &autograd.Tape{Dev: dev, Record: true}
		head.Smooth = c.Epsilon
		h := tape.Input(logits, rows, v)
		out := tape.LogProb(h, head, tape.Upload(target, rows), tape.Upload(coef, rows))
		logp, err := tape.Values(out.LogP)
		if err != nil {
			t.Fatal(err)
		}
		mean := make([]float32, rows)
		if out.Mean != nil {
			if mean, err = tape.Values(out.Mean); err != nil {
				t.Fatal(err)
			}
		}
		loss := 0.0
		for i := range logp {
			loss -= (float64(1-c.Epsilon)*float64(logp[i]) + float64(c.Epsilon)*float64(mean[i])) / float64(n)
		}
		if d := math.Abs(loss - c.Loss); !(d <= 1e-5) {
			t.Errorf("ε %v, shifted %v: loss %v, want %v", c.Epsilon, c.Shift, loss, c.Loss)
		}
		grad, err := tape.GradOf(h)
		if err != nil {
			t.Fatal(err)
		}
		l2 := 0.0
		for _, x := range grad {
			l2 += float64(x) * float64(x)
		}
		if d := math.Abs(math.Sqrt(l2) - c.Grad.L2); !(d <= 1e-6) {
			t.Errorf("ε %v, shifted %v: gradient of norm %v, want %v", c.Epsilon, c.Shift, math.Sqrt(l2), c.Grad.L2)
		}
		for i, want := range c.Grad.Samples {
			if d := math.Abs(float64(grad[i*c.Grad.Stride]) - want); !(d <= 1e-6) {
				t.Errorf("ε %v, shifted %v: gradient[%d] %v, want %v", c.Epsilon, c.Shift, i*c.Grad.Stride, grad[i*c.Grad.Stride], want)
			}
		}
		tape.Free()
	}
}
