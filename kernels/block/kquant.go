package block

import "encoding/binary"

// Codes are packed eight at a time.
const (
	bytes01 = 0x0101010101010101
	bytes03 = 0x0303030303030303
	bytes0f = 0x0f0f0f0f0f0f0f0f
	bytes80 = 0x8080808080808080
)

var le = binary.LittleEndian

// The k-quants: super-blocks of 256 elements with one or two f16 scales and
// quantized scales (and minima) for sub-blocks of 16 or 32.

// Q4_K and Q5_K differ in the number of levels and in the fifth bit's place.
func encodeQ4_K(dst []byte, x, w []float32) {
	for at := 0; at < len(x); at, dst = at+256, dst[144:] {
		var l [256]uint8
		superAffine32(dst, &l, x[at:at+256], part(w, at), 15, q4Tries)
		packPairs(dst[16:144], &l)
	}
}

func encodeQ5_K(dst []byte, x, w []float32) {
	for at := 0; at < len(x); at, dst = at+256, dst[176:] {
		var l [256]uint8
		superAffine32(dst, &l, x[at:at+256], part(w, at), 31, q5Tries)
		packHighs(dst[16:48], &l, 4)
		packPairs(dst[48:176], &l)
	}
}

// packHighs stores a bit of every code: bit j of byte i is that of element 32j+i.
func packHighs(h []byte, l *[256]uint8, bit int) {
	for i := 0; i < 32; i += 8 {
		var b uint64
		for j := range 8 {
			b |= le.Uint64(l[32*j+i:]) >> bit & bytes01 << j
		}
		le.PutUint64(h[i:], b)
	}
}

// part is the importance from column at on, nil when there is none.
func part(w []float32, at int) []float32 {
	if w == nil {
		return nil
	}
	return w[at : at+256]
}

// packPairs stores the low nibbles of sub-blocks 2i and 2i+1 in 32 bytes.
func packPairs(q []byte, l *[256]uint8) {
	for i := range 4 {
		out, lo, hi := q[32*i:32*i+32], l[64*i:64*i+32], l[64*i+32:64*i+64]
		for j := 0; j < 32; j += 8 {
			le.PutUint64(out[j:], le.Uint64(lo[j:])&bytes0f|le.Uint64(hi[j:])&bytes0f<<4)
		}
	}
}

// superAffine32 writes d, dmin and the twelve bytes of scales and minima of
// eight sub-blocks of 32, and the codes 0..top.
func superAffine32(dst []byte, l *[256]uint8, x, w []float32, top int32, t tries) {
	var scales, mins, sum [8]float32
	if w == nil {
		plain32(l, &scales, &mins, x, top, t)
	} else {
		weighted(l[:], scales[:], mins[:], sum[:], x, w, 32, top, 2)
	}
	ds, ms := head32(dst, scales[:], mins[:], sum[:], w != nil, top)
	for j := range 8 {
		requantize(l[32*j:32*j+32], x[32*j:32*j+32], ds[j], ms[j], top)
	}
}

// head32 writes what superAffine32 does, less the codes, and returns the scales
// and minima as they will be read. sum are the weights of weighted sub-blocks.
func head32(dst []byte, scales, mins, sum []float32, weighted bool, top int32) (ds, ms [8]float32) {
	var ls, lm [8]uint8
	var d, dmin float32
	if !weighted {
		d, dmin = roundScales(ls[:], lm[:], scales, mins, 63)
	} else {
		d = searchPositive(ls[:], scales, sum, 63)
		dmin = searchPositive(lm[:], mins, sum, 63)
		if top == 31 {
			for j := range ls {
				ls[j], lm[j] = min(ls[j], 63), min(lm[j], 63)
			}
		}
	}
	putF16(dst, d)
	putF16(dst[2:], dmin)
	s := dst[4:16]
	for j := range 4 {
		s[j], s[j+4] = ls[j], lm[j]
	}
	for j := 4; j < 8; j++ {
		s[j+4] = ls[j]&15 | lm[j]<<4
		s[j-4] |= ls[j] >> 4 << 6
		s[j] |= lm[j] >> 4 << 6
	}
	d, dmin = f16at(dst), f16at(dst[2:])
	for j := range 8 {
		sc, m := scaleMinK4(s, j)
		ds[j], ms[j] = float32(d*float32(sc)), float32(dmin*float32(m))
	}
	return ds, ms
}

// plain32 searches eight sub-blocks with weights sqrt(mean square) + |x|.
func plain32(l *[256]uint8, scales, mins *[8]float32, x []float32, top int32, t tries) {
	var weight [32]float32
	for j := range 8 {
		b := x[32*j : 32*j+32]
		av := sqrt32(meanSquare(b))
		for i, v := range b {
			weight[i] = av + abs32(v)
		}
		scales[j], mins[j] = searchAffine(l[32*j:], b, weight[:], top, t)
	}
}

// weighted searches sub-blocks of n elements with weights
// importance·sqrt(factor·mean square of the super-block + x²); sum receives
// each sub-block's total weight.
func weighted(l []uint8, scales, mins, sum, x, w []float32, n int, top int32, factor float32) {
	sigma2 := superSquare(x, factor)
	var weight [32]float32
	for j := range scales {
		at := j * n
		weigh(weight[:n], x[at:], w[at:], sigma2)
		sum[j] = 0
		for _, v := range weight[:n] {
			sum[j] += v
		}
		scales[j], mins[j] = searchAffine(l[at:], x[at:at+n], weight[:n], top, importanceTries)
	}
}

// superSquare is factor·Σx²/256.
func superSquare(x []float32, factor float32) float32 {
	return float32(float32(factor*sumSquares(x)) / 256)
}

func sumSquares(x []float32) (s float32) {
	for _, v := range x {
		s += float32(v * v)
	}
	return s
}

// roundScales stores scales and minima relative to the largest of each.
func roundScales(ls, lm []uint8, scales, mins []float32, top float32) (d, dmin float32) {
	var hs, hm float32
	for j := range scales {
		hs, hm = max(hs, scales[j]), max(hm, mins[j])
	}
	var is, im float32
	if hs > 0 {
		is = top / hs
	}
	if hm > 0 {
		im = top / hm
	}
	for j := range scales {
		ls[j] = min(uint8(top), uint8(nearest(float32(is*scales[j]))))
		lm[j] = min(uint8(top), uint8(nearest(float32(im*mins[j]))))
	}
	return hs / top, hm / top
}

// requantize sets the codes for the scale d and minimum m that were stored; a
// scale of zero keeps them.
func requantize(l []uint8, x []float32, d, m float32, top int32) {
	if d == 0 {
		return
	}
	l = l[:len(x)]
	for i, v := range x {
		l[i] = uint8(min(max(nearest((v+m)/d), 0), top))
	}
}

func encodeQ2_K(dst []byte, x, w []float32) {
	for at := 0; at < len(x); at, dst = at+256, dst[84:] {
		b := x[at : at+256]
		var l [256]uint8
		var scales, mins, sum [16]float32
		if w == nil {
			var weight [16]float32
			for j := range 16 {
				for i, v := range b[16*j : 16*j+16] {
					weight[i] = abs32(v)
				}
				scales[j], mins[j] = searchAffine(l[16*j:], b[16*j:16*j+16], weight[:], 3, q2Tries)
			}
		} else {
			weighted(l[:], scales[:], mins[:], sum[:], b, w[at:], 16, 3, 1)
		}
		ds, ms := head16(dst, scales[:], mins[:], sum[:], w != nil)
		for j := range 16 {
			requantize(l[16*j:16*j+16], b[16*j:16*j+16], ds[j], ms[j], 3)
		}
		packQuads(dst[16:80], &l)
	}
}

// head16 writes the scales and minima of Q2_K and returns them as they will be read.
func head16(dst []byte, scales, mins, sum []float32, weighted bool) (ds, ms [16]float32) {
	var ls, lm [16]uint8
	var d, dmin float32
	if !weighted {
		d, dmin = roundScales(ls[:], lm[:], scales, mins, 15)
	} else {
		d = searchPositive(ls[:], scales, sum, 15)
		dmin = searchPositive(lm[:], mins, sum, 15)
	}
	putF16(dst[80:], d)
	putF16(dst[82:], dmin)
	d, dmin = f16at(dst[80:]), f16at(dst[82:])
	for j := range 16 {
		dst[j] = ls[j] | lm[j]<<4
		ds[j], ms[j] = float32(d*float32(ls[j])), float32(dmin*float32(lm[j]))
	}
	return ds, ms
}

// packQuads stores 2-bit codes: byte i of each half holds elements i, i+32,
// i+64 and i+96.
func packQuads(q []byte, l *[256]uint8) {
	for h := range 2 {
		b, out := l[128*h:128*h+128], q[32*h:32*h+32]
		for i := 0; i < 32; i += 8 {
			le.PutUint64(out[i:], le.Uint64(b[i:])&bytes03|le.Uint64(b[i+32:])&bytes03<<2|
				le.Uint64(b[i+64:])&bytes03<<4|le.Uint64(b[i+96:])&bytes03<<6)
		}
	}
}
