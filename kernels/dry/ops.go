package dry

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
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
	if a.U != nil {
		need("linear: u", a.U, a.N*a.B.Cols)
		w += product(a.N, a.B.Cols, out)
	}
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
		w.Matrix += product(a.N, a.W.Cols, out)
		if a.U != nil {
			w.Matrix += product(a.N, a.B.Rows/a.Parts(), a.W.Cols)
		}
	}
	if !dw.Skip() {
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

// Norm counts what it reads and writes.
func (d *Dry) Norm(y, sum kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) {
	for _, b := range []kernels.Buffer{y.Buffer, sum.Buffer, a.X, a.Res} {
		need("norm", b, a.N*a.C)
	}
	need("norm: stats", stats, a.N)
	d.add("Norm", moved(y.Buffer, sum.Buffer, a.X, a.Res))
}

// NormBackward counts what it reads and writes.
func (d *Dry) NormBackward(dx, dw, db kernels.Dst, dy, stats kernels.Buffer, a *kernels.NormArgs) {
	for _, b := range []kernels.Buffer{dx.Buffer, dy, a.X} {
		need("norm backward", b, a.N*a.C)
	}
	need("norm backward: dw", dw.Buffer, a.C)
	need("norm backward: db", db.Buffer, a.C)
	need("norm backward: stats", stats, a.N)
	d.add("NormBackward", moved(dx.Buffer, dy, a.X))
}

// Act counts what it reads and writes.
func (d *Dry) Act(y kernels.Dst, a *kernels.ActArgs) {
	for _, b := range []kernels.Buffer{y.Buffer, a.Gate, a.Up} {
		need("act", b, a.N*a.F)
	}
	d.add("Act", moved(y.Buffer, a.Gate, a.Up))
}

// ActBackward counts what it reads and writes.
func (d *Dry) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	for _, b := range []kernels.Buffer{dgate.Buffer, dup.Buffer, dy, a.Gate, a.Up} {
		need("act backward", b, a.N*a.F)
	}
	d.add("ActBackward", moved(dgate.Buffer, dup.Buffer, dy, a.Gate, a.Up))
}

// Add counts what it reads and writes.
func (d *Dry) Add(y kernels.Dst, a, b kernels.Buffer, n int, _, _ float32) {
	for _, x := range []kernels.Buffer{y.Buffer, a, b} {
		need("add", x, n)
	}
	d.add("Add", moved(y.Buffer, a, b))
}

// Gemm counts one product.
func (d *Dry) Gemm(c kernels.Dst, a, b kernels.Buffer, _, _ bool, m, n, k int, _ float32) {
	need("gemm: c", c.Buffer, m*n)
	need("gemm: a", a, m*k)
	need("gemm: b", b, n*k)
	d.add("Gemm", Work{Matrix: product(m, k, n)})
}

// Gram counts half a product: the matrix is symmetric.
func (d *Dry) Gram(h kernels.Dst, x kernels.Buffer, rows, cols int) {
	need("gram: h", h.Buffer, cols*cols)
	need("gram: x", x, rows*cols)
	d.add("Gram", Work{Matrix: product(cols, rows, cols) / 2})
}

// ColStats counts what it reads.
func (d *Dry) ColStats(out kernels.Dst, x kernels.Buffer, rows, cols int, _ kernels.Stat) {
	need("colstats: out", out.Buffer, cols)
	need("colstats: x", x, rows*cols)
	d.add("ColStats", moved(x))
}

// Sum counts what it reads.
func (d *Dry) Sum(out kernels.Dst, a, b kernels.Buffer, n int) {
	need("sum: out", out.Buffer, 1)
	need("sum: a", a, n)
	need("sum: b", b, n)
	d.add("Sum", moved(a, b))
}

// Factor counts a factorisation and an inverse, and always succeeds.
func (d *Dry) Factor(u, h kernels.Buffer, n int, _ float32) error {
	need("factor: u", u, n*n)
	need("factor: h", h, n*n)
	d.add("Factor", Work{Matrix: product(n, n, n) / 3})
	return nil
}

// GPTQBlock counts the updates of the columns that follow in the block.
func (d *Dry) GPTQBlock(g *kernels.GPTQArgs) {
	for _, b := range []kernels.Buffer{g.W, g.Err, g.Codes, g.Scale, g.Zero} {
		need("gptqblock", b, g.Rows*g.Cols)
	}
	need("gptqblock: u", g.U, g.Cols*g.Cols)
	d.add("GPTQBlock", Work{Matrix: product(g.Rows, g.Cols, g.Cols) / 2})
}

// Dequantize counts what it reads and writes.
func (d *Dry) Dequantize(dst kernels.Buffer, m kernels.Mat) {
	need("dequantize", dst, m.Rows*m.Cols)
	w := moved(dst)
	w.Moved += float64(dtype.Size(m.Type(), m.Rows, m.Cols))
	d.add("Dequantize", w)
}

// Optim counts what it reads and writes.
func (d *Dry) Optim(_ kernels.OptimKind, o *kernels.OptimArgs) {
	for _, b := range []kernels.Buffer{o.P, o.G, o.M, o.V} {
		need("optim", b, o.N)
	}
	d.add("Optim", moved(o.P, o.P, o.G, o.M, o.M, o.V, o.V))
}

// LogitStats counts what it reads.
func (d *Dry) LogitStats(kl, top1 kernels.Dst, logits, ref kernels.Buffer, n, v int) {
	need("logitstats", logits, n*v)
	need("logitstats", ref, n*v)
	need("logitstats: kl", kl.Buffer, n)
	need("logitstats: top1", top1.Buffer, n)
	d.add("LogitStats", moved(logits, ref))
}
