package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// expert is one part of a grouped Linear: rows lo … lo+n of its operands meet
// part at of its weights.
type expert struct {
	dev       *CPU
	at, lo, n int
}

// rows are the expert's rows, of the given width, of a result.
func (e expert) rows(d kernels.Dst, width int) kernels.Dst { return e.cut(d, e.lo*width, e.n*width) }

// part is the expert's part, of so many elements, of a weight's gradient.
func (e expert) part(d kernels.Dst, size int) kernels.Dst { return e.cut(d, e.at*size, size) }

func (e expert) cut(d kernels.Dst, off, n int) kernels.Dst {
	if d.Skip() {
		return d
	}
	return kernels.Dst{Buffer: e.dev.Slice(d.Buffer, off, n), Add: d.Add}
}

// buffer is cut of an operand, which may be absent.
func (e expert) buffer(b kernels.Buffer, off, n int) kernels.Buffer {
	return e.cut(kernels.To(b), off, n).Buffer
}

// eachExpert calls f with the operands of every expert, also of one without
// rows, whose gradients may have to be cleared. rank is the width of U.
func (c *CPU) eachExpert(a *kernels.LinearArgs, rank int, f func(e expert, x *kernels.LinearArgs)) {
	group := groupOf(a)
	in, out := a.W.Cols, a.Out()
	for i := range a.Experts {
		e := expert{c, i, int(group[i]), int(group[i+1] - group[i])}
		x := *a
		x.Group, x.Experts, x.N = nil, 0, e.n
		x.X = e.buffer(a.X, e.lo*in, e.n*in)
		x.W = a.W.RowsOf(i*out, out)
		x.Bias = e.buffer(a.Bias, i*out, out)
		if a.U != nil {
			b := a.B.Rows / a.Experts
			x.U, x.B = e.buffer(a.U, e.lo*rank, e.n*rank), a.B.RowsOf(i*b, b)
		}
		if a.Drop != nil {
			x.Drop = e.drop(*a.Drop)
		}
		f(e, &x)
	}
}

// drop is the dropout of the expert's rows.
func (e expert) drop(d kernels.Drop) *kernels.Drop {
	if d.Rows != nil {
		d.Rows = e.buffer(d.Rows, e.lo, e.n)
	} else {
		d.Key = e.buffer(d.Key, e.lo, e.n)
	}
	return &d
}

// groupOf returns the offsets of a grouped Linear, checked.
func groupOf(a *kernels.LinearArgs) []int32 {
	if a.Experts < 1 || a.W.Rows%a.Experts != 0 || a.U != nil && a.B.Rows%a.Experts != 0 {
		panic(fmt.Sprintf("cpu: linear: %d experts in a weight of %d rows and a second pair of %d", a.Experts, a.W.Rows, a.B.Rows))
	}
	want("linear: group", a.Group, a.Experts+1)
	g := i32(a.Group)[:a.Experts+1]
	for i, lo := range g[:a.Experts] {
		if lo > g[i+1] {
			panic(fmt.Sprintf("cpu: linear: rows of expert %d are %d to %d", i, lo, g[i+1]))
		}
	}
	if g[0] != 0 || int(g[a.Experts]) != a.N {
		panic(fmt.Sprintf("cpu: linear: the experts have rows %d to %d of %d", g[0], g[a.Experts], a.N))
	}
	return g
}
