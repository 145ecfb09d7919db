package reference_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/reference"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

func TestCheck(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	found, err := reference.Check(dev)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 23 {
		t.Errorf("%d arrays compared, want 23", len(found))
	}
	for _, f := range found {
		t.Logf("%-18s %-5s %.2g", f.Layer, f.Array, f.Diff)
		if !f.OK() {
			t.Errorf("%s: %s is off by %.2g, relative; allowed %.0g", f.Layer, f.Array, f.Diff, reference.Tolerance)
		}
	}
	if n := dev.Info().Mem.Now; kernels.Total(n) != 0 {
		t.Errorf("memory left: %v", n)
	}
}

// broken is a backend whose norm is wrong: Check must notice.
type broken struct{ kernels.Backend }

func (b broken) NormBackward(dx, dw, db kernels.Dst, dy, stats kernels.Buffer, a *kernels.NormArgs) {
	wrong := *a
	wrong.Eps = 0.1
	b.Backend.NormBackward(dx, dw, db, dy, stats, &wrong)
	b.Backend.Add(dx, &kernels.AddArgs{N: a.N * a.C, A: dy, Alpha: 1})
}

func TestCheckNotices(t *testing.T) {
	found, err := reference.Check(broken{cpu.New(cpu.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.OK() == (f.Layer == "rmsnorm" && f.Array == "x") {
			t.Errorf("%s %s: off by %.2g", f.Layer, f.Array, f.Diff)
		}
	}
}

// tapeCase runs one layer on the tape and in the reference.
type tapeCase struct {
	layer *reference.Layer
	in    map[string]reference.Matrix
	param map[string]bool
	run   func(t *autograd.Tape, x map[string]*autograd.Tensor, p map[string]*autograd.Param) *autograd.Tensor
}

func random(r *rand.Rand, rows, cols int) reference.Matrix {
	m := reference.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = float64(float32(r.NormFloat64()))
	}
	return m
}

func single(m reference.Matrix) []float32 {
	v := make([]float32, len(m.Data))
	for i, x := range m.Data {
		v[i] = float32(x)
	}
	return v
}

type matrices = map[string]reference.Matrix
type tensors = map[string]*autograd.Tensor
type params = map[string]*autograd.Param

func tapeCases(r *rand.Rand) []tapeCase {
	lin := matrices{"x": random(r, 9, 14), "w": random(r, 10, 14), "bias": random(r, 1, 10), "a": random(r, 3, 14), "b": random(r, 10, 3)}
	norm := matrices{"x": random(r, 9, 14), "w": random(r, 1, 14)}
	act := matrices{"gate": random(r, 9, 14), "up": random(r, 9, 14)}
	att := matrices{"q": random(r, 11, 24), "k": random(r, 11, 12), "v": random(r, 11, 12)}
	rot := matrices{"x": random(r, 9, 16)}
	angle := random(r, 9, 4)
	var cs []float32
	for _, a := range angle.Data {
		s, c := math.Sincos(a)
		cs = append(cs, float32(c), float32(s))
	}
	return []tapeCase{
		{reference.Linear(lin["x"], lin["w"], lin["bias"], lin["a"], lin["b"], 0.5), lin,
			map[string]bool{"w": true, "bias": true, "a": true, "b": true},
			func(t *autograd.Tape, x tensors, p params) *autograd.Tensor {
				return t.Linear(x["x"], p["w"], p["bias"], &autograd.LowRank{A: p["a"], B: p["b"], Scale: 0.5})
			}},
		{reference.RMSNorm(norm["x"], norm["w"], float64(float32(1e-5))), norm, map[string]bool{"w": true},
			func(t *autograd.Tape, x tensors, p params) *autograd.Tensor {
				return t.Norm(x["x"], autograd.NormSpec{W: p["w"], Eps: 1e-5})
			}},
		{reference.SwiGLU(act["gate"], act["up"]), act, nil,
			func(t *autograd.Tape, x tensors, p params) *autograd.Tensor {
				return t.Act(autograd.ActSpec{}, x["gate"], x["up"])
			}},
		{reference.Rope(rot["x"], angle, 8, false), rot, nil,
			func(t *autograd.Tape, x tensors, p params) *autograd.Tensor {
				return t.Rope(t.Add(x["x"], x["x"], 0.5, 0.5), t.Upload(cs, 9, 4, 2), autograd.RopeSpec{D: 8, Rot: 8})
			}},
		{reference.Attention(att["q"], att["k"], att["v"], reference.AttentionShape{H: 4, K: 2, D: 6, Starts: []int{0, 6}, Scale: 0.3, Window: 4}), att, nil,
			func(t *autograd.Tape, x tensors, p params) *autograd.Tensor {
				return t.Attention(x["q"], x["k"], x["v"], autograd.AttnSpec{H: 4, K: 2, Dk: 6, Seq: t.Upload([]int32{0, 6, 11}, 3), Scale: 0.3, Window: 4})
			}},
	}
}

// The tape's gradients against an implementation that shares no line with it.
func TestTape(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	dev := cpu.New(cpu.Options{})
	for _, c := range tapeCases(r) {
		t.Run(c.layer.Name, func(t *testing.T) { c.check(t, dev, r) })
	}
}

func (c *tapeCase) check(t *testing.T, dev kernels.Backend, r *rand.Rand) {
	tape := &autograd.Tape{Dev: dev, Record: true}
	defer tape.Free()
	x, p := tensors{}, params{}
	for name, m := range c.in {
		if !c.param[name] {
			x[name] = tape.Input(single(m), m.Rows, m.Cols)
			continue
		}
		w, g := tape.Upload(single(m), m.Rows, m.Cols), tape.Upload(make([]float32, len(m.Data)), m.Rows, m.Cols)
		p[name] = &autograd.Param{Name: name, Mat: kernels.Mat{Buffer: w.Data, Rows: m.Rows, Cols: m.Cols, Of: m.Rows}, Grad: g.Data}
	}
	y := c.run(tape, x, p)
	dy := random(r, y.Rows(), y.Cols())
	want, err := c.layer.Run(dy)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tape.Values(y)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "y", got, want.Y)
	tape.SetGrad(y, single(dy))
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	for name, m := range want.Grads {
		if c.param[name] {
			g := &autograd.Tensor{Shape: []int{m.Rows, m.Cols}, Data: p[name].Grad}
			got, err = tape.Values(g)
		} else {
			got, err = tape.GradOf(x[name])
		}
		if err != nil {
			t.Fatal(err)
		}
		within(t, "gradient of "+name, got, m)
	}
}

func within(t *testing.T, what string, got []float32, want reference.Matrix) {
	t.Helper()
	worst, largest := 0.0, 0.0
	for i, w := range want.Data {
		d := math.Abs(float64(got[i]) - w)
		if math.IsNaN(d) {
			d = math.Inf(1)
		}
		worst, largest = max(worst, d), max(largest, math.Abs(w))
	}
	if worst > reference.Tolerance*largest {
		t.Errorf("%s: off by %.2g, relative", what, worst/largest)
	}
}
