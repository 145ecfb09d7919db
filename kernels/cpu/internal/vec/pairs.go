package vec

import (
	"fmt"
	"math"
)

// Attention in bf16. Where a sum runs over k, two values of k lie in one dword,
// the first in its low half; slices of such pairs are []float32 whose numbers
// mean nothing.

// pairTable is what a level has of it.
type pairTable struct {
	matmul matmulFunc
	soften func(p []uint16, s []float32, ld, m, n int, rows []SoftRow, scale float32)
	grad   func(pp, dsp []float32, ds []uint16, s, d []float32, ld, m, n int, rows []GradRow, scale, slope float32)
	join   func(dst []float32, ldd int, src []uint16, lds, rows, cols int)
}

var genericPairs = pairTable{matmulPairsGeneric, softenGeneric, softenGradGeneric, joinRowsGeneric}

func atPairs() *pairTable {
	if p := at().pairs; p != nil {
		return p
	}
	return &genericPairs
}

// MatMulPairs is MatMul of bf16 with sums in float32; k counts pairs.
func MatMulPairs(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	multiply(atPairs().matmul, c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
}

// Live says which of up to 128 columns of a row count.
type Live [2]uint64

// LiveFrom is columns lo … hi.
func LiveFrom(lo, hi int) Live {
	under := func(n int) uint64 { // the lowest n bits
		if n >= 64 {
			return math.MaxUint64
		}
		return 1<<max(n, 0) - 1
	}
	return Live{under(hi) &^ under(lo), under(hi-64) &^ under(lo-64)}
}

func (l *Live) has(j int) bool { return l[j/64]>>(j%64)&1 != 0 }

// SoftRow is a row of an online softmax (Milakov, Gimelshein 2018,
// arXiv:1805.02867). Scores are in powers of two.
type SoftRow struct {
	Live
	Top    float32 // largest score so far; at first lower than any
	Sum    float32 // Σ 2^(score - Top)
	Shrink float32 // what earlier weights must be multiplied by
}

// Soften takes n more columns into m rows: p = 2^(scale·s - Top) in bf16, 0 where
// a column is not live, with Top, Sum and Shrink brought up to date. p and s have
// ld columns, n ≤ ld is a multiple of 32. The weights' relative error before
// rounding is below 1e-5; Sum is of those.
func Soften(p []uint16, s []float32, ld, m, n int, rows []SoftRow, scale float32) {
	if m == 0 || n == 0 {
		return
	}
	if n%32 != 0 || n > 128 || len(rows) < m || !holds(s, ld, m, n) || len(p) < (m-1)*ld+n {
		panic(fmt.Sprintf("vec: soften %d×%d of %d/%d, %d", m, n, len(s), ld, len(p)))
	}
	atPairs().soften(p, s, ld, m, n, rows, scale)
}

// GradRow is a row of the gradient of a softmax.
type GradRow struct {
	Live
	LSE   float32 // log₂ Σ 2^score
	Delta float32
}

// SoftenGrad makes the weights p = 2^(scale·s - LSE) again and the gradients
// ds = p·(d-Delta)·slope, both 0 where a column is not live: pp and dsp are p and
// ds as pairs of rows, ds is by rows. m is even, n ≤ ld a multiple of 16.
func SoftenGrad(pp, dsp []float32, ds []uint16, s, d []float32, ld, m, n int, rows []GradRow, scale, slope float32) {
	if m == 0 || n == 0 {
		return
	}
	if m%2 != 0 || n%16 != 0 || n > 128 || len(rows) < m || !holds(s, ld, m, n) || !holds(d, ld, m, n) ||
		len(ds) < (m-1)*ld+n || !holds(pp, ld, m/2, n) || !holds(dsp, ld, m/2, n) {
		panic(fmt.Sprintf("vec: softengrad %d×%d of %d/%d", m, n, len(s), ld))
	}
	atPairs().grad(pp, dsp, ds, s, d, ld, m, n, rows, scale, slope)
}

// JoinRows makes pairs of rows 2j and 2j+1 of src; beside an odd last one stand
// zeros. cols is a multiple of 16.
func JoinRows(dst []float32, ldd int, src []uint16, lds, rows, cols int) {
	if rows == 0 || cols == 0 {
		return
	}
	if cols%16 != 0 || len(src) < (rows-1)*lds+cols || !holds(dst, ldd, (rows+1)/2, cols) {
		panic(fmt.Sprintf("vec: joinrows %d×%d of %d/%d in %d/%d", rows, cols, len(src), lds, len(dst), ldd))
	}
	whole := rows &^ 1
	if whole > 0 {
		atPairs().join(dst, ldd, src, lds, whole, cols)
	}
	if whole < rows {
		joinRowsGeneric(dst[whole/2*ldd:], ldd, src[whole*lds:], lds, 1, cols)
	}
}

func pairOf(lo, hi float32) float32 {
	var h [2]uint16
	narrowGeneric(h[:], []float32{lo, hi})
	return math.Float32frombits(uint32(h[0]) | uint32(h[1])<<16)
}

func unpair(x float32) (lo, hi float32) {
	u := math.Float32bits(x)
	return math.Float32frombits(u << 16), math.Float32frombits(u &^ 0xffff)
}

func matmulPairsGeneric(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	for i := range m {
		row := c[i*ldc:][:n]
		if !acc {
			clear(row)
		}
		for p := range k {
			at := i*lda + p
			if ta {
				at = p*lda + i
			}
			a0, a1 := unpair(a[at])
			for j, v := range b[p*ldb:][:n] {
				b0, b1 := unpair(v)
				row[j] += float32(a0*b0) + float32(a1*b1)
			}
		}
	}
}

func softenGeneric(p []uint16, s []float32, ld, m, n int, rows []SoftRow, scale float32) {
	for i := range m {
		r := &rows[i]
		row, out := s[i*ld:][:n], make([]float32, n)
		top := r.Top
		for j, v := range row {
			if r.has(j) {
				top = max(top, scale*v)
			}
		}
		r.Shrink = exp2(r.Top - top)
		r.Top = top
		r.Sum *= r.Shrink
		for j, v := range row {
			if r.has(j) {
				out[j] = exp2(scale*v - top)
				r.Sum += out[j]
			}
		}
		narrowGeneric(p[i*ld:][:n], out)
	}
}

func softenGradGeneric(pp, dsp []float32, ds []uint16, s, d []float32, ld, m, n int, rows []GradRow, scale, slope float32) {
	for i := 0; i < m; i += 2 {
		for j := range n {
			var p, g [2]float32
			for h := range 2 {
				if r := &rows[i+h]; r.has(j) {
					p[h] = exp2(scale*s[(i+h)*ld+j] - r.LSE)
					g[h] = p[h] * (d[(i+h)*ld+j] - r.Delta) * slope
				}
				narrowGeneric(ds[(i+h)*ld+j:][:1], g[h:h+1])
			}
			pp[i/2*ld+j], dsp[i/2*ld+j] = pairOf(p[0], p[1]), pairOf(g[0], g[1])
		}
	}
}

func exp2(x float32) float32 { return float32(math.Exp2(float64(x))) }

func joinRowsGeneric(dst []float32, ldd int, src []uint16, lds, rows, cols int) {
	for i := 0; i < rows; i += 2 {
		for j := range cols {
			u := uint32(src[i*lds+j])
			if i+1 < rows {
				u |= uint32(src[(i+1)*lds+j]) << 16
			}
			dst[i/2*ldd+j] = math.Float32frombits(u)
		}
	}
}
