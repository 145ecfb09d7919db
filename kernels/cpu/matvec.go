package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// A product of few rows of x is bound by reading the weight. Its kernels read
// it once, in order and as it lies in memory (the file's own pages), asking for
// it ahead of time, and decode it in registers. Each result is a sum of its own
// whose order depends on the number of columns alone, so neither the rows of x
// beside it nor the cutting of the weight changes a bit. From five rows on float32
// weights have kernels of their own, and from five or nine on those of bf16: see thin.
//
// The arithmetic is f32. Where LinearArgs.Fast allows it, quantized weights are
// multiplied as integers with x rounded to 8 bits.

// mvUnit is the number of columns such kernels take at a time.
const mvUnit = 64

// A prepared row of x is blocks of so many floats: of 64 values, or what the
// int8 kernels read of 64, or of 256 for the K types, or for TQ2_0.
const (
	mvUnitFloats    = 64
	mvBlockFloats   = 96
	mvShiftedFloats = 144
)

// The bytes of a weight that a task reads. It cannot be interrupted.
const (
	mvLeast = 4 << 10
	mvMost  = 4 << 20
)

// mvWeight is a weight as a kernel reads it.
type mvWeight struct {
	rows, units int
	data        []byte // from the first row on
	rowBytes    int
	kernel      *mvKernel
	most        int // rows of x in a tile
	x           mvRounding
	scales      *mvScales // nil: in the blocks
	table       []byte    // of a codebook
}

// mvCached is how a weight was read last; nil: no kernel reads it so.
type mvCached struct {
	key mvKey
	w   *mvWeight
}

type mvKey struct {
	row0, rows, of, cols int
	bf16, fast           bool
	level                level.Level
}

// mvOf returns the weight of a as a kernel reads it, or nil.
func mvOf(a *kernels.LinearArgs) *mvWeight {
	b := a.W.Buffer.(*Buf)
	b.live()
	key := mvKey{a.W.Row0, a.W.Rows, a.W.Of, a.W.Cols, a.BF16, a.Fast, level.Current()}
	if c := b.few.Load(); c != nil && c.key == key {
		return c.w
	}
	w := newMVWeight(a)
	b.few.Store(&mvCached{key, w})
	return w
}

// mvRounding says how x is prepared.
type mvRounding struct {
	floats bool    // not rounded
	split  bool    // codes of even columns before those of odd ones
	k      bool    // for the K types
	order  mvOrder // of codes for these, where they are not in that of columns
	offset int     // zero point of the weight's codes
	factor float32 // of the results
}

// mvOrder is an order of codes and what lies beside them.
type mvOrder uint8

// The orders of codes: see kernels/cpu/gen.
const (
	mvColumns mvOrder = iota
	mvTurn
	mvPairs
	mvShifts
)

// block is the floats of a block of a prepared row.
func (r mvRounding) block() int {
	switch {
	case r.order == mvShifts:
		return mvShiftedFloats
	case r.k:
		return mvBlockFloats
	}
	return mvUnitFloats
}

// xFloats is the floats of a prepared row.
func (w *mvWeight) xFloats() int { return w.xAt(w.units) }

// xAt is the floats of a prepared row before a unit.
func (w *mvWeight) xAt(unit int) int {
	if w.x.k {
		return unit / 4 * w.x.block()
	}
	return unit * mvUnitFloats
}

// at is the bytes of a row of the weight before a unit.
func (w *mvWeight) at(unit int) int { return w.rowBytes * unit / w.units }

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
	w := mvOf(a)
	if w == nil {
		return false
	}
	x := mvX{tiles: mvTilesOf[w.most][a.N]}
	var mem []float32
	if p := f32(a.X); w.x.floats && !w.x.split && a.N == 1 && a.Drop == nil && !a.BF16 {
		x.data = p
	} else {
		mem = c.scratch.take(a.N * w.xFloats())
		x.data = mem
		c.mvPrepare(x, w, a)
	}
	dst, out := f32(y.Buffer), a.W.Rows
	alpha := orOne(a.Alpha)
	par.Split(out, mvLeast/w.rowBytes, max(1, mvMost/w.rowBytes), func(lo, hi int) {
		var s []float32
		if w.scales != nil {
			s = c.scratch.take(2 * (hi - lo) * w.scales.perRow)
			w.scales.decode(s, lo)
		}
		if alpha == 1 && !y.Add {
			c.mvRun(w, dst[lo:], out, x, lo, hi, s)
		} else {
			tmp := c.scratch.take(a.N * (hi - lo))
			c.mvRun(w, tmp, hi-lo, x, lo, hi, s)
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
	tiles []int // rows of each
}

var mvTileRows = [...]int{8, 4, 2, 1}

// mvTilesOf are the tiles of every number of rows, by the most that one takes.
var mvTilesOf = func() (t [9][skinnyRows + 1][]int) {
	for most := range t {
		for rows := range t[most] {
			n := rows
			for _, m := range mvTileRows {
				for ; m <= most && n >= m; n -= m {
					t[most][rows] = append(t[most][rows], m)
				}
			}
		}
	}
	return t
}()

// mvPrepare copies x, dropped and rounded, into tiles.
func (c *CPU) mvPrepare(x mvX, w *mvWeight, a *kernels.LinearArgs) {
	src := rowsF32(f32(a.X), a.W.Cols)
	src.drop = newDropping(a.Drop, a.N)
	var row []float32
	if src.drop != nil || a.BF16 {
		row = c.scratch.take(a.W.Cols)
	}
	first := 0
	for _, m := range x.tiles {
		for i := range m {
			r := src.f[(first+i)*a.W.Cols:][:a.W.Cols]
			if row != nil {
				src.row(row, first+i, 0, a.W.Cols)
				if a.BF16 {
					roundBF16(row)
				}
				r = row
			}
			dst := x.data[first*w.xFloats()+i*w.x.block():]
			if w.x.floats && w.x.split {
				mvSplit(dst, m*mvUnit, r)
				continue
			}
			if w.x.floats {
				for u := range w.units {
					copy(dst[u*m*mvUnit:], r[u*mvUnit:][:mvUnit])
				}
				continue
			}
			mvQuantize(dst, m*w.x.block(), r, w.x)
		}
		first += m
	}
	c.scratch.give(row)
}

// mvPart is some units of the columns. acc has the sums of the units before,
// where mode is odd, and takes those that include these, where it is 2 or 3.
type mvPart struct {
	first, units int
	acc          []float32
	mode         int
}

// Rows of the weight that stay in a cache while tiles of x pass, and the sums of
// such a row.
const (
	mvNear = 16
	mvSums = 16 * 16
)

// mvAhead is how many bytes before their use kernels ask for those of a weight.
const mvAhead = 3072

// mvNearX is how many units of a row of x, times its rows in the tile, stay in
// the nearest cache. It is a multiple of 32: parts have whole blocks of 256.
const mvNearX = 96

// mvRun computes rows lo…hi of the weight: y[i][r-lo], rows ldy apart.
func (c *CPU) mvRun(w *mvWeight, y []float32, ldy int, x mvX, lo, hi int, scales []float32) {
	if len(x.tiles) == 1 && x.tiles[0]*w.units <= mvNearX {
		w.ask(lo*w.rowBytes, mvAhead)
		w.tile(y, ldy, x.data, x.tiles[0], lo, hi-lo, scales, 0, mvPart{units: w.units})
		return
	}
	acc := c.scratch.take(mvNear * mvSums)
	parts := 0
	for _, m := range x.tiles {
		parts += (m*w.units + mvNearX - 1) / mvNearX
	}
	for r := lo; r < hi; r += mvNear {
		first, n := 0, min(mvNear, hi-r)
		ahead, each := (r+mvNear)*w.rowBytes, mvNear*w.rowBytes/parts+1
		for _, m := range x.tiles {
			for at := 0; at < w.units; at += mvNearX / m {
				w.ask(ahead, each)
				ahead += each
				part := mvPart{first: at, units: min(mvNearX/m, w.units-at), acc: acc}
				if at > 0 {
					part.mode = 1
				}
				if at+part.units < w.units {
					part.mode += 2
				}
				w.tile(y[first*ldy+r-lo:], ldy, x.data[first*w.xFloats():], m, r, n, scales, r-lo, part)
			}
			first += m
		}
	}
	c.scratch.give(acc)
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
