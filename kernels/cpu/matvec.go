package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// A product of few rows of x is bound by reading the weight. Its kernels read
// it once, in order and as it lies in memory (the file's own pages), asking for
// it ahead of time, and decode it in registers. Each result is a sum of its own
// whose order depends on the number of columns alone, so neither the rows of x
// beside it nor the cutting of the weight changes a bit.
//
// With f32 and bf16 weights the arithmetic is f32. Quantized weights are
// multiplied as integers with x rounded to 8 bits, which only LinearArgs.Fast
// allows.

// mvUnit is the number of columns such kernels take at a time.
const mvUnit = 64

// mvUnitBytes is what a unit of a prepared row of x takes: 64 floats, or codes,
// sums and scales.
const mvUnitBytes = 256

// mvChunk is the number of bytes of a large weight that one task reads; small
// weights are cut into mvParts.
const (
	mvChunk = 256 << 10
	mvParts = 8
)

// mvWeight is a weight as a kernel reads it.
type mvWeight struct {
	rows, units int
	data        []byte // from the first row on
	rowBytes    int
	kernel      *mvKernel
	x           mvRounding
	scales      *mvScales // nil: in the blocks
	table       []byte    // of a codebook
}

// mvRounding says how x is prepared.
type mvRounding struct {
	floats bool    // not rounded
	split  bool    // codes of even columns before those of odd ones
	offset int     // zero point of the weight's codes
	factor float32 // of the results
}

// mvScales are scales and zero points that lie apart from the codes.
type mvScales struct {
	u      *unitType
	row0   int
	perRow int  // of a row
	shift  uint // unit of a row to its scale
}

// matvec computes y = or += alpha·x·Wᵀ for few rows of x; it reports false when
// the level has no kernel for the weight or the shape.
func (c *CPU) matvec(y kernels.Dst, a *kernels.LinearArgs) bool {
	w, ok := mvOf(a)
	if !ok {
		return false
	}
	x := mvTiles(a.N)
	var mem []float32
	if p := f32(a.X); w.x.floats && a.N == 1 && a.Drop == nil && !a.BF16 {
		x.data = p
	} else {
		mem = c.scratch.take(a.N * w.units * mvUnitBytes / 4)
		x.data = mem
		c.mvPrepare(x, w, a)
	}
	dst, out := f32(y.Buffer), a.W.Rows
	alpha := orOne(a.Alpha)
	grain := max(4, min(mvChunk/w.rowBytes, roundUp(ceilDiv(out, mvParts), 4)))
	par.For(out, grain, func(lo, hi int) {
		var s []float32
		if w.scales != nil {
			s = c.scratch.take(2 * (hi - lo) * w.scales.perRow)
			w.scales.decode(s, lo)
		}
		if alpha == 1 && !y.Add {
			w.run(dst[lo:], out, x, lo, hi, s)
		} else {
			tmp := c.scratch.take(a.N * (hi - lo))
			w.run(tmp, hi-lo, x, lo, hi, s)
			for i := range a.N {
				for j, v := range tmp[i*(hi-lo):][:hi-lo] {
					v *= alpha
					if y.Add {
						v += dst[i*out+lo+j]
					}
					dst[i*out+lo+j] = v
				}
			}
			c.scratch.give(tmp)
		}
		c.scratch.give(s)
	})
	c.scratch.give(mem)
	return true
}

// mvX are the rows of x in tiles of 8, 4, 2 and 1, interleaved by units.
type mvX struct {
	data  []float32
	n     int
	tiles []int // rows of each
}

var mvTileRows = [...]int{8, 4, 2, 1}

func mvTiles(n int) mvX {
	x := mvX{n: n}
	for _, m := range mvTileRows {
		for ; n >= m; n -= m {
			x.tiles = append(x.tiles, m)
		}
	}
	return x
}

// mvPrepare copies x, dropped and rounded, into tiles.
func (c *CPU) mvPrepare(x mvX, w *mvWeight, a *kernels.LinearArgs) {
	const floats = mvUnitBytes / 4
	src := rowsF32(f32(a.X), a.W.Cols)
	src.drop = newDropping(a.Drop, a.N)
	row := c.scratch.take(a.W.Cols)
	first := 0
	for _, m := range x.tiles {
		for i := range m {
			r := src.f[(first+i)*a.W.Cols:][:a.W.Cols]
			if src.drop != nil || a.BF16 {
				src.row(row, first+i, 0, a.W.Cols)
				if a.BF16 {
					roundBF16(row)
				}
				r = row
			}
			dst := x.data[(first*w.units+i)*floats:]
			if w.x.floats {
				for u := range w.units {
					copy(dst[u*m*floats:], r[u*mvUnit:][:mvUnit])
				}
				continue
			}
			mvQuantize(dst, m*mvUnitBytes, r, w.x)
		}
		first += m
	}
	c.scratch.give(row)
}

// run computes rows lo…hi of the weight: y[i][r-lo], rows ldy apart.
func (w *mvWeight) run(y []float32, ldy int, x mvX, lo, hi int, scales []float32) {
	const near = 16 // rows that stay in the cache while the tiles of x pass
	block := hi - lo
	if len(x.tiles) > 1 {
		block = near
	}
	for r := lo; r < hi; r += block {
		first, n := 0, min(block, hi-r)
		for _, m := range x.tiles {
			w.tile(y[first*ldy+r-lo:], ldy, x.data[first*w.units*mvUnitBytes/4:], m, r, n, scales, r-lo)
			first += m
		}
	}
}

// decode fills s with the scales of rows from row on and, in its second half,
// with -scale·zero.
func (p *mvScales) decode(s []float32, row int) {
	p.u.planeScales(s[:len(s)/2], s[len(s)/2:], (p.row0+row)*p.perRow)
}

// mvBook is the tables of a codebook type, high bytes plus 128 and low bytes,
// of codes times 32512.
func mvBook(k dtype.Kind) []byte {
	t := make([]byte, 32)
	for i, v := range blocks.CodeMap4(k) {
		q := int(math.RoundToEven(float64(v) * mvBookOne))
		t[i], t[16+i] = byte(q>>8+128), byte(q)
	}
	return t
}

// mvBookOne is 1 in the tables of a codebook.
const mvBookOne = 127 * 256

var mvNF4, mvFP4 = mvBook(dtype.NF4), mvBook(dtype.FP4)

// mvIQ4 is the codebook of IQ4_NL plus 128.
var mvIQ4 = func() []byte {
	t := make([]byte, 16)
	for i, v := range baseIQ4 {
		t[i] = byte(int(v) + 128)
	}
	return t
}()
