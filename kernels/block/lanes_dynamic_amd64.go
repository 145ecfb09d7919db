package block

import (
	"math"

	"github.com/tunekit/tunekit/kernels/block/internal/lanes"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// wholeLanes is how many of n elements fill vectors, and whether those have 16
// lanes, not 8.
func wholeLanes(n int) (whole int, wide bool) {
	switch l := level.Current(); {
	case l >= level.AVX512:
		return n &^ 15, true
	case l == level.AVX2:
		return n &^ 7, false
	}
	return 0, false
}

// topLanes is the largest magnitude of the first n of x.
func topLanes(x []float32) (top float32, n int) {
	n, wide := wholeLanes(len(x))
	if n == 0 {
		return 0, 0
	}
	var bits uint32
	if wide {
		lanes.DynamicTop16(n, &x[0], &bits)
	} else {
		lanes.DynamicTop8(n, &x[0], &bits)
	}
	return math.Float32frombits(bits), n
}

// encodeLanes writes the codes of the first n of x times r.
func (d *Dynamic) encodeLanes(codes []byte, x []float32, r float32) int {
	n, wide := wholeLanes(len(x))
	done := 0
	if wide && level.HasVBMI() && n >= 64 {
		done = n &^ 63
		lanes.DynamicEncode64(done, &x[0], &codes[0], &d.binades[0][0], &d.midBytes[0][0], r, d.shift)
	}
	switch {
	case n == done:
	case wide:
		lanes.DynamicEncode16(n-done, &x[done], &codes[done], &d.lines[0][0], &d.mid[0], r, d.shift)
	default:
		lanes.DynamicEncode8(n, &x[0], &codes[0], &d.lines[0][0], &d.mid[0], r, d.shift)
	}
	return n
}

// decodeLanes writes the values of the first n codes.
func (d *Dynamic) decodeLanes(x []float32, codes []byte, absmax float32) int {
	n, wide := wholeLanes(len(x))
	done := 0
	if wide && level.HasVBMI() && n >= 64 {
		done = n &^ 63
		lanes.DynamicDecode64(done, &x[0], &codes[0], &d.valueBytes[0][0], absmax)
	}
	switch {
	case n == done:
	case wide:
		lanes.DynamicDecode16(n-done, &x[done], &codes[done], &d.Values[0], absmax)
	default:
		lanes.DynamicDecode8(n, &x[0], &codes[0], &d.Values[0], absmax)
	}
	return n
}
