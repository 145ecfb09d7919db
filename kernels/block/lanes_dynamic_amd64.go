package block

import (
	"math"
	"math/bits"

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

// AdamW makes one step of the first whole blocks of 256 of p, with moments in codes, of
// Signed and of Unsigned, and the blocks' largest magnitudes, as kernels/cpu does on
// decoded ones, to the bit. k are Clip, Keep, Lerp, Beta2, 1-Beta2, Root, Eps and
// StepSize. It returns the number of blocks: 0 where the machine has no AVX-512 VBMI.
func AdamW(p, g []float32, m, v []byte, mtop, vtop []float32, k *[8]float32) int {
	const size = 256
	blocks := len(p) / size
	if level.Current() < level.AVX512 || !level.HasVBMI() || blocks == 0 {
		return 0
	}
	g, m, v, mtop, vtop = g[:blocks*size], m[:blocks*size], v[:blocks*size], mtop[:blocks], vtop[:blocks]
	var (
		next, last = new([2 * size]float32), new([2 * size]float32)
		spare      [2 * size]byte
		out        struct {
			near [2][size / 64]uint64
			tops [2]uint32
		}
		args [14]float32
	)
	copy(args[:], k[:])
	inverse := 1 / float64(k[5])
	args[12] = float32(inverse)
	args[13] = float32(inverse - float64(args[12]))
	lastm, lastv := spare[:size], spare[size:]
	for b := range blocks {
		at := b * size
		bm, bv := m[at:at+size], v[at:at+size]
		args[8], args[9] = mtop[b], vtop[b]
		lanes.DynamicAdam64(&p[at], &g[at], &bm[0], &bv[0], &next[0], &last[0], &lastm[0], &lastv[0], &wideBooks[0].border[0], &args[0], &out.near[0][0])
		Signed.settle(lastm, last[:size], args[10], out.near[0][:])
		Unsigned.settle(lastv, last[size:], args[11], out.near[1][:])
		mtop[b], vtop[b] = math.Float32frombits(out.tops[0]), math.Float32frombits(out.tops[1])
		next, last, lastm, lastv = last, next, bm, bv
		args[10], args[11] = 1/max(mtop[b], 1e-38), 1/max(vtop[b], 1e-38)
		if b == blocks-1 || max(out.tops[0], out.tops[1]) >= math.Float32bits(float32(math.Inf(1))) {
			Signed.Encode(bm, last[:size])
			Unsigned.Encode(bv, last[size:])
			lastm, lastv, args[10], args[11] = spare[:size], spare[size:], 0, 0
		}
	}
	return blocks
}

// settle looks the codes of those x·r up that near has a bit for.
func (d *Dynamic) settle(codes []byte, x []float32, r float32, near []uint64) {
	for i, w := range near {
		for ; w != 0; w &= w - 1 {
			at := 64*i + bits.TrailingZeros64(w)
			codes[at] = d.Code(float32(x[at] * r))
		}
	}
}

// topLanes is the largest magnitude of the first n of x.
func topLanes(x []float32) (top float32, n int) {
	n, wide := wholeLanes(len(x))
	if n == 0 {
		return 0, 0
	}
	var b uint32
	if wide {
		lanes.DynamicTop16(n, &x[0], &b)
	} else {
		lanes.DynamicTop8(n, &x[0], &b)
	}
	return math.Float32frombits(b), n
}

// encodeLanes writes the codes of the first n of x times r, finite ones.
func (d *Dynamic) encodeLanes(codes []byte, x []float32, r float32) int {
	n, wide := wholeLanes(len(x))
	done := 0
	if wide && level.HasVBMI() && n >= 64 {
		done = n &^ 63
		var near [16]uint64
		for at := 0; at < done; at += 64 * len(near) {
			end := min(at+64*len(near), done)
			if d == Signed {
				lanes.DynamicEncodeSigned64(end-at, &x[at], &codes[at], &d.wide.border[0], &near[0], &r)
			} else {
				lanes.DynamicEncodeUnsigned64(end-at, &x[at], &codes[at], &d.wide.border[0], &near[0], &r)
			}
			d.settle(codes[at:end], x[at:end], r, near[:(end-at)/64])
		}
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
		if d == Signed {
			lanes.DynamicDecodeSigned64(done, &x[0], &codes[0], &d.wide.border[0], absmax)
		} else {
			lanes.DynamicDecodeUnsigned64(done, &x[0], &codes[0], &d.wide.border[0], absmax)
		}
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
