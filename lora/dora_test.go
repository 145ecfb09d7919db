package lora

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMagnitudes: (m/‖V‖)·x·Vᵀ + bias and the gradient of m hold for any
// magnitude, below 0 and 0, too; a row of zeros gives the bias alone.
func TestMagnitudes(t *testing.T) {
	const in, out, r, n = 8, 8, 2, 3
	rng := rand.New(rand.NewPCG(5, 6))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	src, err := archtest.Llama(archtest.Dims{C: in, V: 9, Layers: 1, H: 2, K: 1, D: out / 2, F: 7}, func(n int) []float32 {
		v := random(n)
		if n == out*in {
			clear(v[:in]) // row 0
		}
		return v
	})
	must(t, err)
	dev := cpu.New(cpu.Options{})
	m, err := model.Load(dev, src, model.Options{})
	must(t, err)
	defer m.Close()
	ad, err := Apply(m, Config{R: r, TargetModules: Targets{Names: []string{"q_proj"}}, UseDoRA: true}, 1)
	must(t, err)
	defer ad.Close()
	l := &ad.Layers[0]

	a, b, mag, bias, x, dy := random(r*in), random(out*r), random(out), random(out), random(n*in), random(n*out)
	clear(b[:r])
	mag[1], mag[2] = -1.5, 0
	grad, err := dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), out)
	must(t, err)
	l.dora.m.Grad = grad
	l.Linear.Bias, err = newParam(dev, "bias", 1, out, bias)
	must(t, err)
	dev.Fill(grad, 0)
	dev.Upload(l.LoRA.A.Buffer, kernels.Bytes(a))
	dev.Upload(l.LoRA.B.Buffer, kernels.Bytes(b))
	dev.Upload(l.dora.m.Buffer, kernels.Bytes(mag))
	must(t, ad.Refresh())
	w := make([]float32, out*in)
	wb, err := dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), out*in)
	must(t, err)
	dev.Dequantize(wb, l.Linear.W.Mat)
	must(t, dev.Download(kernels.Bytes(w), wb))

	tape := &autograd.Tape{Dev: dev, Record: true}
	defer tape.Free()
	y := l.Linear.Forward(tape, tape.Input(x, n, in))
	got, err := tape.Values(y)
	must(t, err)
	tape.SetGrad(y, dy)
	must(t, tape.Backward())
	must(t, ad.FinishGradients())
	dm := make([]float32, out)
	must(t, dev.Download(kernels.Bytes(dm), grad))

	for o := range out {
		v, sq := make([]float64, in), 0.0
		for i := range v {
			v[i] = float64(w[o*in+i])
			for k := range r {
				v[i] += float64(l.LoRA.Scale) * float64(b[o*r+k]) * float64(a[k*in+i])
			}
			sq += v[i] * v[i]
		}
		want := 0.0
		for row := range n {
			along := 0.0
			for i, v := range v {
				along += v * float64(x[row*in+i]) / max(math.Sqrt(sq), 1e-30)
			}
			want += along * float64(dy[row*out+o])
			if y := float64(mag[o])*along + float64(bias[o]); !(math.Abs(float64(got[row*out+o])-y) < 1e-5) {
				t.Errorf("output %d of row %d is %v, want %v (magnitude %v)", o, row, got[row*out+o], y, mag[o])
			}
		}
		if !(math.Abs(float64(dm[o])-want) < 2e-5) {
			t.Errorf("gradient of magnitude %d (%v) is %v, want %v", o, mag[o], dm[o], want)
		}
	}
}

// TestMergedMagnitudes: what is merged is what a forward pass computes with.
func TestMergedMagnitudes(t *testing.T) {
	w, delta := []float32{0, 0, 3, 0, 6, 0}, []float32{0, 0, 0, 4, 0, 8}
	magnitude([]float32{2, -1, 0}, 2, w, delta)
	for i, want := range []float32{0, 0, -0.6, -0.8, 0, 0} {
		if got := w[i] + delta[i]; math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("element %d is %v, want %v", i, got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMagnitudesDropout: what was trained with dropout elsewhere is the same adapter to who uses
// it, and is not gone on with.
func TestMagnitudesDropout(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, root)
	_, m := loadModel(t, filepath.Join(root, "base-llama"))
	dropped := edited(t, filepath.Join(root, "dora/adapter"), setConfig("lora_dropout", 0.05))
	ad, err := Load(m, dropped)
	if err != nil {
		t.Fatal(err)
	}
	want := arrays(t, filepath.Join(root, "dora/logits.safetensors"))
	if off := logitsOff(t, m, rows, width, want["final"]); !(off <= 5e-4) {
		t.Errorf("logits within %g", off)
	}
	ad.Close()
	_, merged := mergedModel(t, filepath.Join(root, "base-llama"), dropped, "merged")
	if off := logitsOff(t, merged, rows, width, want["merged"]); !(off <= 5e-4) {
		t.Errorf("merged: logits within %g", off)
	}
	if _, err := Start(m, Config{InitFrom: dropped}, 1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "dropout is 0.05") {
		t.Errorf("error %v", err)
	}
}
