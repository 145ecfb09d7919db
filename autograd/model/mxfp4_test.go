package model

import (
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMXFP4: gpt-oss as released has the values of the same model in floats, keeps its
// experts packed in memory, and computes the same, also gradients of adapters.
func TestMXFP4(t *testing.T) {
	dir := t.TempDir()
	packed, plain := filepath.Join(dir, "packed"), filepath.Join(dir, "plain")
	if err := archtest.MXFP4(testdir.Shared(t, "golden/arch/gpt-oss"), packed, plain); err != nil {
		t.Fatal(err)
	}
	ids := []int32{1, 17, 200, 3, 99, 42, 42, 7, 250, 5, 6, 7, 8, 9, 10, 11}
	var logits [2][]float32
	var grads [2]map[string][]float32
	var sources [2]*arch.Source
	for i, path := range []string{packed, plain} {
		src, err := arch.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		m, err := Load(cpu.New(cpu.Options{}), src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		sources[i], logits[i] = src, lastLogits(t, m, ids)
		grads[i] = adapterGrads(t, m, ids)
	}
	stacks := 0
	for _, x := range sources[0].Tensors() {
		if x.Experts > 0 && !x.Bias {
			stacks++
			if x.Type != dtype.Of(dtype.MXFP4) {
				t.Errorf("%s is %v in memory", x.Name, x.Type)
			}
		}
		near(t, x.Name, decodedOf(t, sources[0], x), decodedOf(t, sources[1], sources[1].Named(x.Name)), 0)
	}
	if stacks != 4 {
		t.Errorf("%d stacks of experts, want 4", stacks)
	}
	relative(t, "logits", logits[0], logits[1], 1e-5)
	if len(grads[0]) != 28 { // A and B of 4 maps of attention, a router and 2 stacks, in 2 layers
		t.Errorf("gradients of %d matrices, want 28", len(grads[0]))
	}
	for name, g := range grads[0] {
		if magnitude(g) == 0 {
			t.Errorf("%s has no gradient", name)
		}
		relative(t, name, g, grads[1][name], 1e-4)
	}
}

// adapterGrads are the gradients of adapters on all linear maps and experts.
func adapterGrads(t *testing.T, m *Model, ids []int32) map[string][]float32 {
	t.Helper()
	const r = 2
	fill := random(5)
	var params []*autograd.Param
	param := func(name string, rows, cols int) *autograd.Param {
		w, err := m.Dev.Load(kernels.Weights, dtype.Of(dtype.F32), rows, cols, kernels.Bytes(fill(rows*cols)), kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		p := &autograd.Param{Name: name, Mat: w}
		trainable(t, m.Dev, p)
		params = append(params, p)
		return p
	}
	for l := range m.Linears() {
		l.Adapters = []*nn.LoRA{{A: param(l.Path+l.W.Name+".A", max(l.Experts, 1)*r, l.W.Cols), B: param(l.Path+l.W.Name+".B", l.W.Rows, r), Scale: 2}}
	}
	tape := &autograd.Tape{Dev: m.Dev, Record: true}
	defer tape.Free()
	target, coef := targets([][]int32{ids})
	h := m.Hidden(tape, Pack(ids))
	m.LogProb(tape, h, target, coef)
	tape.Done(h)
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	return m.gradients(t, params)
}

func decodedOf(t *testing.T, src *arch.Source, x *arch.Tensor) []float32 {
	t.Helper()
	m, _, err := src.Read(x)
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, m.Rows*m.Cols)
	block.DecodeAll(v, m)
	return v
}
