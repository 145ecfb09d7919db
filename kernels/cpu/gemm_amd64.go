package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels/internal/level"
)

var f32AVX512 = &kernel{mr: 14, ku: 1, past: true,
	wide: []micro{nil, microF512x1x32, microF512x2x32, microF512x3x32, microF512x4x32, microF512x5x32, microF512x6x32, microF512x7x32,
		microF512x8x32, microF512x9x32, microF512x10x32, microF512x11x32, microF512x12x32, microF512x13x32, microF512x14x32},
	narrow: []micro{nil, microF512x1x16, microF512x2x16, microF512x3x16, microF512x4x16, microF512x5x16, microF512x6x16, microF512x7x16,
		microF512x8x16, microF512x9x16, microF512x10x16, microF512x11x16, microF512x12x16, microF512x13x16, microF512x14x16},
}

var bf16AVX512 = &kernel{mr: 14, ku: 2, past: true,
	wide: []micro{nil, microB512x1x32, microB512x2x32, microB512x3x32, microB512x4x32, microB512x5x32, microB512x6x32, microB512x7x32,
		microB512x8x32, microB512x9x32, microB512x10x32, microB512x11x32, microB512x12x32, microB512x13x32, microB512x14x32},
	narrow: []micro{nil, microB512x1x16, microB512x2x16, microB512x3x16, microB512x4x16, microB512x5x16, microB512x6x16, microB512x7x16,
		microB512x8x16, microB512x9x16, microB512x10x16, microB512x11x16, microB512x12x16, microB512x13x16, microB512x14x16},
}

var bf16AMX = &kernel{mr: stripRows, ku: 2, past: true, tiles: true}

var f32AVX2 = &kernel{mr: 6, ku: 1,
	wide: []micro{nil, halves(microF256x1x32), halves(microF256x2x32), halves(microF256x3x32),
		halves(microF256x4x32), halves(microF256x5x32), halves(microF256x6x32)},
	narrow: []micro{nil, microF256x1x16, microF256x2x16, microF256x3x16, microF256x4x16, microF256x5x16, microF256x6x16},
}

func kernelF32(l level.Level) *kernel {
	switch {
	case l >= level.AVX512:
		return f32AVX512
	case l == level.AVX2:
		return f32AVX2
	}
	return genericKernel
}

func kernelBF16(l level.Level) *kernel {
	switch l {
	case level.AVX512BF16:
		return bf16AVX512
	case level.AMX:
		return bf16AMX
	}
	return nil
}

// packFast packs straight from memory where there is a packer for it.
func (o *operand) packFast(dst []float32, stride, line, lines, p0, kc int, m mode, w *area) bool {
	l := level.Current()
	if l < level.AVX512 || o.drop != nil || o.ones {
		return l == level.AVX2 && o.packAVX2(dst, stride, line, lines, p0, kc, m)
	}
	r, c := line, p0
	if o.across {
		r, c = p0, line
	}
	at := r*o.ld + c
	switch {
	case o.f != nil && m != rounded:
		if o.across {
			packColsF32(dst, stride, lines, kc, o.f[at:], o.ld, m)
		} else {
			packRowsF32(dst, stride, lines, kc, o.f[at:], o.ld, m)
		}
	case o.h != nil: // rounding a bf16 changes nothing
		if o.across {
			packColsBF16(dst, stride, lines, kc, o.h[at:], o.ld, m)
		} else {
			packRowsBF16(dst, stride, lines, kc, o.h[at:], o.ld, m)
		}
	default:
		return o.packNF4(dst, stride, line, lines, p0, kc, m, w)
	}
	return true
}

// prefetch asks for columns [c, c+n) of memory rows r…r+rows of plain elements.
func (o *operand) prefetch(r, rows, c, n int) {
	if rows == 0 || level.Current() < level.AVX512 {
		return
	}
	at := r*o.ld + c
	switch {
	case o.f != nil:
		_ = o.f[at+(rows-1)*o.ld+n-1]
		prefetchRows(rows, (*byte)(unsafe.Pointer(&o.f[at])), 4*n, 4*o.ld)
	case o.h != nil:
		_ = o.h[at+(rows-1)*o.ld+n-1]
		prefetchRows(rows, (*byte)(unsafe.Pointer(&o.h[at])), 2*n, 2*o.ld)
	}
}

// packRows packs rows of f32 already rounded as mode asks.
func packRows(dst []float32, stride, lines, kc int, src []float32, ld int, m mode) {
	switch l := level.Current(); {
	case l >= level.AVX512:
		packRowsF32(dst, stride, lines, kc, src, ld, m)
	case l == level.AVX2 && packRowsAVX2(packRows256, dst, stride, lines, kc, src, ld):
	default:
		packRowsGeneric(dst, stride, lines, kc, src, ld)
	}
}

// packCols packs columns of f32 already rounded as mode asks.
func packCols(dst []float32, stride, lines, kc int, src []float32, ld int, m mode) {
	if level.Current() < level.AVX512 {
		packColsGeneric(dst, stride, lines, kc, src, ld)
		return
	}
	packColsF32(dst, stride, lines, kc, src, ld, m)
}

// checkRows panics unless a packer of rows stays inside dst and src. It writes
// whole blocks of 16 dwords, 16 lanes wide.
func checkRows[T any](dst []float32, stride, dwords int, src []T, rows, ld, n int) {
	_ = dst[(roundUp(dwords, 16)-1)*stride+max(stride, 16)-1]
	_ = src[(rows-1)*ld+n-1]
}

// checkColumns does the same for a packer of columns.
func checkColumns[T any](dst []float32, stride, dwords int, src []T, rows, ld, n int) {
	_ = dst[(dwords-1)*stride+max(stride, 16)-1]
	_ = src[(rows-1)*ld+n-1]
}

func packRowsF32(dst []float32, stride, lines, kc int, src []float32, ld int, m mode) {
	checkRows(dst, stride, ceilDiv(kc, m.ku()), src, lines, ld, kc)
	for r := 0; r < lines; r += 16 {
		if m == pairs {
			packRowsRound(kc, &src[r*ld], 4*ld, min(16, lines-r), &dst[r], stride)
		} else {
			packRowsDwords(2*kc, (*uint16)(unsafe.Pointer(&src[r*ld])), 4*ld, min(16, lines-r), &dst[r], stride)
		}
	}
}

func packRowsBF16(dst []float32, stride, lines, kc int, src []uint16, ld int, m mode) {
	checkRows(dst, stride, ceilDiv(kc, m.ku()), src, lines, ld, kc)
	for r := 0; r < lines; r += 16 {
		if m == pairs {
			packRowsDwords(kc, &src[r*ld], 2*ld, min(16, lines-r), &dst[r], stride)
		} else {
			packRowsWiden(kc, &src[r*ld], 2*ld, min(16, lines-r), &dst[r], stride)
		}
	}
}

func packColsF32(dst []float32, stride, lines, kc int, src []float32, ld int, m mode) {
	checkColumns(dst, stride, ceilDiv(kc, m.ku()), src, kc, ld, lines)
	f := copyColsF16
	switch {
	case m == pairs && stride == panelWidth:
		f = joinPairsF32
	case m == pairs:
		f = joinPairsF16
	case stride == panelWidth:
		f = copyColsF32
	}
	f(kc, &src[0], 4*ld, lines, &dst[0], stride)
}

func packColsBF16(dst []float32, stride, lines, kc int, src []uint16, ld int, m mode) {
	checkColumns(dst, stride, ceilDiv(kc, m.ku()), src, kc, ld, lines)
	f := copyColsB16
	switch {
	case m == pairs && stride == panelWidth:
		f = joinPairsB32
	case m == pairs:
		f = joinPairsB16
	case stride == panelWidth:
		f = copyColsB32
	}
	f(kc, &src[0], 2*ld, lines, &dst[0], stride)
}

// tile64 is products64 for 4 rows of each, where the level has it.
func tile64(k int, a []float64, lda int, b []float64, ldb int, c []float64, ldc int) bool {
	_, _, _ = a[3*lda+k-1], b[3*ldb+k-1], c[3*ldc+3]
	switch l := level.Current(); {
	case l >= level.AVX512:
		dotTile64(k, &a[0], lda, &b[0], ldb, &c[0], ldc)
	case l == level.AVX2 && k >= 4:
		dotTile64AVX2(k, a, lda, b, ldb, c, ldc)
	default:
		return false
	}
	return true
}

var (
	dotTilesF32  = [5]func(k int, x *float32, ldx int, w *float32, ldw int, out *float32){1: dotTileF1, 2: dotTileF2, 3: dotTileF3, 4: dotTileF4}
	dotTilesBF16 = [5]func(k int, x *float32, ldx int, w *uint16, ldw int, out *float32){1: dotTileB1, 2: dotTileB2, 3: dotTileB3, 4: dotTileB4}
)

// dotRows: y[i][j] = x[i]·w[j] for m rows of x and n ≤ 4 of w, k long. Rows of y are
// four apart and 16 floats lie behind them (dotRoom).
func dotRows(y []float32, m int, x []float32, ldx, k int, w []float32, ldw, n int) {
	if level.Current() < level.AVX512 || k == 0 {
		dotRowsVec(y, m, x, ldx, k, w, ldw, n)
		return
	}
	dotTiles(&dotTilesF32, y, m, x, ldx, k, w, ldw, n)
}

// dotRowsBF16 is dotRows for bf16 weights, where the level has it.
func dotRowsBF16(y []float32, m int, x []float32, ldx, k int, w []uint16, ldw, n int) bool {
	if level.Current() < level.AVX512 || k == 0 {
		return false
	}
	dotTiles(&dotTilesBF16, y, m, x, ldx, k, w, ldw, n)
	return true
}

// dotTiles goes through x four rows at a time. Fewer than four rows of w are
// taken one by one, each in the place of all four.
func dotTiles[T any](tiles *[5]func(int, *float32, int, *T, int, *float32), y []float32, m int, x []float32, ldx, k int, w []T, ldw, n int) {
	_, _, _ = x[(m-1)*ldx+k-1], w[(n-1)*ldw+k-1], y[4*m+15]
	for i := 0; i < m; i += 4 {
		rows := min(4, m-i)
		if n == 4 {
			tiles[rows](k, &x[i*ldx], ldx, &w[0], ldw, &y[4*i])
			continue
		}
		sums := y[4*m:][:16]
		for j := range n {
			tiles[rows](k, &x[i*ldx], ldx, &w[j*ldw], 0, &sums[0])
			for r := range rows {
				y[4*(i+r)+j] = sums[4*r]
			}
		}
	}
}
