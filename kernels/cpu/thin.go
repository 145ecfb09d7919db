package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Rows of x of a thin product. Fewer are matrix·vector products; more are worth
// packing the weight.
const (
	thinLeast = 5
	thinLanes = 16
	thinNear  = 2 * 16 * 24 // floats of a kernel's own
)

// thinSize is the elements of a weight from which on it is worth it: fewer are near, and
// read by matvec where it has a kernel for so many columns.
const thinSize = 1 << 16

// A task takes so many rows of a weight at most, and so many blocks of them at
// least: of the first block nothing was asked for ahead of time.
const (
	thinTask = 1 << 10
	thinFew  = 4
)

// thin is Linear's first product where x has 5 to 16 rows and the weight is float32 or
// bf16: x is packed, and the weight read once, in order and as it lies in memory. Each
// result is the bits of the packed product, where that is not made on tiles. It reports
// false where no kernel exists.
func (c *CPU) thin(y kernels.Dst, a *kernels.LinearArgs) bool {
	in, out := a.W.Cols, a.W.Rows
	w := weight(a.W, false)
	block := thinBlock(out)
	m, ok := thinMode(&w, a)
	if a.N < thinLeast || a.N > thinLanes || !ok || block == 0 || in*out < thinSize && in%mvUnit == 0 {
		return false
	}
	x := rowsF32(f32(a.X), in)
	x.drop = newDropping(a.Drop, a.N)
	panel := c.scratch.take((roundUp(in/m.ku(), 16) + 1) * thinLanes)
	buf := area{fetch: c.scratch.take(fetchSize)}
	x.pack(panel, thinLanes, 0, a.N, 0, in, m, &buf)
	c.scratch.give(buf.fetch)
	dst, alpha := f32(y.Buffer), orOne(a.Alpha)
	step := passStep(in, maxK)
	whole := a.N == thinLanes && alpha == 1 && !y.Add && step >= in
	par.Split(out/block, thinFew, thinTask/block, func(lo, hi int) {
		lo *= block
		if hi *= block; out-hi < block {
			hi = out
		}
		near := c.scratch.take(thinNear)
		defer c.scratch.give(near)
		if whole {
			thinRows(dst[lo:], out, panel, m, &w, lo, hi-lo, 0, in, near)
			return
		}
		tmp := c.scratch.take(thinLanes * (hi - lo))
		for k := 0; k < in; k += step {
			thinRows(tmp, hi-lo, panel[k/m.ku()*thinLanes:], m, &w, lo, hi-lo, k, min(step, in-k), near)
			for i := range a.N {
				from, to := tmp[i*(hi-lo):][:hi-lo], dst[i*out+lo:][:hi-lo]
				if !y.Add && k == 0 {
					clear(to)
				}
				vec.Axpy(to, alpha, from)
			}
		}
		c.scratch.give(tmp)
	})
	c.scratch.give(panel)
	return true
}
