package vec

import (
	"fmt"
	"math"
	"unsafe"
)

// Products of bf16 on tiles, which level AMX has. A tile is 16 rows of 16 dwords;
// a step is the 32 values of k of a tile of A, or the 16 pairs of them of a tile of B.

// tileTable is what a level has of it.
type tileTable struct {
	product, product3 func(t *tiles)
	rowsF32           func(dst []float32, src []float32, ld, rows, k int)
	rows              func(dst []float32, src []uint16, ld, rows, k int)
	pieces            func(dst []float32, src []float32, ld, rows, k int)
	finish            func(c []float32, ldc int, x []float32, ldx, rows, n, how int, alpha float32)
}

var genericTiles = tileTable{func(t *tiles) { tilesGeneric(t, 1) }, func(t *tiles) { tilesGeneric(t, 3) }, tileRowsF32Generic, tileRowsGeneric, tilePiecesGeneric, finishGeneric}

func atTiles() *tileTable {
	if t := at().tiles; t != nil {
		return t
	}
	return &genericTiles
}

// tiles is C [m, n] = A·B, or += it, as it lies in memory; distances are in bytes.
type tiles struct {
	m, n, k            int      // rows; columns, a multiple of 16; steps, at least 1
	a                  *float32 // rows of pairs
	aRow, aStep, aTile int      // between rows, between steps, between 16 rows
	b                  *float32 // rows of pairs of rows
	bRow, bStep, bCols int      // between pairs of k, between steps, between 32 columns
	c                  *float32
	cRow, acc          int      // between rows; 1: C is added to
	next               *float32 // what is asked for ahead, nextStep bytes a step and 32 columns
	nextStep           int
}

// TileStrip is C [m, n] = A·B, or with acc C += A·B, of bf16. A is tiles as TileRows
// makes them, [⌈m/16⌉][steps][16][16] pairs; B is panels of 32 columns, each
// [16·steps][32] pairs, bspan apart; rows of C are ldc apart and n is a multiple of 16.
//
// The arithmetic is that of TDPBF16PS (Intel SDM volume 2): the products of a step
// with even k and those with odd k are summed from 0 on by fused multiply-adds, and
// both sums together added to C. Denormal operands and results are zeros and a NaN
// stays one, as with VDPBF16PS.
//
// With three pieces A is what TilePieces makes, [⌈m/16⌉][steps][3][16][16] pairs, and
// each of them is multiplied with B.
func TileStrip(c []float32, ldc int, a, b []float32, bspan, m, n, steps, pieces int, acc bool, next []float32) {
	if m < 1 || n < 1 || n%16 != 0 || steps < 1 || !holds(c, ldc, m, n) || len(a) < (m+15)/16*steps*pieces*256 || pieces != 1 && pieces != 3 || len(b) < (n-1)/32*bspan+(16*steps-1)*32+(n-1)%32+1 {
		panic(fmt.Sprintf("vec: tilestrip %d×%d, %d steps of %d and %d/%d in %d/%d", m, n, steps, len(a), len(b), bspan, len(c), ldc))
	}
	t := tiles{m: m, n: n, k: steps, a: &a[0], aRow: 64, aStep: 1024 * pieces, aTile: 1024 * pieces * steps,
		b: &b[0], bRow: 128, bStep: 2048, bCols: 4 * bspan, c: &c[0], cRow: 4 * ldc}
	if acc {
		t.acc = 1
	}
	t.next = t.a
	if len(next) > 0 {
		t.next, t.nextStep = &next[0], 256*pieces
	}
	if pieces == 1 {
		atTiles().product(&t)
	} else {
		atTiles().product3(&t)
	}
}

// TileRows makes a tile of A of up to 16 rows of k values, ld apart:
// dst[k/32][row][k%32] in bf16, zeros after the last.
func TileRows(dst []float32, src []uint16, ld, rows, k int) {
	checkTileRows(dst, len(src), ld, rows, k)
	atTiles().rows(dst, src, ld, rows, k)
}

// TileRowsF32 is TileRows of float32, rounded as Narrow rounds but for denormals,
// which become zeros.
func TileRowsF32(dst []float32, src []float32, ld, rows, k int) {
	checkTileRows(dst, len(src), ld, rows, k)
	atTiles().rowsF32(dst, src, ld, rows, k)
}

// TilePieces is TileRows of float32 as three numbers of 8 bits each, cut off and not
// rounded, whose sum is the value: dst[k/32][piece][row][k%32]. Of what is not finite
// the second and the third are 0, and denormals are, too.
func TilePieces(dst []float32, src []float32, ld, rows, k int) {
	checkTileRows(dst, len(src), ld, rows, k)
	_ = dst[((k-1)/32*3+2)*256+rows*16-1]
	atTiles().pieces(dst, src, ld, rows, k)
}

func checkTileRows(dst []float32, src, ld, rows, k int) {
	if rows < 1 || rows > 16 || k < 1 || len(dst) < (k-1)/32*256+rows*16 || src < (rows-1)*ld+k {
		panic(fmt.Sprintf("vec: tilerows %d×%d of %d/%d in %d", rows, k, src, ld, len(dst)))
	}
}

// What FinishRows does with c.
const (
	FinishSet  = iota
	FinishAdd  // add to it
	FinishPast // set it past the caches: it and its rows begin at multiples of 64 bytes
)

// FinishRows is c = alpha·x, or c += alpha·x, for rows of n values. Fused at the
// assembly levels.
func FinishRows(c []float32, ldc int, x []float32, ldx, rows, n, how int, alpha float32) {
	if rows < 1 || n < 1 || !holds(c, ldc, rows, n) || !holds(x, ldx, rows, n) {
		panic(fmt.Sprintf("vec: finishrows %d×%d of %d/%d in %d/%d", rows, n, len(x), ldx, len(c), ldc))
	}
	atTiles().finish(c, ldc, x, ldx, rows, n, how, alpha)
}

// flushed is x, or zero where it is a denormal.
func flushed(x float32) float32 {
	if math.Abs(float64(x)) < 0x1p-126 {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

// fused is a·b + c rounded once, for a and b of 8 bits.
func fused(a, b, c float32) float32 {
	return flushed(float32(float64(flushed(a))*float64(flushed(b)) + float64(c)))
}

func word(p *float32, bytes int) *float32 { return (*float32)(unsafe.Add(unsafe.Pointer(p), bytes)) }

func tilesGeneric(t *tiles, pieces int) {
	for i := range t.m {
		for j := range t.n {
			at := word(t.c, i*t.cRow+4*j)
			sum := float32(0)
			if t.acc != 0 {
				sum = flushed(*at)
			}
			for k := range t.k {
				for piece := range pieces {
					var even, odd float32
					for p := range 16 {
						a0, a1 := unpair(*word(t.a, i/16*t.aTile+i%16*t.aRow+k*t.aStep+1024*piece+4*p))
						b0, b1 := unpair(*word(t.b, j/32*t.bCols+j%32*4+k*t.bStep+p*t.bRow))
						even, odd = fused(a0, b0, even), fused(a1, b1, odd)
					}
					sum = flushed(sum + flushed(even+odd))
				}
			}
			*at = sum
		}
	}
}

func tileRowsF32Generic(dst []float32, src []float32, ld, rows, k int) {
	x := make([]float32, (k+31)&^31)
	for r := range rows {
		clear(x[copy(x, src[r*ld:][:k]):])
		for i := 0; i < len(x); i += 2 {
			dst[i/32*256+r*16+i%32/2] = pairOf(flushed(x[i]), flushed(x[i+1]))
		}
	}
}

func tilePiecesGeneric(dst []float32, src []float32, ld, rows, k int) {
	var x [16 * 32]float32
	for i := 0; i < k; i += 32 {
		n := min(32, k-i)
		for piece := range 3 {
			for r := range rows {
				for j, v := range src[r*ld+i:][:n] {
					x[r*32+j] = pieceOf(v, piece)
				}
			}
			tileRowsF32Generic(dst[(i/32*3+piece)*256:], x[:], 32, rows, n)
		}
	}
}

// pieceOf is a piece of v: see TilePieces.
func pieceOf(v float32, piece int) float32 {
	high := func(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ 0xffff) }
	for range piece {
		if v -= high(v); v != v {
			v = 0
		}
	}
	return high(v)
}

func tileRowsGeneric(dst []float32, src []uint16, ld, rows, k int) {
	for r := range rows {
		for i := 0; i < (k+31)&^31; i += 2 {
			var u uint32
			if i < k {
				u = uint32(src[r*ld+i])
			}
			if i+1 < k {
				u |= uint32(src[r*ld+i+1]) << 16
			}
			dst[i/32*256+r*16+i%32/2] = math.Float32frombits(u)
		}
	}
}

func finishGeneric(c []float32, ldc int, x []float32, ldx, rows, n, how int, alpha float32) {
	for r := range rows {
		to := c[r*ldc:][:n]
		for i, v := range x[r*ldx:][:n] {
			if v = float32(alpha * v); how == FinishAdd {
				v += to[i]
			}
			to[i] = v
		}
	}
}
