package autograd_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// mixed is a region with two inputs and three results, one of which is an
// input: x+z, norm(x)·wᵀ, z.
func mixed(w *autograd.Param) func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor {
	return func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor {
		n := t.Norm(in[0], autograd.NormSpec{Eps: 1e-3})
		y := t.Linear(n, w, nil)
		t.Done(n)
		return []*autograd.Tensor{t.Add(in[0], in[1], 1, 1), y, in[1]}
	}
}

// A region with several inputs and results, in the middle of a pass, has the
// same bits with and without keeping its inside.
func TestCheckpoint(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	xv, zv, wv, dy := single(normal(r, 20)), single(normal(r, 20)), normal(r, 25), single(normal(r, 20))
	run := func(keep bool) [][]float32 {
		w := newParam(t, dev, "w", 5, 5, wv)
		tape := &autograd.Tape{Dev: dev, Record: true}
		defer tape.Free()
		x0, z0 := tape.Input(xv, 4, 5), tape.Input(zv, 4, 5)
		x, z := tape.Scale(x0, 2), tape.Scale(z0, 3)
		in, f := []*autograd.Tensor{x, z}, mixed(w)
		var out []*autograd.Tensor
		if keep {
			out = f(tape, in)
		} else {
			out = tape.Checkpoint(in, f)
		}
		tape.Done(x)
		y := tape.Add(tape.Add(out[0], out[1], 1, 0.5), tape.Add(out[2], out[0], 1, 1), 1, 1)
		v, err := tape.Values(y)
		if err != nil {
			t.Fatal(err)
		}
		tape.SetGrad(y, dy)
		if err := tape.Backward(); err != nil {
			t.Fatal(err)
		}
		gx, err1 := tape.GradOf(x0)
		gz, err2 := tape.GradOf(z0)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return [][]float32{v, gx, gz, download(t, dev, w.Grad)}
	}
	kept, again := run(true), run(false)
	for i := range kept {
		if !slices.Equal(kept[i], again[i]) {
			t.Errorf("array %d: %v, with the inside kept %v", i, again[i], kept[i])
		}
	}
	leaks(t, dev)
}

// What nobody trains has no gradient and keeps nothing.
func TestFrozen(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := newParam(t, dev, "w", 5, 5, normal(r, 25))
	w.Grad = nil
	tape := &autograd.Tape{Dev: dev, Record: true}
	x := tape.Upload(single(normal(r, 20)), 4, 5)
	n := tape.Norm(x, autograd.NormSpec{Eps: 1e-3})
	tape.Done(x)
	y := tape.Linear(n, w, nil)
	tape.Done(n)
	if y.NeedsGrad() || n.Data != nil || x.Data != nil {
		t.Errorf("needs %v, norm kept %v, input kept %v", y.NeedsGrad(), n.Data != nil, x.Data != nil)
	}
	tape.Done(y)
	if now := dev.Info().Mem.Now[kernels.Activations]; now != 0 {
		t.Errorf("%d bytes of activations left without Free", now)
	}
	tape.SetGrad(y, make([]float32, 20))
	if err := tape.Backward(); err != nil {
		t.Error(err)
	}
}

// An error sticks: what follows does nothing, and Backward says why.
func TestStickyError(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := newParam(t, dev, "w", 5, 5, normal(r, 25))
	tape := &autograd.Tape{Dev: dev, Record: true}
	x := tape.Input(single(normal(r, 20)), 4, 5)
	first := errors.New("first")
	tape.Fail(first)
	tape.Fail(errors.New("second"))
	y := tape.Linear(tape.Norm(x, autograd.NormSpec{Eps: 1e-3}), w, nil)
	y = tape.Add(tape.Act(autograd.ActSpec{}, y, y), tape.Scale(y, 3), 1, 1)
	y = tape.Attention(y, y, y, autograd.AttnSpec{H: 1, K: 1, Dk: 5, Seq: tape.Upload([]int32{0, 4}, 2)})
	y = tape.Rope(y, tape.New(4, 2, 2), autograd.RopeSpec{D: 5, Rot: 4})
	y = tape.Checkpoint([]*autograd.Tensor{y, y}, mixed(w))[1]
	routed := tape.Route(y, kernels.RouteArgs{K: 2})
	y = tape.Combine(tape.ExpertLinear(tape.Rows(y, routed.Token), routed, newParam(t, dev, "experts", 25, 5, normal(r, 125)), nil), routed.Place, routed.Weight)
	tape.LogProb(y, autograd.HeadSpec{W: w}, tape.Upload(make([]int32, 4), 4), tape.Upload(make([]float32, 4), 4))
	if y.Rows() != 4 || y.Cols() != 5 {
		t.Errorf("shape %v", y.Shape)
	}
	if _, err := tape.Values(y); err != first {
		t.Errorf("Values: %v", err)
	}
	if err := tape.Backward(); err != first {
		t.Errorf("Backward: %v", err)
	}
	tape.Free()
	tape.Free()
	leaks(t, dev)
}

// Programmer errors panic with what was wrong.
func TestPanics(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := newParam(t, dev, "some.weight", 6, 5, normal(r, 30))
	for want, f := range map[string]func(t *autograd.Tape, x *autograd.Tensor){
		"linear some.weight": func(t *autograd.Tape, x *autograd.Tensor) { t.Linear(t.New(2, 4), w, nil) },
		"shapes":             func(t *autograd.Tape, x *autograd.Tensor) { t.Add(x, t.New(2, 4), 1, 1) },
		"after Done": func(t *autograd.Tape, x *autograd.Tensor) {
			y := t.Scale(x, 2)
			t.Done(y)
			t.Scale(y, 2)
		},
		"another reader": func(t *autograd.Tape, x *autograd.Tensor) {
			y := t.Scale(x, 2)
			t.Act(autograd.ActSpec{}, y, nil)
			t.Rope(y, t.New(2, 2, 2), autograd.RopeSpec{D: 5, Rot: 4})
		},
		"Tape.Key": func(t *autograd.Tape, x *autograd.Tensor) {
			t.Linear(x, w, nil, &autograd.LowRank{A: &autograd.Param{Mat: kernels.Mat{Rows: 1, Cols: 5}}, B: &autograd.Param{Mat: kernels.Mat{Rows: 6, Cols: 1}}, Scale: 1, Dropout: 0.5})
		},
		"bytes for shape": func(t *autograd.Tape, x *autograd.Tensor) { t.Upload([]int32{1}, 2) },
	} {
		func() {
			tape := &autograd.Tape{Dev: dev, Record: true}
			defer tape.Free()
			defer func() {
				if s, _ := recover().(string); !strings.Contains(s, want) {
					t.Errorf("panic %q, want one about %q", s, want)
				}
			}()
			f(tape, tape.Input(make([]float32, 10), 2, 5))
		}()
	}
}

// LogProb's results and gradients, with coefficients that come later, too.
func TestLogProb(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	const n, c, v = 6, 7, 11
	target := []int32{3, -1, 10, 0, 3, 5}
	coef := []float64{0.5, 1, 0.25, 0, 2, -1}
	r := rand.New(rand.NewPCG(1, 1))
	in := [][]float64{normal(r, n*c), normal(r, v*c), normal(r, v)}
	minus := make([]float64, n)
	for i := range coef {
		minus[i] = -coef[i]
	}
	for _, softCap := range []float32{0, 3} {
		logp := func(in [][]float64) []float64 {
			return logProbs(in[0], in[1], in[2], target, n, c, v, 0.75, float64(softCap))
		}
		want := central(&gradCase{forward: logp}, in, minus)
		for _, later := range []bool{false, true} {
			head := autograd.HeadSpec{W: newParam(t, dev, "w", v, c, in[1]), Bias: newParam(t, dev, "bias", 1, v, in[2]), Scale: 0.75, SoftCap: softCap}
			tape := &autograd.Tape{Dev: dev, Record: true}
			x := tape.Input(single(in[0]), n, c)
			tg, cf := tape.Upload(target, n), tape.Upload(single(coef), n)
			var out autograd.LogProbs
			if later {
				out = tape.LogProb(x, head, tg, nil)
				tape.LogProb(x, head, tg, cf)
			} else {
				out = tape.LogProb(x, head, tg, cf)
			}
			got, err := tape.Values(out.LogP)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "log p", got, logp(in), tolerance)
			if err := tape.Backward(); err != nil {
				t.Fatal(err)
			}
			gx, err := tape.GradOf(x)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "gradient of h", gx, want[0], tolerance)
			compare(t, "gradient of w", download(t, dev, head.W.Grad), want[1], tolerance)
			compare(t, "gradient of bias", download(t, dev, head.Bias.Grad), want[2], tolerance)
			tape.Free()
		}
	}
	leaks(t, dev)
}

// Passes with a Spare make what they made without, and a pass of the same shapes takes
// no memory of the device; of what only an earlier pass asked for nothing is kept.
func TestSpare(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := newParam(t, dev, "w", 5, 5, normal(r, 25))
	before := kernels.Total(dev.Info().Mem.Now)
	pass := func(tape *autograd.Tape, x []float32) []float32 {
		defer tape.Free()
		in := tape.Upload(x, len(x)/5, 5)
		out := mixed(w)(tape, []*autograd.Tensor{in, tape.Scale(in, 2)})
		v, err := tape.Values(tape.Act(autograd.ActSpec{Kind: kernels.SiLU}, out[0], tape.Rope(out[1], tape.Upload(make([]float32, len(x)/5*4), len(x)/5, 2, 2), autograd.RopeSpec{D: 5, Rot: 4})))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	spare := &autograd.Spare{Dev: dev}
	var held []int64
	for _, rows := range []int{3, 3, 1, 1, 3} {
		x := single(normal(r, rows*5))
		want := pass(&autograd.Tape{Dev: dev}, x)
		if got := pass(&autograd.Tape{Dev: dev, Spare: spare}, x); !slices.Equal(got, want) {
			t.Fatalf("%d rows: %v, without a Spare %v", rows, got, want)
		}
		held = append(held, kernels.Total(dev.Info().Mem.Now)-before)
	}
	if held[0] == 0 || held[1] != held[0] || held[2] >= held[0] || held[3] != held[2] || held[4] != held[0] {
		t.Errorf("bytes held behind passes of 3, 3, 1, 1 and 3 rows: %d", held)
	}
	x, kept := single(normal(r, 15)), kernels.Total(dev.Info().Mem.Now)
	want := pass(&autograd.Tape{Dev: dev, Record: true}, x)
	if got := pass(&autograd.Tape{Dev: dev, Record: true, Spare: spare}, x); !slices.Equal(got, want) || kernels.Total(dev.Info().Mem.Now) != kept {
		t.Errorf("a pass that records made %v of a Spare, without %v, and left it %d bytes more", got, want, kernels.Total(dev.Info().Mem.Now)-kept)
	}
	spare.Close()
	if left := kernels.Total(dev.Info().Mem.Now) - before; left != 0 {
		t.Errorf("%d bytes are left behind Close", left)
	}
}
