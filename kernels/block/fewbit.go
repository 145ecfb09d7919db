package block

import "math"

// The types whose codes are signs, trits or 4-bit floats under a scale that
// comes from the values alone: Q1_0, Q2_0, TQ1_0, TQ2_0, MXFP4 and NVFP4. Their
// encoders make no use of importance.

// trit is v rounded to -1, 0 or 1, halves away from zero, for |v| < 1.5. What is
// beyond comes of a scale too small to invert, and is 0.
func trit(v float32) int {
	switch {
	case v >= 0.5 && v < 1.5:
		return 1
	case v <= -0.5 && v > -1.5:
		return -1
	}
	return 0
}

// Q1_0: f16 d, 128 signs: 1 is d, 0 is -d. A unit is 32 elements.
func decodeQ1_0(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for i, s := range b[2+4*u:][:len(dst)/8] {
		le.PutUint64(r.values[8*i:], bytes01)
		r.signs[i], r.scales[i] = ^s, d
	}
	r.expand(dst)
}

// encodeQ1_0 keeps the mean magnitude.
func encodeQ1_0(dst []byte, x, _ []float32) {
	for ; len(x) > 0; x, dst = x[128:], dst[18:] {
		var sum float32
		clear(dst[2:18])
		for i, v := range x[:128] {
			sum += abs32(v)
			if v >= 0 {
				dst[2+i/8] |= 1 << (i % 8)
			}
		}
		putF16(dst, sum/128)
	}
}

// Q2_0: f16 d, 64 2-bit codes that are one more than the value. A unit is 32
// elements.
func decodeQ2_0(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for i, q := range b[2+8*u:][:len(dst)/4] {
		le.PutUint32(r.values[4*i:], pairs[q])
		r.scales[i/2] = d
	}
	r.expand(dst)
}

// pairs are the four values of a byte of Q2_0, a byte each.
var pairs = func() (t [256]uint32) {
	for b := range t {
		for i := range 4 {
			t[b] |= uint32(uint8(b>>(2*i)&3-1)) << (8 * i)
		}
	}
	return t
}()

func encodeQ2_0(dst []byte, x, _ []float32) {
	for ; len(x) > 0; x, dst = x[64:], dst[18:] {
		d, _ := extreme(x[:64])
		putF16(dst, d)
		id := inverse(d)
		clear(dst[2:18])
		for i, v := range x[:64] {
			dst[2+i/4] |= byte(trit(float32(v*id))+1) << (i % 4 * 2)
		}
	}
}

// TQ2_0: 64 bytes of four 2-bit codes 32 elements apart, one more than the
// value, f16 d. A unit is 32 elements.
func decodeTQ2_0(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b[64:])
	for i := range len(dst) / 8 {
		at := 32*u + 8*i
		q := le.Uint64(b[at/128*32+at%32:]) >> (at % 128 / 32 * 2) & bytes03
		le.PutUint64(r.values[8*i:], ((q|bytes80)-bytes01)^bytes80) // less one in every byte
		r.scales[i] = d
	}
	r.expand(dst)
}

func encodeTQ2_0(dst []byte, x, _ []float32) {
	for ; len(x) > 0; x, dst = x[256:], dst[66:] {
		d, _ := extreme(x[:256])
		putF16(dst[64:], d)
		id := inverse(d)
		for j := range 64 {
			var q byte
			for n := range 4 {
				q |= byte(trit(float32(x[j/32*128+j%32+32*n]*id))+1) << (2 * n)
			}
			dst[j] = q
		}
	}
}

// Powers of three: a byte of trits is multiplied by one to bring a trit to the top.
var pow3 = [5]uint8{1, 3, 9, 27, 81}

// tritPlace is where element i of a block of TQ1_0 lies: which byte, and which
// trit of it. 160 elements lie in 32 bytes of five, 80 in 16 bytes of five, and
// the last 16 in 4 bytes of four.
func tritPlace(i int) (at, trit int) {
	switch {
	case i < 160:
		return i % 32, i / 32
	case i < 240:
		return 32 + i%16, i/16 - 10
	}
	return 48 + i%4, i/4 - 60
}

// TQ1_0: 52 bytes of trits, see tritPlace, f16 d. A byte is a fraction in base
// three, rounded up to 1/256. A unit is 16 elements.
func decodeTQ1_0(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b[52:])
	for k := range len(dst) / 16 {
		r.scales[2*k], r.scales[2*k+1] = d, d
		y := r.values[16*k:][:16]
		if u+k == 15 {
			for i := range y {
				y[i] = tritOf(b[48+i%4], pow3[i/4])
			}
			continue
		}
		at, n := tritPlace(16 * (u + k))
		for i, q := range b[at:][:16] {
			y[i] = tritOf(q, pow3[n])
		}
	}
	r.expand(dst)
}

// tritOf is the value of a trit of a byte, by the power of three that brings it to the top.
func tritOf(b, power uint8) uint8 { return uint8(uint(b*power)*3>>8) - 1 }

func encodeTQ1_0(dst []byte, x, _ []float32) {
	for ; len(x) > 0; x, dst = x[256:], dst[54:] {
		d, _ := extreme(x[:256])
		putF16(dst[52:], d)
		id := inverse(d)
		var sums [52]uint
		for i, v := range x[:256] {
			at, n := tritPlace(i)
			sums[at] += uint(trit(float32(v*id))+1) * uint(pow3[4-n])
		}
		for i, s := range sums {
			dst[i] = byte((s*256 + 242) / 243)
		}
	}
}

// fp4Values are twice the values of 4-bit floats (E2M1).
var fp4Values = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// encodeFP4 sets the codes of the values of d·fp4Values nearest to x, the smaller
// magnitude of two. What rounds to zero has code 0.
func encodeFP4(l []uint8, x []float32, amax, d float32) {
	code := fp4Code
	if amax > 16*d || 12*d > math.MaxFloat32 {
		code = fp4Far
	}
	for i, v := range x {
		c := code(abs32(v), d)
		if v < 0 && c > 0 {
			c |= 8
		}
		l[i] = c
	}
}

// fp4Code is the code of a magnitude up to 16·d where all values are finite: the
// number of midpoints below it.
func fp4Code(x, d float32) (c uint8) {
	if x > 3.5*d {
		c = 4
	}
	if x > fp4Mid[c+1]*d {
		c += 2
	}
	if x > fp4Mid[c]*d {
		c++
	}
	return c
}

var fp4Mid = [7]float32{0.5, 1.5, 2.5, 3.5, 5, 7, 10}

// fp4Far compares the distances themselves: far beyond all values, or where some
// are infinite, the first of the least is not always the nearest.
func fp4Far(x, d float32) (c uint8) {
	best := x
	for i := uint8(1); i < 8; i++ {
		if e := abs32(float32(fp4Values[i]*d) - x); e < best {
			best, c = e, i
		}
	}
	return c
}

// halfE8M0 is half of the power of two that an E8M0 byte stands for.
func halfE8M0(e uint8) float32 {
	if e < 2 {
		return math.Float32frombits(0x00200000 << e)
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// MXFP4: a power of two, 16 bytes of codes j and j+16.
func decodeMXFP4(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[1:])
	d := halfE8M0(b[0])
	for i, v := range q {
		y[i] = fp4Values[v&15] * d
		y[i+16] = fp4Values[v>>4] * d
	}
}

func encodeMXFP4(dst []byte, x, _ []float32) {
	var l [32]uint8
	for ; len(x) > 0; x, dst = x[32:], dst[17:] {
		amax, _ := extreme(x[:32])
		dst[0] = 0
		if amax > 0 {
			// The logarithm is rounded before it is cut, so that what lies just
			// below a power of two may count as that.
			log := float32(math.Log2(float64(amax)))
			dst[0] = uint8(max(math.Floor(float64(log))-2+127, 0))
		}
		encodeFP4(l[:], x[:32], amax, halfE8M0(dst[0]))
		packNibbles(dst[1:], &l)
	}
}

// halfUE4M3 is half of what an unsigned float8 e4m3 stands for, whose one NaN
// is 0. The sign bit does not count.
func halfUE4M3(b uint8) float32 {
	exp, man := int(b>>3&15), float32(b&7)
	switch {
	case b == 0x7f:
		return 0
	case exp == 0:
		return man * 0x1p-10
	}
	return (1 + man/8) * math.Float32frombits(uint32(exp-8+127)<<23)
}

// ue4m3 rounds x to an unsigned float8 e4m3, halves up. What does not stay below
// 256 becomes 448.
func ue4m3(x float32) uint8 {
	if !(x > 0) {
		return 0
	}
	u := math.Float32bits(min(x, 448))
	exp := int(u>>23) - 127 + 7
	if exp <= 0 { // subnormal: steps of 2^-9
		return uint8(min(int(float32(x*512)+0.5), 7))
	}
	b := uint32(exp)<<3 + u>>20&7 + u>>19&1 // the mantissa carries into the exponent
	if b >= 0x78 {
		return 0x7e
	}
	return uint8(b)
}

// NVFP4: the scales of four times 16 elements, and for each 8 bytes of codes j
// and j+8. A unit is 16 elements.
func decodeNVFP4(dst []float32, b []byte, u int) {
	for ; len(dst) > 0; dst, u = dst[16:], u+1 {
		y, q := (*[16]float32)(dst), (*[8]byte)(b[4+8*u:])
		d := halfUE4M3(b[u])
		for i, v := range q {
			y[i] = fp4Values[v&15] * d
			y[i+8] = fp4Values[v>>4] * d
		}
	}
}

// SplitNVFP4 moves a block of NVFP4, 36 bytes of 64 elements, to what a matrix of
// F4E2M1 with scales of F8E4M3 for 16 columns has: 32 bytes of codes and 4 of scales,
// of the same values. The byte of GGUF that is no number is 0.
func SplitNVFP4(codes, scales, b []byte) {
	for u, s := range b[:4] {
		if s &= 0x7f; s == 0x7f {
			s = 0
		}
		scales[u] = s
		q, to := b[4+8*u:][:8], codes[8*u:][:8]
		for i := range 4 {
			to[i] = q[2*i]&15 | q[2*i+1]<<4
			to[i+4] = q[2*i]>>4 | q[2*i+1]&0xf0
		}
	}
}

// JoinNVFP4 is SplitNVFP4 backwards: the block b of 36 bytes has the values of 32 bytes of
// codes and 4 of scales. GGUF has no sign of a scale, which its codes take over. It reports
// false where a scale is no number, which a GGUF cannot hold.
func JoinNVFP4(b, codes, scales []byte) bool {
	for u, s := range scales[:4] {
		if s&0x7f == 0x7f {
			return false
		}
		b[u] = s & 0x7f
		sign := s >> 7 * 0x88
		q, from := b[4+8*u:][:8], codes[8*u:][:8]
		for i := range 4 {
			lo, hi := from[i]^sign, from[i+4]^sign
			q[2*i], q[2*i+1] = lo&15|hi<<4, lo>>4|hi&0xf0
		}
	}
	return true
}

// JoinMXFP4 makes the block b of MXFP4, 17 bytes of 32 elements, of 16 bytes of codes, two a
// byte, the first in the low half, and a power of two. It reports false where that is no number.
func JoinMXFP4(b, codes []byte, scale byte) bool {
	b[0] = scale
	for i := range 8 {
		lo, hi := codes[i], codes[i+8]
		b[1+2*i], b[2+2*i] = lo&15|hi<<4, lo>>4|hi&0xf0
	}
	return scale != 255
}

func encodeNVFP4(dst []byte, x, _ []float32) {
	var l [16]uint8
	for ; len(x) > 0; x, dst = x[64:], dst[36:] {
		for s := range 4 {
			b := x[16*s : 16*s+16]
			amax, _ := extreme(b)
			dst[s] = ue4m3(amax / 6)
			encodeFP4(l[:], b, amax, halfUE4M3(dst[s]))
			for i := range 8 {
				dst[4+8*s+i] = l[i] | l[i+8]<<4
			}
		}
	}
}
