package quant

import (
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// runActs are the logits of a model with and without the rounding of its
// activations.
func runActs(t *testing.T, src *arch.Source, ids []int32, act dtype.Type) (with, without []float32) {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	run := func() []float32 {
		tape := &autograd.Tape{Dev: dev}
		defer tape.Free()
		v, err := tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids))))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	with = run()
	for l := range m.Linears() {
		if l.Act != act {
			t.Errorf("%s rounds its inputs to %v", l.Path, l.Act)
		}
		l.Act = dtype.Type{}
	}
	return with, run()
}

// TestActivations: a W8A8 folder of llm-compressor gives the logits that its own
// consumer (Transformers and compressed-tensors) computed with rounded
// activations, which differ from those of its weights alone; and a folder that is
// written here rounds them, too.
func TestActivations(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant/ct-w8a8-int8")
	want := readLayers(t, filepath.Join(dir, "expected.safetensors"))
	var ids []int32
	for _, v := range want["ids"].values {
		ids = append(ids, int32(v))
	}
	with, without := runActs(t, openSource(t, dir), ids, formats.ActInt8)
	golden, plain := want["logits_consumer"].values, want["logits_f32_dequant"].values
	off := func(a, b []float32) float64 { return distance(a, b) / dot(b, b) }
	t.Logf("rounded: %.2e; not rounded: %.2e; the references differ by %.2e", off(with, golden), off(without, plain), off(golden, plain))
	if off(without, plain) > 1e-8 || off(with, golden) > off(golden, plain)/20 {
		t.Errorf("relative errors %g and %g", off(with, golden), off(without, plain))
	}
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	cal := text(5, 8, 64, src.Spec.V)
	whole := logits(t, src, ids)
	for _, c := range []struct {
		method, scheme string
		act            dtype.Type
	}{{"rtn", "W8A8", formats.ActInt8}, {"gptq", "W8A8", formats.ActInt8}, {"rtn", "FP8_DYNAMIC", formats.ActFP8}} {
		path := filepath.Join(t.TempDir(), "out")
		rep := folder(t, src, cal, FolderJob{Path: path, Method: c.method, Scheme: c.scheme})[0]
		with, without := runActs(t, openSource(t, path), ids, c.act)
		t.Logf("%s %s: %.2e, with rounded activations %.2e; %s", c.method, c.scheme, off(without, whole), off(with, whole), rep.Type)
		if !(off(without, whole) > 0 && off(without, whole) < off(with, whole) && off(with, whole) < 0.02) {
			t.Errorf("%s %s: relative errors %g and %g", c.method, c.scheme, off(without, whole), off(with, whole))
		}
	}
}
