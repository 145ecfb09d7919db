package dry

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// moved is the work of touching every given buffer once; nil is none.
func moved(bufs ...kernels.Buffer) (w Work) {
	for _, b := range bufs {
		if b != nil {
			w.Moved += float64(b.Len()) * float64(b.Type().Kind.Info().Bytes)
		}
	}
	return w
}

// product is the work of n·k·m multiply-adds.
func product(n, k, m int) float64 { return 2 * float64(n) * float64(k) * float64(m) }

// need panics unless b, when given, holds n elements: the same programmer
// errors show in a plan as in a run.
func need(what string, b kernels.Buffer, n int) {
	if b == nil {
		return
	}
	if b.(*Buf).root.freed {
		panic(fmt.Sprintf("dry: %s: buffer used after it was freed", what))
	}
	if b.Len() < n {
		panic(fmt.Sprintf("dry: %s: buffer of %d elements, needs %d", what, b.Len(), n))
	}
}

// Linear counts both products.
func (d *Dry) Linear(y kernels.Dst, a *kernels.LinearArgs) {
	out := a.Out()
	need("linear: y", y.Buffer, a.N*out)
	need("linear: x", a.X, a.N*a.W.Cols)
	need("linear: group", a.Group, a.Parts()+1)
	w := product(a.N, a.W.Cols, out)
	p := kernels.ProductShape{M: a.N, N: out, K: a.W.Cols, Parts: a.Parts(), TB: true, BF16: a.BF16, F16: a.F16, Fast: a.Fast, DropA: a.Drop != nil,
		Bias: a.Bias != nil, Add: y.Add, A: kindOf(a.X), B: kindOf(a.W.Buffer), C: kindOf(y.Buffer), W: a.W.Type()}
	if a.U != nil {
		p.K2, p.A2, p.B2 = a.B.Cols, kindOf(a.U), kindOf(a.B.Buffer)
		need("linear: u", a.U, a.N*a.B.Cols)
		w += product(a.N, a.B.Cols, out)
	}
	d.product(p)
	d.add("Linear", Work{Matrix: w})
}

// LinearBackward counts the products of the wanted gradients.
func (d *Dry) LinearBackward(dx, dw, dbias kernels.Dst, dy kernels.Buffer, a *kernels.LinearArgs) {
	out := a.Out()
	need("linear backward: dy", dy, a.N*out)
	need("linear backward: dx", dx.Buffer, a.N*a.W.Cols)
	need("linear backward: dw", dw.Buffer, a.W.Rows*a.W.Cols)
	need("linear backward: dbias", dbias.Buffer, a.W.Rows)
	need("linear backward: group", a.Group, a.Parts()+1)
	var w Work
	if !dx.Skip() {
		p := kernels.ProductShape{M: a.N, N: a.W.Cols, K: out, Parts: a.Parts(), BF16: a.BF16, F16: a.F16, DropC: a.Drop != nil && a.Drop.P > 0,
			Add: dx.Add, A: kindOf(dy), B: kindOf(a.W.Buffer), C: kindOf(dx.Buffer)}
		w.Matrix += product(a.N, a.W.Cols, out)
		if a.U != nil {
			p.K2, p.A2, p.B2 = a.B.Rows/a.Parts(), kindOf(a.U), kindOf(a.B.Buffer)
			w.Matrix += product(a.N, a.B.Rows/a.Parts(), a.W.Cols)
		}
		d.product(p)
	}
	if !dw.Skip() {
		d.product(kernels.ProductShape{M: out, N: a.W.Cols, K: a.N, TA: true, BF16: a.BF16, F16: a.F16, DropB: a.Drop != nil, A: kindOf(dy), B: kindOf(a.X)})
		w.Matrix += product(a.N, a.W.Cols, out)
	}
	if !dbias.Skip() {
		w.Moved = moved(dy).Moved
	}
	d.add("LinearBackward", w)
}

// Gather counts the rows it writes, once for every choice.
func (d *Dry) Gather(y kernels.Dst, a *kernels.GatherArgs) {
	k := a.Choices()
	need("gather: y", y.Buffer, a.N*a.Table.Cols)
	need("gather: idx", a.Idx, a.N*k)
	need("gather: weight", a.Weight, a.N*k)
	w := moved(y.Buffer)
	w.Moved *= float64(k)
	d.add("Gather", w)
}

// GatherBackward counts the rows it reads and adds, for every choice and result.
func (d *Dry) GatherBackward(dtable, dweight kernels.Dst, dy kernels.Buffer, a *kernels.GatherArgs) {
	k := a.Choices()
	need("gather backward: dy", dy, a.N*a.Table.Cols)
	need("gather backward: idx", a.Idx, a.N*k)
	need("gather backward: weight", a.Weight, a.N*k)
	need("gather backward: dtable", dtable.Buffer, a.Table.Rows*a.Table.Cols)
	need("gather backward: dweight", dweight.Buffer, a.N*k)
	var w Work
	for _, x := range []kernels.Dst{dtable, dweight} {
		if !x.Skip() {
			w.Moved += float64(k) * moved(dy, dy).Moved
		}
	}
	d.add("GatherBackward", w)
}
