package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Mul returns x·s: x [N, C], s [N, C], [N] or [C] as by says. The result is cheap.
func (t *Tape) Mul(x, s *Tensor, by kernels.MulBy) *Tensor {
	args := func() *kernels.MulArgs {
		return &kernels.MulArgs{N: x.Rows(), C: x.Cols(), By: by, X: t.value(x), S: t.value(s)}
	}
	if want := (&kernels.MulArgs{N: x.Rows(), C: x.Cols(), By: by}).Factors(); s.Len() != want {
		panic(fmt.Sprintf("autograd: mul: factors %v of %v, want %d", s.Shape, x.Shape, want))
	}
	held := dtype.Wider(x.kind, s.kind)
	x.slope, s.slope = x.kind, s.kind
	y := t.alloc(kernels.Activations, held, x.Rows(), x.Cols())
	y.needs, y.slope = x.needs || s.needs, held
	run := func(dst kernels.Buffer) {
		if a := args(); t.err == nil {
			t.Dev.Mul(kernels.To(dst), a)
		}
	}
	run(y.Data)
	t.record(y, []*Tensor{x, s}, func() {
		a, dx := args(), t.grad(x)
		ds := t.grad(s)
		if t.err == nil {
			t.Dev.MulBackward(dx, ds, kernels.Dst{}, y.grad.buf, a)
		}
	})
	return t.Cheap(y, run, x, s)
}

// MulColumns returns x·w + bias, column by column: x [N, C], w and bias [1, C]
// f32, bias nil: none. The result is cheap.
func (t *Tape) MulColumns(x *Tensor, w, bias *Param) *Tensor {
	if w.Len() != x.Cols() {
		panic(fmt.Sprintf("autograd: mul %s: %d factors for %v", w.Name, w.Len(), x.Shape))
	}
	args := func() *kernels.MulArgs {
		return &kernels.MulArgs{N: x.Rows(), C: x.Cols(), By: kernels.ByCol, X: t.value(x), S: w.Buffer, Bias: bias.buffer()}
	}
	y := t.New(x.Rows(), x.Cols())
	y.needs = x.needs || w.trains() || bias.trains()
	run := func(dst kernels.Buffer) {
		if a := args(); t.err == nil {
			t.Dev.Mul(kernels.To(dst), a)
		}
	}
	run(y.Data)
	t.record(y, []*Tensor{x}, func() {
		a, dx := args(), t.grad(x)
		if t.err == nil {
			t.Dev.MulBackward(dx, w.dst(), bias.dst(), y.grad.buf, a)
		}
	})
	return t.Cheap(y, run, x)
}

// Columns returns the n columns of x [N, C] from column first on, as [N, n]: a
// part of what one product made for several readers.
func (t *Tape) Columns(x *Tensor, first, n int) *Tensor {
	rows, c := x.Rows(), x.Cols()
	if first < 0 || n < 1 || first+n > c {
		panic(fmt.Sprintf("autograd: columns %d+%d of %v", first, n, x.Shape))
	}
	y := t.alloc(kernels.Activations, x.kind, rows, n)
	x.slope = x.kind
	y.needs, y.slope = x.needs, x.kind
	if xv := t.value(x); t.err == nil {
		t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: rows, Cols: n, X: xv, XOff: first, XStride: c, YStride: n})
	}
	t.record(y, nil, func() {
		dx := t.grad(x)
		if t.err != nil {
			return
		}
		if !dx.Add { // the other columns' readers add theirs
			t.Dev.Fill(dx.Buffer, 0)
		}
		t.Dev.Copy2D(kernels.Into(dx.Buffer), &kernels.Copy2DArgs{Rows: rows, Cols: n, X: y.grad.buf, XStride: n, YOff: first, YStride: c})
	})
	return y
}

// FakeQuant returns x as it comes back from being stored as q: what quantized
// activations are before a product. Its gradient is passed straight through
// (Bengio et al. 2013, arXiv:1308.3432).
func (t *Tape) FakeQuant(x *Tensor, q dtype.Type) *Tensor {
	y := t.alloc(kernels.Activations, x.kind, x.Rows(), x.Cols())
	y.needs, y.slope = x.needs, x.slope
	if xv := t.value(x); t.err == nil {
		t.Dev.FakeQuant(kernels.To(y.Data), &kernels.FakeQuantArgs{Type: q, Rows: x.Rows(), Cols: x.Cols(), X: xv})
	}
	t.record(y, nil, func() { t.pass(x, y, 1) })
	return y
}
