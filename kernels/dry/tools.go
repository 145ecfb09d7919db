package dry

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Gemm counts one product.
func (d *Dry) Gemm(c kernels.Dst, a *kernels.GemmArgs) {
	need("gemm: c", c.Buffer, a.M*a.N)
	need("gemm: a", a.A, kernels.Span(a.ShapeA()))
	need("gemm: b", a.B, kernels.Span(a.ShapeB()))
	d.product(kernels.ProductShape{M: a.M, N: a.N, K: a.K, TA: a.TA, TB: a.TB, A: kindOf(a.A), B: kindOf(a.B)})
	d.add("Gemm", Work{Matrix: product(a.M, a.K, a.N)})
}

// Gram counts half a product: the matrix is symmetric.
func (d *Dry) Gram(h kernels.Dst, a *kernels.GramArgs) {
	need("gram: h", h.Buffer, a.Groups.Len()*a.Cols*a.Cols)
	need("gram: x", a.X, a.Rows*a.Cols)
	d.works(func(w kernels.Working) int64 { return w.Gram(a) })
	d.add("Gram", Work{Matrix: product(a.Cols, a.Rows, a.Cols) / 2})
}

// ColStats counts what it reads.
func (d *Dry) ColStats(out kernels.Dst, a *kernels.ColStatsArgs) {
	need("colstats: out", out.Buffer, a.Groups.Len()*a.Cols)
	need("colstats: x", a.X, a.Rows*a.Cols)
	d.add("ColStats", moved(a.X))
}

// RowStats counts what it reads.
func (d *Dry) RowStats(out kernels.Dst, a *kernels.RowStatsArgs) {
	need("rowstats: out", out.Buffer, a.Rows*a.Runs())
	need("rowstats: x", a.X, a.Rows*a.Cols)
	need("rowstats: y", a.Y, a.Rows*a.Cols)
	d.add("RowStats", moved(a.X, a.Y))
}

// Sum counts what it reads.
func (d *Dry) Sum(out kernels.Dst, a, b kernels.Buffer, n int) {
	need("sum: out", out.Buffer, 1)
	need("sum: a", a, n)
	need("sum: b", b, n)
	d.works(func(w kernels.Working) int64 { return w.Sum(n) })
	d.add("Sum", moved(a, b))
}

// Factor counts a factorisation and an inverse, and always succeeds but for memory; of
// a device that says nothing of it, float64.
func (d *Dry) Factor(u, h kernels.Buffer, n int, _ float32) error {
	need("factor: u", u, n*n)
	need("factor: h", h, n*n)
	size := 8 * int64(n) * int64(n)
	if d.o.Working != nil {
		size = d.o.Working.Factor(n)
	}
	if err := kernels.Step(func() error { d.scratch(size); return nil }); err != nil {
		return err
	}
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

// Quantize counts what it reads and writes, and always succeeds.
func (d *Dry) Quantize(dst kernels.Mat, x, importance kernels.Buffer) error {
	need("quantize: dst", dst.Buffer, dst.Of*dst.Cols)
	need("quantize: x", x, dst.Rows*dst.Cols)
	need("quantize: importance", importance, dst.Cols)
	w := moved(x)
	w.Moved += float64(dtype.Size(dst.Type(), dst.Rows, dst.Cols))
	d.works(func(w kernels.Working) int64 { return w.Quantize(dst) })
	d.add("Quantize", w)
	return nil
}

// Dequantize counts what it reads and writes.
func (d *Dry) Dequantize(dst kernels.Buffer, m kernels.Mat) {
	need("dequantize", dst, m.Rows*m.Cols)
	w := moved(dst)
	w.Moved += float64(dtype.Size(m.Type(), m.Rows, m.Cols))
	d.add("Dequantize", w)
}

// FakeQuant counts what it reads and writes.
func (d *Dry) FakeQuant(y kernels.Dst, a *kernels.FakeQuantArgs) {
	need("fakequant: y", y.Buffer, a.Rows*a.Cols)
	need("fakequant: x", a.X, a.Rows*a.Cols)
	need("fakequant: colscale", a.ColScale, a.Cols)
	need("fakequant: clip", a.Clip, a.Rows*a.Type.Groups(a.Cols))
	d.add("FakeQuant", moved(y.Buffer, a.X))
}

// Divide counts what it reads and writes.
func (d *Dry) Divide(y kernels.Dst, a *kernels.MulArgs) {
	need("divide: y", y.Buffer, a.N*a.C)
	needMul(a)
	d.add("Divide", moved(y.Buffer, a.X, a.S))
}

// Optim counts what it reads and writes.
func (d *Dry) Optim(o *kernels.OptimArgs) {
	var w Work
	need("optim: common", o.Common, o.Shared())
	for i := range o.Spans {
		s := &o.Spans[i]
		n := s.Rows * s.Cols
		need("optim: p", s.P, n)
		need("optim: g", s.G, n)
		w.Moved += 4 * 3 * float64(n) // p twice, g
		for i, st := range o.State(s.Rows, s.Cols, s.Block) {
			need("optim: "+st.Name, s.State[i], st.Len)
			w.Moved += 2 * float64(st.Len) * float64(st.Type.Kind.Info().Bytes)
		}
	}
	d.works(func(w kernels.Working) int64 { return w.Optim(o) })
	d.add("Optim", w)
}

// LogitStats counts what it reads.
func (d *Dry) LogitStats(kl, top1 kernels.Dst, a *kernels.LogitStatsArgs) {
	need("logitstats", a.Logits, a.N*a.V)
	need("logitstats", a.Ref, a.N*a.V)
	need("logitstats: kl", kl.Buffer, a.N)
	need("logitstats: top1", top1.Buffer, a.N)
	d.add("LogitStats", moved(a.Logits, a.Ref))
}

// Sample counts what it reads.
func (d *Dry) Sample(ids kernels.Buffer, a *kernels.SampleArgs) {
	need("sample: ids", ids, len(a.Rows))
	need("sample: logits", a.Logits, len(a.Rows)*a.V)
	d.works(func(w kernels.Working) int64 { return w.Sample(a) })
	d.add("Sample", moved(a.Logits))
}
