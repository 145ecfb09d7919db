package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels/internal/level"
)

// packAVX2 packs f32 and bf16 straight from memory.
func (o *operand) packAVX2(dst []float32, stride, line, lines, p0, kc int, m mode) bool {
	if o.drop != nil || o.ones {
		return false
	}
	switch {
	case o.across && o.f != nil && m == exact:
		packColsGeneric(dst, stride, lines, kc, o.f[p0*o.ld+line:], o.ld)
		return true
	case o.across:
	case o.f != nil && m == exact:
		return packRowsAVX2(packRows256, dst, stride, lines, kc, o.f[line*o.ld+p0:], o.ld)
	case o.f != nil:
		return packRowsAVX2(packRowsRound256, dst, stride, lines, kc, o.f[line*o.ld+p0:], o.ld)
	case o.h != nil: // rounding a bf16 changes nothing
		return packRowsAVX2(packRowsWiden256, dst, stride, lines, kc, o.h[line*o.ld+p0:], o.ld)
	}
	return false
}

// packRowsAVX2 runs a packer of up to 8 rows and 8 dwords; the last 8 of k may
// overlap those before. Fewer than 8 are left to plain Go.
func packRowsAVX2[T float32 | uint16](f func(k int, src *T, ldb, rows int, dst *float32, stride int), dst []float32, stride, lines, kc int, src []T, ld int) bool {
	if kc < 8 {
		return false
	}
	_, _ = dst[(kc-1)*stride+max(stride, 8)-1], src[(lines-1)*ld+kc-1]
	whole, size := kc&^7, int(unsafe.Sizeof(src[0]))
	for r := 0; r < lines; r += 8 {
		rows := min(8, lines-r)
		f(whole, &src[r*ld], size*ld, rows, &dst[r], stride)
		if k := kc - 8; whole < kc {
			f(8, &src[r*ld+k], size*ld, rows, &dst[k*stride+r], stride)
		}
	}
	return true
}

// roundAVX2 rounds whole vectors and returns how many elements that is.
func roundAVX2(x []float32) int {
	n := len(x) &^ 7
	if n > 0 {
		roundBF16x8(n, &x[0], &x[0])
	}
	return n
}

// roundF16 rounds every element to the nearest half, ties to even.
func roundF16(x []float32) {
	n := len(x) &^ 7
	if level.Current() == level.Generic {
		n = 0
	}
	if n > 0 {
		roundF16x8(n, &x[0], &x[0])
	}
	roundF16Generic(x[n:])
}

// widenBF16 is dst = src as f32.
func widenBF16(dst []float32, src []uint16) {
	n := len(src) &^ 7
	if level.Current() == level.Generic {
		n = 0
	}
	if n > 0 {
		_ = dst[n-1]
		widenBF16x8(n, &src[0], &dst[0])
	}
	widenBF16Generic(dst[n:], src[n:])
}

// dotTile64AVX2 leaves the last k % 4 terms to plain Go.
func dotTile64AVX2(k int, a []float64, lda int, b []float64, ldb int, c []float64, ldc int) {
	whole := k &^ 3
	for i := 0; i < 4; i += 2 {
		dotTile256(whole, &a[i*lda], lda, &b[0], ldb, &c[i*ldc], ldc)
	}
	for p := whole; p < k; p++ {
		for i := range 4 {
			for j := range 4 {
				c[i*ldc+j] += a[i*lda+p] * b[j*ldb+p]
			}
		}
	}
}
