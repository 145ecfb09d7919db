package train

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// arrays reads a safetensors file of float32.
func arrays(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := map[string][]float32{}
	list := r.Tensors()
	for i := range list {
		if list[i].Type != dtype.Of(dtype.F32) {
			continue
		}
		b, err := r.Read(&list[i])
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, len(b)/4)
		block.GetF32(v, b)
		out[list[i].Name] = v
	}
	return out
}

func ptr[T any](v T) *T { return &v }

// device is a CPU backend for tests.
func device(t testing.TB) *cpu.CPU {
	t.Helper()
	return cpu.New(cpu.Options{})
}

// place makes a parameter with the values v.
func place(t *testing.T, dev kernels.Backend, name string, v []float32) *autograd.Param {
	t.Helper()
	b, err := dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), len(v))
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Run(func() error { dev.Upload(b, kernels.Bytes(v)); return nil }); err != nil {
		t.Fatal(err)
	}
	return &autograd.Param{Name: name, Mat: kernels.Mat{Buffer: b, Rows: 1, Cols: len(v), Of: 1}}
}

func values(t *testing.T, dev kernels.Backend, b kernels.Buffer) []float32 {
	t.Helper()
	v := make([]float32, b.Len())
	if err := dev.Run(func() error { return dev.Download(kernels.Bytes(v), b) }); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestOptimizers makes ten updates on the reference's gradients and compares
// the parameters after the first and the last with torch's.
func TestOptimizers(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/optim")
	in := arrays(t, filepath.Join(dir, "inputs.safetensors"))
	want := arrays(t, filepath.Join(dir, "params.safetensors"))
	for name, c := range map[string]Config{
		"adamw":                 {Optimizer: "adamw", AdamEpsilon: ptr(1e-8), WeightDecay: 0.05},
		"adamw_nodecay_eps1e-6": {Optimizer: "adamw", AdamEpsilon: ptr(1e-6)},
		"sgd":                   {Optimizer: "sgd", WeightDecay: 0.01},
		"sgd_momentum":          {Optimizer: "sgd", Momentum: 0.9},
	} {
		c.LearningRate = ptr(0.01)
		c.MaxGradNorm = ptr(0.0)
		c, err := c.Resolve(1)
		if err != nil {
			t.Fatal(err)
		}
		dev := device(t)
		var ps []param
		for _, k := range []string{"big", "mat", "tall", "vec"} {
			p := param{Param: place(t, dev, k, in["p."+k]), rate: 1, decay: c.WeightDecay}
			if len(ps) > 0 {
				p.off = ps[len(ps)-1].off + ps[len(ps)-1].Len()
			}
			ps = append(ps, p)
		}
		o, err := newOptimizer(dev, c, ps)
		if err != nil {
			t.Fatal(err)
		}
		check := func(step string) {
			for _, p := range ps {
				ref := want[name+"."+step+"."+p.Name]
				if len(ref) != p.Len() {
					t.Fatalf("no reference %s.%s.%s", name, step, p.Name)
				}
				for i, v := range values(t, dev, p.Buffer) {
					if d := math.Abs(float64(v - ref[i])); d > 1e-6*math.Abs(float64(ref[i]))+1e-7 {
						t.Fatalf("%s %s %s[%d] = %g, want %g", name, step, p.Name, i, v, ref[i])
					}
				}
			}
		}
		for s := range 10 {
			for _, p := range ps {
				g := in["g"+string(rune('0'+s))+"."+p.Name]
				if len(g) != p.Len() {
					t.Fatalf("no gradient of %s in step %d", p.Name, s)
				}
				dev.Run(func() error { dev.Upload(p.Grad, kernels.Bytes(g)); return nil })
			}
			if _, err := o.norm(); err != nil {
				t.Fatal(err)
			}
			if err := o.step(s+1, 0.01); err != nil {
				t.Fatal(err)
			}
			if s == 0 {
				check("step1")
			}
		}
		check("step10")
		o.free()
	}
}
