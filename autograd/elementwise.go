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

// Columns returns the n columns of x [N, C] from column first on, as [N, n].
func (t *Tape) Columns(x *Tensor, first, n int) *Tensor { return t.HeadColumns(x, x.Cols(), first, n) }

// HeadColumns returns elements first … first+n of every head of x [N, h·d], as
// [N, h·n]: a part of what one product made for several readers.
func (t *Tape) HeadColumns(x *Tensor, d, first, n int) *Tensor {
	if first < 0 || n < 1 || first+n > d || x.Cols()%d != 0 {
		panic(fmt.Sprintf("autograd: elements %d+%d of heads of %d: x %v", first, n, d, x.Shape))
	}
	rows := x.Len() / d // heads of all tokens
	y := t.alloc(kernels.Activations, x.kind, x.Rows(), x.Cols()/d*n)
	x.slope = x.kind
	y.needs, y.slope = x.needs, x.kind
	if xv := t.value(x); t.err == nil {
		t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: rows, Cols: n, X: xv, XOff: first, XStride: d, YStride: n})
	}
	t.record(y, nil, func() {
		dx := t.grad(x)
		if t.err != nil {
			return
		}
		if !dx.Add { // the other elements' readers add theirs
			t.Dev.Fill(dx.Buffer, 0)
		}
		t.Dev.Copy2D(kernels.Into(dx.Buffer), &kernels.Copy2DArgs{Rows: rows, Cols: n, X: y.grad.buf, XStride: n, YOff: first, YStride: d})
	})
	return y
}

// JoinHeads returns [N, h·(d+n)]: each of the h heads of d elements of x [N, h·d],
// followed by the token's row of tail [N, n], which all of its heads share. Both
// have one type.
func (t *Tape) JoinHeads(x, tail *Tensor, d int) *Tensor {
	if x.Rows() != tail.Rows() || x.Cols()%d != 0 || x.kind != tail.kind {
		panic(fmt.Sprintf("autograd: heads of %d of x %v and tail %v", d, x.Shape, tail.Shape))
	}
	rows, h, n := x.Rows(), x.Cols()/d, tail.Cols()
	wide := d + n
	y := t.alloc(kernels.Activations, x.kind, rows, h*wide)
	x.slope = x.kind // that of tail is a sum over heads
	y.needs, y.slope = x.needs || tail.needs, x.kind
	if xv, tv := t.value(x), t.value(tail); t.err == nil {
		t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: rows * h, Cols: d, X: xv, XStride: d, YStride: wide})
		for i := range h {
			t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: rows, Cols: n, X: tv, XStride: n, YOff: i*wide + d, YStride: h * wide})
		}
	}
	t.record(y, nil, func() {
		dx, dt := t.grad(x), t.grad(tail)
		if t.err != nil {
			return
		}
		if !dx.Skip() {
			t.Dev.Copy2D(dx, &kernels.Copy2DArgs{Rows: rows * h, Cols: d, X: y.grad.buf, XStride: wide, YStride: d})
		}
		for i := range h {
			if dt.Skip() {
				break
			}
			t.Dev.Copy2D(dt, &kernels.Copy2DArgs{Rows: rows, Cols: n, X: y.grad.buf, XOff: i*wide + d, XStride: h * wide, YStride: n})
			dt.Add = true
		}
	})
	return y
}

// FakeQuant returns x as it comes back from being stored as q, on a grid that was
// chosen beforehand where grid is not zero: what quantized activations are before a
// product. Its gradient is passed straight through (Bengio et al. 2013,
// arXiv:1308.3432).
func (t *Tape) FakeQuant(x *Tensor, q dtype.Type, grid kernels.Grid) *Tensor {
	y := t.alloc(kernels.Activations, x.kind, x.Rows(), x.Cols())
	y.needs, y.slope = x.needs, x.slope
	if xv := t.value(x); t.err == nil {
		t.Dev.FakeQuant(kernels.To(y.Data), &kernels.FakeQuantArgs{Type: q, Rows: x.Rows(), Cols: x.Cols(), X: xv, Grid: grid})
	}
	t.record(y, nil, func() { t.pass(x, y, 1) })
	return y
}
