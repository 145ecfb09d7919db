package cpu

import "github.com/tunekit/tunekit/kernels/internal/level"

var f32NEON = &kernel{mr: 6, ku: 1,
	wide: []micro{nil, halves(microNEON1x32), halves(microNEON2x32), halves(microNEON3x32),
		halves(microNEON4x32), halves(microNEON5x32), halves(microNEON6x32)},
	narrow: []micro{nil, microNEON1x16, microNEON2x16, microNEON3x16, microNEON4x16, microNEON5x16, microNEON6x16},
}

func kernelF32(l level.Level) *kernel {
	if l == level.NEON {
		return f32NEON
	}
	return genericKernel
}

// packFast packs f32 straight from memory.
func (o *operand) packFast(dst []float32, stride, line, lines, p0, kc int, m mode, _ *area) bool {
	if o.f == nil || o.drop != nil || m != exact || level.Current() != level.NEON {
		return false
	}
	if o.across {
		packColsGeneric(dst, stride, lines, kc, o.f[p0*o.ld+line:], o.ld)
		return true
	}
	packRows(dst, stride, lines, kc, o.f[line*o.ld+p0:], o.ld, m)
	return true
}

// packRows packs rows of f32 already rounded as mode asks. Four lines at a time
// are written four wide, the last ones first: what they write past the stride
// belongs to the next dword's first lines, which come after.
func packRows(dst []float32, stride, lines, kc int, src []float32, ld int, _ mode) {
	whole := kc &^ 3
	if level.Current() != level.NEON {
		whole = 0
	}
	if whole > 0 {
		_, _ = dst[(whole-1)*stride+roundUp(lines, 4)-1], src[(lines-1)*ld+whole-1]
		for r := (lines - 1) &^ 3; r >= 0; r -= 4 {
			packRows128(whole, &src[r*ld], 4*ld, min(4, lines-r), &dst[r], stride)
		}
	}
	if whole < kc {
		packRowsGeneric(dst[whole*stride:], stride, lines, kc-whole, src[whole:], ld)
	}
}

// roundBF16 rounds every element to the nearest bf16, ties to even.
func roundBF16(x []float32) {
	n := len(x) &^ 3
	if level.Current() != level.NEON {
		n = 0
	}
	if n > 0 {
		roundBF16x4(n, &x[0], &x[0])
	}
	roundBF16Generic(x[n:])
}

// roundF16 rounds every element to the nearest half, ties to even.
func roundF16(x []float32) { roundF16Generic(x) }

// widenBF16 is dst = src as f32.
func widenBF16(dst []float32, src []uint16) {
	n := len(src) &^ 7
	if level.Current() != level.NEON {
		n = 0
	}
	if n > 0 {
		_ = dst[n-1]
		widenBF16x8(n, &src[0], &dst[0])
	}
	widenBF16Generic(dst[n:], src[n:])
}
