package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Embed returns the rows ids of the table w [V, C]: ids [N] int32, result [N, C].
func (t *Tape) Embed(w *Param, ids *Tensor) *Tensor {
	n := ids.Rows()
	y := t.New(n, w.Cols)
	y.needs = w.trains()
	if t.err != nil {
		return y
	}
	a := &kernels.GatherArgs{N: n, Table: w.Mat, Idx: ids.Data}
	t.Dev.Gather(kernels.To(y.Data), a)
	t.record(y, []*Tensor{ids}, func() { t.Dev.GatherBackward(w.dst(), kernels.Dst{}, y.grad.buf, a) })
	return y
}

// gather are the operands of y[m] = Σ_j weight[m,j]·x[idx[m,j]].
func (t *Tape) gather(x *Tensor, table kernels.Buffer, idx, weight *Tensor) *kernels.GatherArgs {
	a := &kernels.GatherArgs{N: idx.Rows(), K: idx.Cols(), Table: kernels.Mat{Buffer: table, Rows: x.Rows(), Cols: x.Cols(), Of: x.Rows()}, Idx: t.value(idx)}
	if weight != nil {
		a.Weight = t.value(weight)
	}
	return a
}

// Rows returns the rows idx [M] int32 of x [N, C] as [M, C], of x's type. A row
// may be taken more than once, or never. The result is cheap.
func (t *Tape) Rows(x, idx *Tensor) *Tensor { return t.Regroup(x, idx, x.Cols(), x.Cols()) }

// Regroup takes x, which is any number of rows, for pieces of n elements one after
// another, and returns the pieces idx [M] int32 in rows of cols elements:
// [M·n/cols, cols], of x's type. So the blocks of all rows can lie by block, or rows
// of heads become rows of one head. The result is cheap.
func (t *Tape) Regroup(x, idx *Tensor, n, cols int) *Tensor {
	if x.Len()%n != 0 || idx.Len()*n%cols != 0 {
		panic(fmt.Sprintf("autograd: regroup: %d pieces of %d of x %v in rows of %d", idx.Len(), n, x.Shape, cols))
	}
	y := t.alloc(kernels.Activations, x.kind, idx.Len()*n/cols, cols)
	y.needs = x.needs
	args := func(table kernels.Buffer) *kernels.GatherArgs {
		rows := x.Len() / n
		return &kernels.GatherArgs{N: idx.Len(), Table: kernels.Mat{Buffer: table, Rows: rows, Cols: n, Of: rows}, Idx: t.value(idx)}
	}
	run := func(dst kernels.Buffer) {
		if a := args(t.value(x)); t.err == nil {
			t.Dev.Gather(kernels.To(dst), a)
		}
	}
	run(y.Data)
	t.record(y, []*Tensor{idx}, func() {
		dx := t.grad(x)
		if a := args(nil); t.err == nil {
			t.Dev.GatherBackward(dx, kernels.Dst{}, y.grad.buf, a)
		}
	})
	return t.Cheap(y, run, x, idx)
}

// Combine returns y[m] = Σ_j weight[m,j]·x[idx[m,j]]: x [N, C], idx [M, K]
// int32, weight [M, K] or nil (1), result [M, C].
func (t *Tape) Combine(x, idx, weight *Tensor) *Tensor {
	saves, needs := []*Tensor{idx}, x.needs
	if weight != nil {
		sameShape("combine: idx and weight", idx, weight)
		saves, needs = append(saves, weight), needs || weight.needs
		if weight.needs {
			saves = append(saves, x)
		}
	}
	y := t.made(func(dst kernels.Buffer) {
		if a := t.gather(x, t.value(x), idx, weight); t.err == nil {
			t.Dev.Gather(kernels.To(dst), a)
		}
	}, append([]*Tensor{x}, saves...), dtype.F32, idx.Rows(), x.Cols())
	y.needs = needs
	t.record(y, saves, func() {
		dx, dw := t.grad(x), t.grad(weight)
		var table kernels.Buffer
		if !dw.Skip() {
			table = t.value(x)
		}
		if a := t.gather(x, table, idx, weight); t.err == nil {
			t.Dev.GatherBackward(dx, dw, y.grad.buf, a)
		}
	})
	return y
}

// Mix returns, for every token, m sums of the n parts of a row: x [N, n·C], w
// [N, m·n] f32, result [N, m·C], part j of which is Σ_i w[j·n+i]·(part i of x).
func (t *Tape) Mix(x, w *Tensor, n int) *Tensor {
	rows, c, m := x.Rows(), x.Cols()/n, w.Cols()/n
	if x.Cols() != n*c || w.Cols() != n*m || w.Rows() != rows {
		panic(fmt.Sprintf("autograd: mix: x %v of %d parts, weights %v", x.Shape, n, w.Shape))
	}
	list := make([]int32, 0, rows*m*n)
	for i := range rows * m {
		for j := range n {
			list = append(list, int32(i/m*n+j))
		}
	}
	idx := t.Upload(list, rows*m, n)
	args := func(table kernels.Buffer) *kernels.GatherArgs {
		return &kernels.GatherArgs{N: rows * m, K: n, Table: kernels.Mat{Buffer: table, Rows: rows * n, Cols: c, Of: rows * n}, Idx: t.value(idx), Weight: t.value(w)}
	}
	saves := []*Tensor{idx, w}
	if w.needs {
		saves = append(saves, x)
	}
	y := t.made(func(dst kernels.Buffer) {
		if a := args(t.value(x)); t.err == nil {
			t.Dev.Gather(kernels.To(dst), a)
		}
	}, append([]*Tensor{x}, saves[:2]...), dtype.F32, rows, m*c)
	y.needs = x.needs || w.needs
	t.record(y, saves, func() {
		dx, dw := t.grad(x), t.grad(w)
		var table kernels.Buffer
		if !dw.Skip() {
			table = t.value(x)
		}
		if a := args(table); t.err == nil {
			t.Dev.GatherBackward(dx, dw, y.grad.buf, a)
		}
	})
	t.Done(idx)
	return y
}

// Reshape returns a copy of x with other dimensions and the same elements in order.
func (t *Tape) Reshape(x *Tensor, shape ...int) *Tensor {
	y := t.made(func(dst kernels.Buffer) {
		if xv := t.value(x); t.err == nil {
			t.Dev.Add(kernels.To(dst), &kernels.AddArgs{N: x.Len(), A: xv, Alpha: 1})
		}
	}, []*Tensor{x}, x.kind, shape...)
	if y.Len() != x.Len() {
		panic(fmt.Sprintf("autograd: reshape %v as %v", x.Shape, shape))
	}
	y.needs, y.slope = x.needs, x.slope
	t.record(y, nil, func() { t.pass(x, y, 1) })
	return y
}

// Stack returns the rows of a [N, C], then those of b [M, C], in a's type.
func (t *Tape) Stack(a, b *Tensor) *Tensor {
	if a.Cols() != b.Cols() {
		panic(fmt.Sprintf("autograd: stack %v on %v", a.Shape, b.Shape))
	}
	c := a.Cols()
	y := t.alloc(kernels.Activations, a.kind, a.Rows()+b.Rows(), c)
	y.needs, y.slope = a.needs || b.needs, a.kind
	if av, bv := t.value(a), t.value(b); t.err == nil {
		t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: a.Rows(), Cols: c, X: av, XStride: c, YStride: c})
		t.Dev.Copy2D(kernels.To(y.Data), &kernels.Copy2DArgs{Rows: b.Rows(), Cols: c, X: bv, XStride: c, YOff: a.Len(), YStride: c})
	}
	t.record(y, nil, func() {
		da, db := t.grad(a), t.grad(b)
		if t.err != nil {
			return
		}
		if !da.Skip() {
			t.Dev.Copy2D(da, &kernels.Copy2DArgs{Rows: a.Rows(), Cols: c, X: y.grad.buf, XStride: c, YStride: c})
		}
		if !db.Skip() {
			t.Dev.Copy2D(db, &kernels.Copy2DArgs{Rows: b.Rows(), Cols: c, X: y.grad.buf, XOff: a.Len(), XStride: c, YStride: c})
		}
	})
	return y
}

// Sinkhorn returns doubly normalised matrices of x [N, s·s], transposed; see
// kernels.SinkhornArgs.
func (t *Tape) Sinkhorn(x *Tensor, s, iters int, eps float32) *Tensor {
	if x.Cols() != s*s {
		panic(fmt.Sprintf("autograd: sinkhorn: %v of matrices of %d", x.Shape, s))
	}
	args := func() *kernels.SinkhornArgs {
		return &kernels.SinkhornArgs{N: x.Rows(), S: s, Iters: iters, Eps: eps, X: t.value(x)}
	}
	y := t.New(x.Rows(), s*s)
	y.needs = x.needs
	if a := args(); t.err == nil {
		t.Dev.Sinkhorn(kernels.To(y.Data), a)
	}
	t.record(y, []*Tensor{x}, func() {
		dx, a := t.grad(x), args()
		if t.err == nil {
			t.Dev.SinkhornBackward(dx, y.grad.buf, a)
		}
	})
	return y
}

// NormSpec is what a norm needs beside its input.
type NormSpec struct {
	Kind    kernels.NormKind
	W, Bias *Param  // [C] f32, or [Heads, C]; nil: 1 and 0
	Heads   int     // > 1: row n is of head n mod Heads
	Width   int     // C where there is no W; 0: a row of x
	Offset  float32 // of the weights: W is used as Offset + W
	Eps     float32
}

// width is C, of which a row of x may hold several: heads with one norm.
func (s NormSpec) width(x *Tensor) int {
	c := x.Cols()
	switch {
	case s.W != nil:
		c = s.W.Len() / max(s.Heads, 1)
	case s.Width > 0:
		c = s.Width
	}
	if x.Cols()%c != 0 {
		panic(fmt.Sprintf("autograd: norm of %d elements: x %v", c, x.Shape))
	}
	return c
}

func (s NormSpec) args(n, c int, x kernels.Buffer) *kernels.NormArgs {
	return &kernels.NormArgs{Kind: s.Kind, N: n, C: c, Heads: s.Heads, X: x, W: s.W.buffer(), Bias: s.Bias.buffer(), Offset: s.Offset, Eps: s.Eps}
}

// Norm normalises the rows of x [N, C], or each of the h heads of C elements
// that a row [h·C] holds. The result is cheap.
func (t *Tape) Norm(x *Tensor, s NormSpec) *Tensor { return t.norm(x, s, t.between()) }

// NormWide is Norm as LinearWide is Linear.
func (t *Tape) NormWide(x *Tensor, s NormSpec) *Tensor { return t.norm(x, s, dtype.F32) }

func (t *Tape) norm(x *Tensor, s NormSpec, k dtype.Kind) *Tensor {
	c := s.width(x)
	n := x.Len() / c
	y, stats := t.alloc(kernels.Activations, k, x.Rows(), x.Cols()), t.New(n, s.Kind.StatsLen())
	y.needs = x.needs || s.W.trains() || s.Bias.trains()
	if xv := t.value(x); t.err == nil {
		t.Dev.Norm(kernels.To(y.Data), kernels.Dst{}, stats.Data, s.args(n, c, xv))
	}
	return t.normed(x, y, stats, s)
}

// AddNorm returns sum = res + alpha·x and the norm of sum, in one pass over
// memory. x, res [N, C].
func (t *Tape) AddNorm(res, x *Tensor, alpha float32, s NormSpec) (sum, y *Tensor) {
	sameShape("add", res, x)
	n, c := x.Rows(), x.Cols()
	sum, y = t.New(n, c), t.alloc(kernels.Activations, t.between(), n, c)
	stats := t.New(n, s.Kind.StatsLen())
	sum.needs = x.needs || res.needs
	y.needs = sum.needs || s.W.trains() || s.Bias.trains()
	if t.err == nil {
		a := s.args(n, c, t.value(x))
		a.Res, a.Alpha = t.value(res), alpha
		t.Dev.Norm(kernels.To(y.Data), kernels.To(sum.Data), stats.Data, a)
	}
	if t.Record {
		t.record(sum, nil, func() { t.pass(res, sum, 1); t.pass(x, sum, alpha) })
	}
	return sum, t.normed(sum, y, stats, s)
}

// normed records y = norm(x) with its statistics.
func (t *Tape) normed(x, y, stats *Tensor, s NormSpec) *Tensor {
	if !t.Record {
		t.Done(stats)
		return y
	}
	c := s.width(x)
	n := x.Len() / c
	t.record(y, []*Tensor{x, stats}, func() {
		dx, xv := t.grad(x), t.value(x)
		if t.err == nil {
			t.Dev.NormBackward(dx, s.W.dst(), s.Bias.dst(), y.grad.buf, stats.Data, s.args(n, c, xv))
		}
	})
	t.Done(stats)
	return t.Cheap(y, func(dst kernels.Buffer) {
		xv, again := t.value(x), t.scratch(stats.Len())
		defer t.Dev.Free(again)
		if t.err == nil {
			t.Dev.Norm(kernels.To(dst), kernels.Dst{}, again, s.args(n, c, xv))
		}
	}, x)
}

// ActSpec is an activation: its kind, how gates and ups lie, and its numbers.
type ActSpec struct {
	Kind   kernels.ActKind
	Layout kernels.ActLayout
	kernels.ActParams
}

// Act returns act(gate)·up, or act(gate) when up is nil: [N, F] each (SwiGLU:
// Shazeer 2020, arXiv:2002.05202). Where the layout has both in gate, it is
// [N, 2F]. The result is cheap.
func (t *Tape) Act(s ActSpec, gate, up *Tensor) *Tensor {
	needs, held := gate.needs, gate.kind
	if up != nil {
		sameShape("act", gate, up)
		needs = needs || up.needs
		held = dtype.Wider(held, up.kind)
		up.slope = up.kind
	}
	gate.slope = gate.kind
	y := t.alloc(kernels.Activations, held, gate.Rows(), s.width(gate))
	y.needs, y.slope = needs, held
	if a := s.args(t, gate, up); t.err == nil {
		t.Dev.Act(kernels.To(y.Data), a)
	}
	if !t.Record {
		return y
	}
	return t.actGradient(s, y, gate, up)
}

// width is F.
func (s ActSpec) width(gate *Tensor) int {
	if s.Layout != kernels.Separate {
		return gate.Cols() / 2
	}
	return gate.Cols()
}

func (s ActSpec) args(t *Tape, gate, up *Tensor) *kernels.ActArgs {
	a := &kernels.ActArgs{Kind: s.Kind, Layout: s.Layout, ActParams: s.ActParams, N: gate.Rows(), F: s.width(gate), Gate: t.value(gate)}
	if up != nil {
		a.Up = t.value(up)
	}
	return a
}

// actGradient records y = Act(gate, up).
func (t *Tape) actGradient(s ActSpec, y, gate, up *Tensor) *Tensor {
	saves := compact([]*Tensor{gate, up})
	t.record(y, saves, func() {
		a, dg := s.args(t, gate, up), t.grad(gate)
		du := t.grad(up)
		if t.err == nil {
			t.Dev.ActBackward(dg, du, y.grad.buf, a)
		}
	})
	return t.Cheap(y, func(dst kernels.Buffer) {
		if a := s.args(t, gate, up); t.err == nil {
			t.Dev.Act(kernels.To(dst), a)
		}
	}, saves...)
}

// Add returns alpha·a + beta·b, both [N, C].
func (t *Tape) Add(a, b *Tensor, alpha, beta float32) *Tensor {
	sameShape("add", a, b)
	y := t.made(func(dst kernels.Buffer) {
		if av, bv := t.value(a), t.value(b); t.err == nil {
			t.Dev.Add(kernels.To(dst), &kernels.AddArgs{N: a.Len(), A: av, B: bv, Alpha: alpha, Beta: beta})
		}
	}, []*Tensor{a, b}, dtype.F32, a.Shape...)
	y.needs = a.needs || b.needs
	t.record(y, nil, func() { t.pass(a, y, alpha); t.pass(b, y, beta) })
	return y
}

// Scale returns alpha·x; x itself when alpha is 1 or 0 (0: not set).
func (t *Tape) Scale(x *Tensor, alpha float32) *Tensor {
	if alpha == 0 || alpha == 1 {
		return x
	}
	y := t.New(x.Shape...)
	y.needs = x.needs
	if xv := t.value(x); t.err == nil {
		t.Dev.Add(kernels.To(y.Data), &kernels.AddArgs{N: y.Len(), A: xv, Alpha: alpha})
	}
	t.record(y, nil, func() { t.pass(x, y, alpha) })
	return y
}

func sameShape(op string, a, b *Tensor) {
	if a.Rows() != b.Rows() || a.Cols() != b.Cols() {
		panic(fmt.Sprintf("autograd: %s: shapes %v and %v differ", op, a.Shape, b.Shape))
	}
}
