package block

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
		h := dst[16:48]
		clear(h)
		for i, v := range l {
			h[i%32] |= v >> 4 & 1 << (i / 32)
		}
		packPairs(dst[48:176], &l)
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
		for j := range out {
			out[j] = lo[j]&15 | hi[j]<<4
		}
	}
}

// superAffine32 writes d, dmin and the twelve bytes of scales and minima of
// eight sub-blocks of 32, and the codes 0..top.
func superAffine32(dst []byte, l *[256]uint8, x, w []float32, top int32, t tries) {
	var scales, mins [8]float32
	var ls, lm [8]uint8
	var d, dmin float32
	if w == nil {
		plain32(l, &scales, &mins, x, top, t)
		d, dmin = roundScales(ls[:], lm[:], scales[:], mins[:], 63)
	} else {
		var sum [8]float32
		weighted(l[:], scales[:], mins[:], sum[:], x, w, 32, top, 2)
		d = searchPositive(ls[:], scales[:], sum[:], 63)
		dmin = searchPositive(lm[:], mins[:], sum[:], 63)
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
		requantize(l[32*j:32*j+32], x[32*j:32*j+32], float32(d*float32(sc)), float32(dmin*float32(m)), top)
	}
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
	var s float32
	for _, v := range x {
		s += float32(v * v)
	}
	return float32(float32(factor*s) / 256)
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
		var scales, mins [16]float32
		var ls, lm [16]uint8
		var d, dmin float32
		if w == nil {
			var weight [16]float32
			for j := range 16 {
				for i, v := range b[16*j : 16*j+16] {
					weight[i] = abs32(v)
				}
				scales[j], mins[j] = searchAffine(l[16*j:], b[16*j:16*j+16], weight[:], 3, q2Tries)
			}
			d, dmin = roundScales(ls[:], lm[:], scales[:], mins[:], 15)
		} else {
			var sum [16]float32
			weighted(l[:], scales[:], mins[:], sum[:], b, w[at:], 16, 3, 1)
			d = searchPositive(ls[:], scales[:], sum[:], 15)
			dmin = searchPositive(lm[:], mins[:], sum[:], 15)
		}
		putF16(dst[80:], d)
		putF16(dst[82:], dmin)
		d, dmin = f16at(dst[80:]), f16at(dst[82:])
		for j := range 16 {
			dst[j] = ls[j] | lm[j]<<4
			requantize(l[16*j:16*j+16], b[16*j:16*j+16], float32(d*float32(dst[j]&15)), float32(dmin*float32(dst[j]>>4)), 3)
		}
		packQuads(dst[16:80], &l)
	}
}

// packQuads stores 2-bit codes: byte i of each half holds elements i, i+32,
// i+64 and i+96.
func packQuads(q []byte, l *[256]uint8) {
	for h := range 2 {
		b := l[128*h : 128*h+128]
		for i := range 32 {
			q[32*h+i] = b[i]&3 | b[i+32]&3<<2 | b[i+64]&3<<4 | b[i+96]&3<<6
		}
	}
}

func encodeQ3_K(dst []byte, x, w []float32) {
	for at := 0; at < len(x); at, dst = at+256, dst[110:] {
		b := x[at : at+256]
		var l [256]uint8
		var ls [16]uint8
		var d float32
		if w == nil {
			d = plainQ3(&l, &ls, b)
		} else {
			d = weightedQ3(&l, &ls, b, w[at:at+256])
		}
		putF16(dst[108:], d)
		s := dst[96:108]
		clear(s)
		for j, v := range ls {
			s[j%8] |= v & 15 << (j / 8 * 4)
			s[8+j%4] |= v >> 4 << (j / 4 * 2)
		}
		d = f16at(dst[108:])
		for j := range 16 {
			requantizeSigned(l[16*j:16*j+16], b[16*j:16*j+16], float32(d*float32(scaleQ3(s, j))), 4)
		}
		h := dst[:32]
		clear(h)
		for i, v := range l {
			h[i%32] |= v >> 2 & 1 << (i / 32)
		}
		packQuads(dst[32:96], &l)
	}
}

func requantizeSigned(l []uint8, x []float32, d float32, half int32) {
	if d == 0 {
		return
	}
	l = l[:len(x)]
	for i, v := range x {
		l[i] = uint8(half + min(max(nearest(v/d), -half), half-1))
	}
}

func plainQ3(l *[256]uint8, ls *[16]uint8, x []float32) float32 {
	var scales [16]float32
	for j := range scales {
		scales[j] = descendQ3(l[16*j:16*j+16], x[16*j:16*j+16])
	}
	_, at := extreme(scales[:])
	if at == 0 {
		return 0
	}
	iscale := -32 / at
	for j, v := range scales {
		ls[j] = uint8(32 + min(max(int32(int8(nearest(float32(iscale*v)))), -32), 31))
	}
	return 1 / iscale
}

// descendQ3 finds codes 0..7 (zero at 4) by coordinate descent, weights x².
func descendQ3(l []uint8, x []float32) float32 {
	const half = 4
	amax, at := extreme(x)
	if amax < groupMaxEps {
		clear(l)
		return 0
	}
	iscale := float32(-half) / at
	var q [16]int32
	var sumLX, sumL2 float32
	for i, v := range x {
		q[i] = min(max(nearest(float32(iscale*v)), -half), half-1)
		w, f := float32(v*v), float32(q[i])
		sumLX += float32(float32(w*v) * f)
		sumL2 += float32(float32(w*f) * f)
	}
	for range 5 {
		changed := false
		for i, v := range x {
			w, f := float32(v*v), float32(q[i])
			lx := sumLX - float32(float32(w*v)*f)
			if !(lx > 0) {
				continue
			}
			l2 := sumL2 - float32(float32(w*f)*f)
			n := min(max(nearest(float32(v*l2)/lx), -half), half-1)
			if n == q[i] {
				continue
			}
			f = float32(n)
			lx += float32(float32(w*v) * f)
			l2 += float32(float32(w*f) * f)
			if l2 > 0 && float32(float32(lx*lx)*sumL2) > float32(float32(sumLX*sumLX)*l2) {
				q[i], sumLX, sumL2 = n, lx, l2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	for i := range l {
		l[i] = uint8(q[i] + half)
	}
	if sumL2 > 0 {
		return sumLX / sumL2
	}
	return 0
}

func weightedQ3(l *[256]uint8, ls *[16]uint8, x, w []float32) float32 {
	sigma2 := superSquare(x, 2)
	var scales, sum [16]float32
	var weight [16]float32
	for j := range scales {
		b := x[16*j : 16*j+16]
		weigh(weight[:], b, w[16*j:], sigma2)
		for _, v := range weight {
			sum[j] += v
		}
		scales[j] = searchSigned(l[16*j:16*j+16], b, weight[:], 4)
	}
	return searchSigned(ls[:], scales[:], sum[:], 32)
}

func encodeQ6_K(dst []byte, x, w []float32) {
	for at := 0; at < len(x); at, dst = at+256, dst[210:] {
		b := x[at : at+256]
		var l [256]uint8
		var scales [16]float32
		for j := range scales {
			var weight []float32
			if w != nil {
				weight = w[at+16*j : at+16*j+16]
			}
			scales[j] = searchSigned(l[16*j:16*j+16], b[16*j:16*j+16], weight, 32)
		}
		clear(dst[:210])
		amax, top := extreme(scales[:])
		if amax < groupMaxEps {
			continue
		}
		iscale := -128 / top
		putF16(dst[208:], 1/iscale)
		d := f16at(dst[208:])
		for j, v := range scales {
			s := int8(min(127, nearest(float32(iscale*v))))
			dst[192+j] = byte(s)
			requantizeSigned(l[16*j:16*j+16], b[16*j:16*j+16], float32(d*float32(s)), 32)
		}
		packQ6(dst, &l)
	}
}

func packQ6(dst []byte, l *[256]uint8) {
	for h := range 2 {
		b, ql, qh := l[128*h:128*h+128], dst[64*h:64*h+64], dst[128+32*h:160+32*h]
		for i := range qh {
			ql[i] = b[i]&15 | b[i+64]<<4
			ql[i+32] = b[i+32]&15 | b[i+96]<<4
			qh[i] = b[i]>>4 | b[i+32]>>4<<2 | b[i+64]>>4<<4 | b[i+96]>>4<<6
		}
	}
}
