package quant

import (
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func normal(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 2))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

var w4 = Scheme{Weight: dtype.Type{Kind: dtype.Int4}}.in(formats.GPTQ, 32, dtype.BF16)

// A Hessian with a negative direction is damped until it has none; one that no
// damping helps makes the layer fall back to rounding, with the reason.
func TestDamping(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	w := normal(1, 8*64)
	for _, c := range []struct {
		lowest float32 // eigenvalue of one pair of columns; the others have 1
		damp   float64
	}{{0.5, 0.01}, {-0.05, 0.1}, {-0.5, 1}, {-3, 0}} {
		h := &hessian{dev: dev, n: 64, rows: 64}
		m := make([]float32, 64*64)
		for i := range 64 {
			m[i*65] = 1
		}
		m[1], m[64] = 1-c.lowest, 1-c.lowest
		h.buf = upload(t, dev, m)
		f, err := factor(h, orderStatic, 32, 0.01)
		if err != nil {
			t.Fatal(err)
		}
		if (f.u == nil) != (c.damp == 0) || f.u != nil && math.Abs(f.damp-c.damp) > 1e-9 {
			t.Errorf("lowest eigenvalue %g: damped by %g, want %g", c.lowest, f.damp, c.damp)
		}
		f.free()
	}
	h := hessianOf(t, dev, layerArray{[]int64{100, 64}, normal(2, 6400)})
	r, err := fallback(layerOf(t, h, w, 8, w4), "a reason")
	if err != nil || r.report.Fallback != "a reason" || r.report.Method != "rtn" || !(r.report.Error > 0) {
		t.Errorf("%+v, %v", r, err)
	}
	near := block.New(w4, 8, 64)
	if err := block.Encode(near, w, nil); err != nil || string(near.Data) != string(r.raw.Data) {
		t.Errorf("the fallback is not the nearest: %v", err)
	}
}

// Inputs that never occur get weight 0, whatever is done with the rest.
func TestDeadColumns(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	x := normal(3, 90*64)
	for i := range x {
		if c := i % 64; c == 7 || c == 40 {
			x[i] = 0
		}
	}
	w := normal(4, 16*64)
	h := hessianOf(t, dev, layerArray{[]int64{90, 64}, x})
	for _, order := range []string{orderNone, orderStatic, orderGroup, orderAware} {
		typ := w4
		if order == orderGroup {
			typ.Flags |= dtype.Perm
		}
		f, err := factor(h, order, 32, 0.01)
		if err != nil {
			t.Fatal(err)
		}
		r, err := feedBack(f, layerOf(t, h, w, 16, typ), gptqSpec{order: order})
		f.free()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.raw.Check(); err != nil {
			t.Fatal(err)
		}
		d := make([]float32, len(w))
		block.DecodeAll(d, r.raw)
		for i, v := range d {
			if c := i % 64; (c == 7 || c == 40) && v != 0 {
				t.Fatalf("%s: row %d, column %d is %g", order, i/64, c, v)
			}
		}
		near, err := fallback(layerOf(t, h, w, 16, w4), "")
		if err != nil || r.report.Dead != 2 || r.report.Error >= near.report.Error {
			t.Errorf("%s: %+v against %+v, %v", order, r.report, near.report, err)
		}
	}
}

// A group of positive weights keeps its largest: GPTQModel gives it half the
// scale it needs.
func TestPositiveGroup(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	w := normal(5, 4*32)
	for i := range w {
		w[i] = float32(math.Abs(float64(w[i])))
	}
	h := hessianOf(t, dev, layerArray{[]int64{90, 32}, normal(6, 90*32)})
	f, err := factor(h, orderStatic, 32, 0.01)
	if err != nil {
		t.Fatal(err)
	}
	defer f.free()
	r, err := feedBack(f, layerOf(t, h, w, 4, w4), gptqSpec{order: orderStatic})
	if err != nil {
		t.Fatal(err)
	}
	d := make([]float32, len(w))
	block.DecodeAll(d, r.raw)
	for row := range 4 {
		var most, got float32
		for c := range 32 {
			most, got = max(most, w[row*32+c]), max(got, d[row*32+c])
		}
		if got < 0.9*most {
			t.Errorf("row %d: largest %g became %g", row, most, got)
		}
	}
}

func TestWeightsThatDoNotFit(t *testing.T) {
	src := tiny(t, small)
	path := filepath.Join(t.TempDir(), "out")
	w := normal(8, 64)
	w[3] = 1e6
	dev := cpu.New(cpu.Options{})
	of := func(w []float32) *layer {
		return &layer{dev: dev, path: "x", w: upload(t, dev, w), rows: 1, cols: 64, typ: w4}
	}
	if err := of(w).check(); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("too large for f16 scales: %v", err)
	}
	w[3] = float32(math.NaN())
	if err := of(w).check(); err == nil || !strings.Contains(err.Error(), "row 0, column 3") {
		t.Errorf("NaN: %v", err)
	}
	h := &hessian{dev: cpu.New(cpu.Options{}), n: 2, rows: 1}
	h.buf = upload(t, h.dev, []float32{float32(math.NaN()), 0, 0, 1})
	_, err := factor(h, orderNone, 2, 0.01)
	kind(t, "NaN inputs", err, fail.Numeric)
	_, err = Folder(t.Context(), cpu.New(cpu.Options{}), src, []FolderJob{{Path: path, Method: "gptq", Group: 32}}, [][]int32{{1, 2, 99999}}, nil)
	kind(t, "a token that the model does not have", err, fail.Input)
}

func kind(t *testing.T, what string, err error, want fail.Kind) {
	t.Helper()
	var e *fail.Error
	if !errors.As(err, &e) || e.Kind != want {
		t.Errorf("%s: %v, want kind %d", what, err, want)
	}
}

// The order "aware" (GPTQModel's act_group_aware) needs no index either: groups
// stay where they are.
func TestOrders(t *testing.T) {
	diag := []float32{1, 5, 3, 3, 9, 0, 7, 7}
	for _, c := range []struct {
		order string
		want  []int
	}{
		{orderNone, nil},
		{orderStatic, []int{4, 6, 7, 1, 2, 3, 0, 5}},
		{orderGroup, []int{4, 6, 7, 1, 2, 3, 0, 5}},
		{orderAware, []int{4, 6, 7, 5, 1, 2, 3, 0}},
	} {
		if got := columnOrder(c.order, diag, 4); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.order, got, c.want)
		}
	}
}
