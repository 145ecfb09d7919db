package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// gramStrip is the number of columns of H computed at a time: only the rows
// down to the diagonal are, the rest is their mirror image.
const gramStrip = 256

// Gram: h [cols,cols] = or += XᵀX of x [rows,cols]. With Add h must be symmetric.
func (c *CPU) Gram(h kernels.Dst, x kernels.Buffer, rows, cols int) {
	if h.Skip() {
		return
	}
	want("gram: h", h.Buffer, cols*cols)
	want("gram: x", x, rows*cols)
	d, v := f32(h.Buffer), f32(x)
	if rows == 0 {
		if !h.Add {
			clear(d[:cols*cols])
		}
		return
	}
	for j := 0; j < cols; j += gramStrip {
		n := min(gramStrip, cols-j)
		c.gemm(d[j:], cols, j+n, n, h.Add,
			product{k: rows, a: colsF32(v, cols), b: colsF32(v[j:], cols), alpha: 1})
	}
	mirror(d, cols)
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
