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

// AdamW makes one step of p with moments in codes, of Signed and of Unsigned, and their
// largest magnitudes, as kernels/cpu does on decoded ones, to the bit. k are Clip, Keep,
// Lerp, Beta2, 1-Beta2, Root, Eps and StepSize; next is for its use. It reports whether
// it did: all lengths are 256, and the machine has AVX-512 VBMI.
func AdamW(p, g []float32, m, v []byte, mtop, vtop *float32, k *[8]float32, next *[2][256]float32) bool {
	const n = len(next[0])
	if level.Current() < level.AVX512 || !level.HasVBMI() || len(p) != n || len(g) != n || len(m) != n || len(v) != n {
		return false
	}
	var tops [2]uint32
	lanes.DynamicAdam64(n, &p[0], &g[0], &m[0], &v[0], &next[0][0], &next[1][0], &Signed.valueBytes[0][0], &Unsigned.valueBytes[0][0], &k[0], &tops[0], *mtop, *vtop)
	*mtop, *vtop = math.Float32frombits(tops[0]), math.Float32frombits(tops[1])
	Signed.encodeLanes(m, next[0][:], 1/max(*mtop, 1e-38))
	Unsigned.encodeLanes(v, next[1][:], 1/max(*vtop, 1e-38))
	return true
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
