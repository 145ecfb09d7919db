package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
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
	want("drop keys", d.Key, n)
	return &dropping{d, i64(d.Key)}
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
	if a.N <= skinnyRows {
		c.skinny(y, a)
		return
	}
	in, out := a.W.Cols, a.W.Rows
	x := rowsF32(f32(a.X), in)
	x.drop = newDropping(a.Drop, a.N)
	terms := []product{{k: in, a: x, b: weight(a.W, false), alpha: orOne(a.Alpha), bf16: a.BF16 || a.Fast && fastBF16()}}
	if a.U != nil {
		terms = append(terms, product{k: a.B.Cols, a: rowsF32(f32(a.U), a.B.Cols), b: weight(a.B, false), alpha: 1})
	}
	if a.Bias != nil {
		terms = append(terms, product{k: 1, a: operand{ones: true, across: true}, b: colsF32(f32(a.Bias), out), alpha: 1})
	}
	c.gemm(f32(y.Buffer), out, a.N, out, y.Add, terms...)
}

// checkLinear panics when the operands of the forward do not fit together.
func checkLinear(a *kernels.LinearArgs, y kernels.Buffer) {
	want("linear: y", y, a.N*a.W.Rows)
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
	in, out := a.W.Cols, a.W.Rows
	want("linear backward: dy", dy, a.N*out)
	g := f32(dy)
	if !dx.Skip() {
		want("linear backward: dx", dx.Buffer, a.N*in)
		c.linearDX(dx, g, a)
	}
	if !dw.Skip() {
		want("linear backward: dw", dw.Buffer, in*out)
		want("linear backward: x", a.X, a.N*in)
		x := colsF32(f32(a.X), in)
		x.drop = newDropping(a.Drop, a.N)
		c.gemm(f32(dw.Buffer), in, out, in, dw.Add,
			product{k: a.N, a: colsF32(g, out), b: x, alpha: orOne(a.Alpha), bf16: a.BF16})
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
func (c *CPU) linearDX(dx kernels.Dst, dy []float32, a *kernels.LinearArgs) {
	in, out := a.W.Cols, a.W.Rows
	d := f32(dx.Buffer)
	first := product{k: out, a: rowsF32(dy, out), b: weight(a.W, true), alpha: orOne(a.Alpha), bf16: a.BF16}
	var second []product
	if a.U != nil {
		if a.B.Cols != in {
			panic(fmt.Sprintf("cpu: linear backward: second pair has %d columns, the weight %d", a.B.Cols, in))
		}
		want("linear backward: u", a.U, a.N*a.B.Rows)
		second = []product{{k: a.B.Rows, a: rowsF32(f32(a.U), a.B.Rows), b: weight(a.B, true), alpha: 1}}
	}
	drop := newDropping(a.Drop, a.N)
	if drop == nil {
		c.gemm(d, in, a.N, in, dx.Add, append([]product{first}, second...)...)
		return
	}
	s := c.workspace(min(a.N, dropRows) * in)
	defer s.free()
	tmp := s.take(min(a.N, dropRows) * in)
	for r0 := 0; r0 < a.N; r0 += dropRows {
		n := min(dropRows, a.N-r0)
		first.a = rowsF32(dy[r0*out:], out)
		c.gemm(tmp, in, n, in, false, first)
		par.For(n, rowGrain(in), func(lo, hi int) {
			for r := lo; r < hi; r++ {
				row := tmp[r*in:][:in]
				drop.apply(row, r0+r, 0)
				addOrCopy(d[(r0+r)*in:][:in], row, dx.Add)
			}
		})
	}
	c.gemm(d, in, a.N, in, true, second...)
}

func addOrCopy(dst, src []float32, add bool) {
	if !add {
		copy(dst, src)
		return
	}
	for i, v := range src {
		dst[i] += v
	}
}

// columnSums: out[j] = Σ_i x[i][j] in float64.
func columnSums(out, x []float32, rows, cols int, add bool) {
	const width = 64
	par.For(cols, width, func(lo, hi int) {
		var sum [width]float64
		for i := range rows {
			for j, v := range x[i*cols+lo : i*cols+hi] {
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

// Gemm: c [m,n] = alpha·op(a)·op(b).
func (c *CPU) Gemm(dst kernels.Dst, a, b kernels.Buffer, ta, tb bool, m, n, k int, alpha float32) {
	if dst.Skip() {
		return
	}
	want("gemm: c", dst.Buffer, m*n)
	want("gemm: a", a, m*k)
	want("gemm: b", b, k*n)
	x, y := rowsF32(f32(a), k), colsF32(f32(b), n)
	if ta {
		x = colsF32(f32(a), m)
	}
	if tb {
		y = rowsF32(f32(b), k)
	}
	c.gemm(f32(dst.Buffer), n, m, n, dst.Add, product{k: k, a: x, b: y, alpha: alpha})
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
