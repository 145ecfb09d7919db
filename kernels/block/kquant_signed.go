package block

// Q3_K and Q6_K: codes around zero, no minima.

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
		ds := headQ3(dst, d, &ls)
		for j := range 16 {
			requantizeSigned(l[16*j:16*j+16], b[16*j:16*j+16], ds[j], 4)
		}
		packHighs(dst[:32], &l, 2)
		packQuads(dst[32:96], &l)
	}
}

// headQ3 writes the scales of Q3_K and returns them as they will be read.
func headQ3(dst []byte, d float32, ls *[16]uint8) (ds [16]float32) {
	putF16(dst[108:], d)
	s := dst[96:108]
	clear(s)
	for j, v := range ls {
		s[j%8] |= v & 15 << (j / 8 * 4)
		s[8+j%4] |= v >> 4 << (j / 4 * 2)
	}
	d = f16at(dst[108:])
	for j := range ds {
		ds[j] = float32(d * float32(scaleQ3(s, j)))
	}
	return ds
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
	return roundQ3(ls, &scales)
}

// roundQ3 stores scales relative to the extreme one.
func roundQ3(ls *[16]uint8, scales *[16]float32) float32 {
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
		ds, ok := headQ6(dst, &scales)
		if !ok {
			continue
		}
		for j, d := range ds {
			requantizeSigned(l[16*j:16*j+16], b[16*j:16*j+16], d, 32)
		}
		packQ6(dst, &l)
	}
}

// headQ6 writes the scales of Q6_K and returns them as they will be read. A
// block without any is all zeros and needs nothing more.
func headQ6(dst []byte, scales *[16]float32) (ds [16]float32, ok bool) {
	clear(dst[:210])
	amax, top := extreme(scales[:])
	if amax < groupMaxEps {
		return ds, false
	}
	iscale := -128 / top
	putF16(dst[208:], 1/iscale)
	d := f16at(dst[208:])
	for j, v := range scales {
		s := int8(min(127, nearest(float32(iscale*v))))
		dst[192+j] = byte(s)
		ds[j] = float32(d * float32(s))
	}
	return ds, true
}

func packQ6(dst []byte, l *[256]uint8) {
	for h := range 2 {
		b, ql, qh := l[128*h:128*h+128], dst[64*h:64*h+64], dst[128+32*h:160+32*h]
		for i := 0; i < 32; i += 8 {
			b0, b1, b2, b3 := le.Uint64(b[i:]), le.Uint64(b[i+32:]), le.Uint64(b[i+64:]), le.Uint64(b[i+96:])
			le.PutUint64(ql[i:], b0&bytes0f|b2&bytes0f<<4)
			le.PutUint64(ql[i+32:], b1&bytes0f|b3&bytes0f<<4)
			le.PutUint64(qh[i:], b0>>4&bytes03|b1>>4&bytes03<<2|b2>>4&bytes03<<4|b3>>4&bytes03<<6)
		}
	}
}
