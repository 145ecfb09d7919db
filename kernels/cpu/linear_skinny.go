package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// skinnyRows is the largest number of rows of x for which a product is made of
// dot products along the rows of W, read once and in order: packing them would
// cost more than multiplying. This is the path of generation.
const skinnyRows = 16

// skinnyChunk is the number of elements of W one chunk of that work reads.
const skinnyChunk = 32 << 10

// dotRoom is the floats that dotRows needs for the products of n rows of x.
func dotRoom(n int) int { return 4*n + 16 }

// skinny is Linear for few rows.
func (c *CPU) skinny(y kernels.Dst, a *kernels.LinearArgs) {
	if c.thin(y, a) || c.matvec(y, a) {
		c.skinnyRest(y.Buffer, a)
		return
	}
	in, out := a.W.Cols, a.W.Rows
	s := c.workspace(a.N*roundUp(in, 16) + par.Threads()*(4*roundUp(in, 16)+roundUp(dotRoom(a.N), 16)))
	defer s.free()
	k := roundUp(in, 16)
	x := s.take(a.N * k)
	prepareX(x, k, a)
	rows := make(chan []float32, par.Threads())
	for range cap(rows) {
		rows <- s.take(4*k + dotRoom(a.N))
	}
	w := weight(a.W, false)
	dst := f32(y.Buffer)
	grain := roundUp(max(1, skinnyChunk/max(in, 1)), 4)
	par.For(out, grain, func(lo, hi int) {
		buf := <-rows
		for r := lo; r < hi; r += 4 {
			n := min(4, hi-r)
			skinnyTile(dst[r:], out, n, a, x, k, &w, r, buf, y.Add)
		}
		rows <- buf
	})
	c.skinnyRest(y.Buffer, a)
}

// prepareX copies x, dropped and rounded, to rows k apart with zeros after them.
func prepareX(x []float32, k int, a *kernels.LinearArgs) {
	src := rowsF32(f32(a.X), a.W.Cols)
	src.drop = newDropping(a.Drop, a.N)
	for i := range a.N {
		row := x[i*k:][:k]
		src.row(row, i, 0, a.W.Cols)
		clear(row[a.W.Cols:])
		if a.BF16 {
			roundBF16(row)
		}
	}
}

// skinnyTile: y[i][0…n) = alpha·x[i]·W[r…r+n) for all rows i of x; n ≤ 4. buf has
// room for four rows of W and for the products.
func skinnyTile(y []float32, ldy, n int, a *kernels.LinearArgs, x []float32, k int, w *operand, r int, buf []float32, add bool) {
	in := a.W.Cols
	sums := buf[4*k:]
	switch {
	case w.f != nil && !a.BF16:
		dotRows(sums, a.N, x, k, in, w.f[r*in:], in, n)
	case w.h != nil && dotRowsBF16(sums, a.N, x, k, in, w.h[r*in:], in, n):
	default:
		for j := range n {
			w.row(buf[j*k:], r+j, 0, in)
		}
		if a.BF16 {
			roundBF16(buf[:n*k])
		}
		dotRows(sums, a.N, x, k, in, buf, k, n)
	}
	alpha := orOne(a.Alpha)
	for i := range a.N {
		for j := range n {
			v := float32(alpha * sums[i*4+j])
			if add {
				v += y[i*ldy+j]
			}
			y[i*ldy+j] = v
		}
	}
}

// dotRowsVec is dotRows by package vec.
func dotRowsVec(y []float32, m int, x []float32, ldx, k int, w []float32, ldw, n int) {
	for i := range m {
		vec.DotRows(y[4*i:], x[i*ldx:][:k], w, ldw, n)
	}
}

// skinnyRest adds the second pair and the bias.
func (c *CPU) skinnyRest(y kernels.Buffer, a *kernels.LinearArgs) {
	if a.U != nil {
		c.skinny(kernels.Into(y), &kernels.LinearArgs{N: a.N, X: a.U, W: a.B, BF16: a.BF16})
	}
	if a.Bias != nil {
		dst, bias, out := f32(y), f32(a.Bias), a.W.Rows
		for i := range a.N {
			vec.Axpy(dst[i*out:][:out], 1, bias[:out])
		}
	}
}
