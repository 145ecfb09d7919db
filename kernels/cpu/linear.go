package cpu

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// dropping is dropout applied to the rows of an operand as they are fetched.
type dropping struct {
	*kernels.Drop
	keys []int64 // of memory rows
}

func newDropping(d *kernels.Drop, n int) *dropping {
	if d == nil || d.P == 0 {
		return nil
	}
	keys := i64(d.Key)
	if d.Rows == nil {
		want("drop keys", d.Key, n)
		return &dropping{d, keys}
	}
	want("drop rows", d.Rows, n)
	of := make([]int64, n)
	for i, r := range i32(d.Rows)[:n] {
		of[i] = keys[r]
	}
	return &dropping{d, of}
}

func (d *dropping) apply(x []float32, row, col int) { dropRow(x, d.Drop, d.keys[row], col) }

func shapeError(what string, have, rows, cols int) string {
	return fmt.Sprintf("cpu: %s: %d elements for %d×%d", what, have, rows, cols)
}

// Linear: y [N,out] = Alpha·drop(x)·Wᵀ + bias + u·Bᵀ.
func (c *CPU) Linear(y kernels.Dst, a *kernels.LinearArgs) {
	if y.Skip() || a.N == 0 {
		return
	}
	checkLinear(a, y.Buffer)
	if a.Group != nil {
		c.eachExpert(a, a.B.Cols, func(e expert, x *kernels.LinearArgs) { c.Linear(e.rows(y, x.W.Rows), x) })
		return
	}
	if a.N <= skinnyRows && !a.F16 && !anyBF16(y.Buffer, a.X, a.U) {
		c.skinny(y, a)
		return
	}
	in, out := a.W.Cols, a.W.Rows
	x := plainOf(a.X).lines(in)
	x.drop = newDropping(a.Drop, a.N)
	terms := []product{{k: in, a: x, b: weight(a.W, false), alpha: orOne(a.Alpha), bf16: a.BF16 || a.Fast && fastBF16(), f16: a.F16}}
	if a.U != nil {
		terms = append(terms, product{k: a.B.Cols, a: plainOf(a.U).lines(a.B.Cols), b: weight(a.B, false), alpha: 1, bf16: a.BF16, f16: a.F16})
	}
	if a.Bias != nil {
		terms = append(terms, product{k: 1, a: operand{ones: true, across: true}, b: colsF32(f32(a.Bias), out), alpha: 1})
	}
	c.gemmTo(y, a.N, out, terms...)
}

// anyBF16 reports whether one of the buffers is bf16.
func anyBF16(bs ...kernels.Buffer) bool {
	return slices.ContainsFunc(bs, func(b kernels.Buffer) bool { return b != nil && b.Type().Kind == dtype.BF16 })
}

// checkLinear panics when the operands of the forward do not fit together.
func checkLinear(a *kernels.LinearArgs, y kernels.Buffer) {
	want("linear: y", y, a.N*a.Out())
	want("linear: x", a.X, a.N*a.W.Cols)
	want("linear: bias", a.Bias, a.W.Rows)
	if a.U != nil {
		want("linear: u", a.U, a.N*a.B.Cols)
		if a.B.Rows != a.W.Rows {
			panic(fmt.Sprintf("cpu: linear: second pair has %d rows, the weight %d", a.B.Rows, a.W.Rows))
		}
	}
}

// LinearBackward: dx [N,in] = Alpha·dy·W (masked by Drop) + U·B, dw [out,in] =
// Alpha·dyᵀ·drop(X), dbias [out] = column sums of dy.
func (c *CPU) LinearBackward(dx, dw, dbias kernels.Dst, dy kernels.Buffer, a *kernels.LinearArgs) {
	in, out := a.W.Cols, a.Out()
	want("linear backward: dy", dy, a.N*out)
	if a.Group != nil {
		c.eachExpert(a, a.B.Rows/a.Parts(), func(e expert, x *kernels.LinearArgs) {
			c.LinearBackward(e.rows(dx, in), e.part(dw, out*in), e.part(dbias, out), e.rows(kernels.To(dy), out).Buffer, x)
		})
		return
	}
	g := plainOf(dy)
	if !dx.Skip() {
		want("linear backward: dx", dx.Buffer, a.N*in)
		c.linearDX(dx, g, a)
	}
	if !dw.Skip() {
		want("linear backward: dw", dw.Buffer, in*out)
		want("linear backward: x", a.X, a.N*in)
		x := plainOf(a.X).columns(in)
		x.drop = newDropping(a.Drop, a.N)
		c.gemm(f32(dw.Buffer), in, out, in, dw.Add,
			product{k: a.N, a: g.columns(out), b: x, alpha: orOne(a.Alpha), bf16: a.BF16, f16: a.F16})
	}
	if !dbias.Skip() {
		want("linear backward: dbias", dbias.Buffer, out)
		columnSums(f32(dbias.Buffer), g, a.N, out, dbias.Add)
	}
}

// dropRows is how many rows of a masked gradient are held at a time.
const dropRows = 1024

// linearDX writes the gradient of the input. Dropout masks the first product
// only, so that one is then made apart, a few rows at a time.
func (c *CPU) linearDX(dx kernels.Dst, dy plain, a *kernels.LinearArgs) {
	in, out := a.W.Cols, a.W.Rows
	first := product{k: out, a: dy.lines(out), b: weight(a.W, true), alpha: orOne(a.Alpha), bf16: a.BF16, f16: a.F16}
	var second []product
	u := plainOf(a.U)
	if a.U != nil {
		if a.B.Cols != in {
			panic(fmt.Sprintf("cpu: linear backward: second pair has %d columns, the weight %d", a.B.Cols, in))
		}
		want("linear backward: u", a.U, a.N*a.B.Rows)
		second = []product{{k: a.B.Rows, a: u.lines(a.B.Rows), b: weight(a.B, true), alpha: 1, bf16: a.BF16, f16: a.F16}}
	}
	drop := newDropping(a.Drop, a.N)
	if drop == nil {
		c.gemmTo(dx, a.N, in, append([]product{first}, second...)...)
		return
	}
	d := plainOf(dx.Buffer)
	s := c.workspace(min(a.N, dropRows) * in)
	defer s.free()
	tmp := s.take(min(a.N, dropRows) * in)
	for r0 := 0; r0 < a.N; r0 += dropRows {
		n := min(dropRows, a.N-r0)
		first.a = dy.from(r0 * out).lines(out)
		c.gemm(tmp, in, n, in, false, first)
		c.eachRow(n, in, func(r int, _ []float32) { drop.apply(tmp[r*in:][:in], r0+r, 0) })
		if len(second) > 0 {
			second[0].a = u.from(r0 * a.B.Rows).lines(a.B.Rows)
			c.gemm(tmp, in, n, in, true, second...)
		}
		c.eachRow(n, in, func(r int, sum []float32) { d.store(tmp[r*in:][:in], (r0+r)*in, dx.Add, sum) })
	}
}

// columnSums: out[j] = Σ_i x[i][j] in float64.
func columnSums(out []float32, x plain, rows, cols int, add bool) {
	const width = 64
	par.For(cols, width, func(lo, hi int) {
		var sum [width]float64
		var row [width]float32
		for i := range rows {
			for j, v := range x.get(row[:hi-lo], i*cols+lo) {
				sum[j] += float64(v)
			}
		}
		for j := lo; j < hi; j++ {
			v := float32(sum[j-lo])
			if add {
				v += out[j]
			}
			out[j] = v
		}
	})
}

// Gemm: dst [M,N] = Alpha·op(A)·op(B).
func (c *CPU) Gemm(dst kernels.Dst, a *kernels.GemmArgs) {
	if dst.Skip() {
		return
	}
	want("gemm: c", dst.Buffer, a.M*a.N)
	ra, ca, lda := a.ShapeA()
	rb, cb, ldb := a.ShapeB()
	want("gemm: a", a.A, kernels.Span(ra, ca, lda))
	want("gemm: b", a.B, kernels.Span(rb, cb, ldb))
	x, y := operand{f: f32(a.A), ld: lda, across: a.TA}, operand{f: f32(a.B), ld: ldb, across: !a.TB}
	c.gemm(f32(dst.Buffer), a.N, a.M, a.N, dst.Add, product{k: a.K, a: x, b: y, alpha: a.Alpha})
}

// Dequantize writes m decoded, [m.Rows, m.Cols].
func (c *CPU) Dequantize(dst kernels.Buffer, m kernels.Mat) {
	want("dequantize", dst, m.Rows*m.Cols)
	d, w := f32(dst), weight(m, false)
	par.For(m.Rows, rowGrain(m.Cols), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			w.row(d[r*m.Cols:], r, 0, m.Cols)
		}
	})
}

func orOne(alpha float32) float32 {
	if alpha == 0 {
		return 1
	}
	return alpha
}
