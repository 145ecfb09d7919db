package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// gramStrip is the number of columns of H computed at a time: only the rows
// down to the diagonal are, the rest is their mirror image.
const gramStrip = 256

// Gram: h = or += XᵀX, for every group of rows. With Add h must be symmetric.
func (c *CPU) Gram(h kernels.Dst, a *kernels.GramArgs) {
	if h.Skip() {
		return
	}
	rows, cols := groupRows("gram", a.Groups, a.Rows), a.Cols
	want("gram: h", h.Buffer, len(rows)*cols*cols)
	want("gram: x", a.X, a.Rows*cols)
	d, v := f32(h.Buffer), f32(a.X)
	for i, r := range rows {
		c.gram(d[i*cols*cols:][:cols*cols], h.Add, v[r[0]*cols:r[1]*cols], r[1]-r[0], cols)
	}
}

func (c *CPU) gram(d []float32, add bool, v []float32, rows, cols int) {
	if rows == 0 {
		if !add {
			clear(d)
		}
		return
	}
	for j := 0; j < cols; j += gramStrip {
		n := min(gramStrip, cols-j)
		c.gemm(d[j:], cols, j+n, n, add,
			product{k: rows, a: colsF32(v, cols), b: colsF32(v[j:], cols), alpha: 1})
	}
	mirror(d, cols)
}

// groupRows are the first and the last row, exclusive, of every group.
func groupRows(what string, g kernels.Groups, rows int) [][2]int {
	if g.Offsets == nil {
		return [][2]int{{0, rows}}
	}
	want(what+": offsets", g.Offsets, g.Count+1)
	at, out := i32(g.Offsets), make([][2]int, g.Count)
	for i := range out {
		out[i] = [2]int{int(at[i]), int(at[i+1])}
		if at[i] < 0 || at[i] > at[i+1] || int(at[i+1]) > rows {
			panic(fmt.Sprintf("cpu: %s: group %d is rows %d to %d of %d", what, i, at[i], at[i+1], rows))
		}
	}
	return out
}

// mirror copies the upper triangle of d [n,n] to the lower one, tile by tile.
func mirror(d []float32, n int) {
	const tile = 32
	par.For(n, tile, func(lo, hi int) {
		for j0 := 0; j0 < hi; j0 += tile {
			for i := lo; i < hi; i++ {
				for j := j0; j < min(j0+tile, i); j++ {
					d[i*n+j] = d[j*n+i]
				}
			}
		}
	})
}
