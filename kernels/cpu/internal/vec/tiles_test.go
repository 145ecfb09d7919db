package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"
)

// halfRows is bf16 of normal numbers.
func halfRows(r *rand.Rand, n int) []uint16 {
	h := make([]uint16, n)
	narrowGeneric(h, normals(r, n))
	return h
}

// onTiles runs f at the levels that have tiles.
func onTiles(t *testing.T, f func(t *testing.T, r *rand.Rand)) {
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		if at().tiles == nil {
			t.Skip("no tiles")
		}
		f(t, r)
	})
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, w := range want {
		if g := math.Float32bits(got[i]); g != math.Float32bits(w) && !(got[i] != got[i] && w != w) {
			t.Fatalf("%s: element %d is %v (%#x), want %v (%#x)", what, i, got[i], g, w, math.Float32bits(w))
		}
	}
}

// Tiles give the bits of the description, for every number of rows and columns.
func TestTileStrip(t *testing.T) {
	onTiles(t, func(t *testing.T, r *rand.Rand) {
		for _, s := range [][3]int{{1, 16, 1}, {15, 32, 2}, {16, 48, 3}, {17, 64, 1}, {31, 96, 2}, {32, 80, 5}, {33, 16, 2}, {70, 112, 3}} {
			m, n, steps, pieces := s[0], s[1], s[2], 1+2*r.IntN(2)
			a, bspan := pairsOf(r, (m+15)/16*steps*pieces*256), steps*16*32+16
			b, ldc := pairsOf(r, (n+31)/32*bspan), n+7
			for i := range 40 { // what is no ordinary number
				odd := []float32{pairOf(float32(math.Inf(1)), 1), pairOf(float32(math.NaN()), 2), math.Float32frombits(0x00018001), pairOf(0x1p-80, 0x1p-70), pairOf(0x1p127, -0x1p127)}
				if i%7 == 0 {
					a[r.IntN(len(a))], b[r.IntN(len(b))] = odd[r.IntN(5)], odd[r.IntN(5)]
				}
			}
			for _, acc := range []bool{false, true} {
				got := normals(r, m*ldc)
				got[0] = 0x1p-130
				want := append([]float32(nil), got...)
				TileStrip(got, ldc, a, b, bspan, m, n, steps, pieces, acc, b)
				tiles := tiles{m: m, n: n, k: steps, a: &a[0], aRow: 64, aStep: 1024 * pieces, aTile: 1024 * pieces * steps,
					b: &b[0], bRow: 128, bStep: 2048, bCols: 4 * bspan, c: &want[0], cRow: 4 * ldc}
				if acc {
					tiles.acc = 1
				}
				tilesGeneric(&tiles, pieces)
				sameBits(t, fmt.Sprint(s, pieces, acc), got, want)
			}
		}
	})
}

func TestTileRows(t *testing.T) {
	onTiles(t, func(t *testing.T, r *rand.Rand) {
		for _, rows := range []int{1, 7, 16} {
			for k := 1; k < 100; k += 1 + k/3 {
				ld, size := k+3, ((k-1)/32+1)*256+16
				h, f := halfRows(r, rows*ld), normals(r, rows*ld)
				f[0] = 0x1p-130
				got, want := normals(r, size), make([]float32, size)
				copy(want, got)
				TileRows(got, h, ld, rows, k)
				tileRowsGeneric(want, h, ld, rows, k)
				sameBits(t, fmt.Sprint("bf16 ", rows, k), got, want)
				TileRowsF32(got, f, ld, rows, k)
				tileRowsF32Generic(want, f, ld, rows, k)
				sameBits(t, fmt.Sprint("f32 ", rows, k), got, want)
			}
		}
	})
}

// The pieces of a number are it, whatever it is but a denormal.
func TestTilePieces(t *testing.T) {
	onTiles(t, func(t *testing.T, r *rand.Rand) {
		for _, rows := range []int{1, 7, 16} {
			for k := 1; k < 100; k += 1 + k/3 {
				ld, size := k+3, ((k-1)/32+1)*3*256
				f := normals(r, rows*ld)
				for i, v := range []float32{math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(-1)), 0x1.fffffep-100, 0} {
					f[i%(k+2)] = v
				}
				got, want := normals(r, size), make([]float32, size)
				copy(want, got)
				TilePieces(got, f, ld, rows, k)
				tilePiecesGeneric(want, f, ld, rows, k)
				sameBits(t, fmt.Sprint(rows, k), got, want)
				for row := range rows {
					for i, v := range f[row*ld:][:k] {
						sum := 0.0
						for piece := range 3 {
							even, odd := unpair(got[(i/32*3+piece)*256+row*16+i%32/2])
							sum += float64([2]float32{even, odd}[i%2])
						}
						if sum != float64(v) {
							t.Fatalf("%v: the sum of its pieces is %v", v, sum)
						}
					}
				}
			}
		}
	})
}

func TestFinishRows(t *testing.T) {
	onTiles(t, func(t *testing.T, r *rand.Rand) {
		for _, n := range []int{1, 16, 31, 48, 100} {
			for how := FinishSet; how <= FinishPast; how++ {
				const rows = 5
				ldx, ldc := n+3, (n+31)&^15
				x, room := normals(r, rows*ldx), normals(r, rows*ldc+16)
				at := 0
				for uintptr(unsafe.Pointer(&room[at]))%64 != 0 {
					at++
				}
				got := room[at:][:(rows-1)*ldc+n]
				want := append([]float32(nil), got...)
				FinishRows(got, ldc, x, ldx, rows, n, how, 1.7)
				finishGeneric(want, ldc, x, ldx, rows, n, how, 1.7)
				near(t, fmt.Sprint(n, how), got, want, 1e-6)
			}
		}
	})
}
