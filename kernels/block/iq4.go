package block

// IQ4_NL and IQ4_XS: codes of a fixed table of 16 unevenly spaced values.

// iq4Mid are the midpoints of iq4Values, then a value above all.
var iq4Mid = [16]float32{-115.5, -93.5, -74, -57, -42, -28.5, -16, -4.5, 7, 19, 31.5, 45.5, 61, 79, 101, 1e9}

// iq4Below is the number of midpoints surely below v, by the integer part i-128
// that v+128 has once rounded, which may lie just above v. At most one midpoint
// is left to compare with.
var iq4Below = func() (t [256]uint8) {
	for i := range t {
		for float32(i-128)-0.25 >= iq4Mid[t[i]] {
			t[i]++
		}
	}
	return t
}()

// nearestIQ4 is the code nearest to v; a tie goes to the larger.
func nearestIQ4(v float32) uint8 {
	if v <= -127 {
		return 0
	}
	if !(v < 113) {
		return 15
	}
	c := iq4Below[uint8(int32(v+128))]
	if v >= iq4Mid[c] {
		c++
	}
	return c
}

// scaleIQ4 finds the scale of one sub-block of 32 among 16 trials.
func scaleIQ4(x, weight []float32) float32 {
	amax, at := extreme(x)
	if amax < groupMaxEps {
		return 0
	}
	d := -at / iq4Values[0]
	qx, q2 := fitIQ4(x, weight, 1/d)
	d = 0
	if q2 > 0 {
		d = qx / q2
	}
	best := float32(d * qx)
	for i := -7; i <= 7; i++ {
		qx, q2 = fitIQ4(x, weight, (float32(i)+iq4Values[0])/at)
		if q2 > 0 && float32(qx*qx) > float32(best*q2) {
			d = qx / q2
			best = float32(d * qx)
		}
	}
	return d
}

func fitIQ4(x, weight []float32, id float32) (qx, q2 float32) {
	weight = weight[:len(x)]
	for i, v := range x {
		q := iq4Values[nearestIQ4(float32(id*v))]
		wq := float32(weight[i] * q)
		qx += float32(wq * v)
		q2 += float32(wq * q)
	}
	return qx, q2
}

func weighIQ4(weight, x, w []float32, sigma2 float32) {
	if w != nil {
		weigh(weight, x, w, sigma2)
		return
	}
	for i, v := range x[:len(weight)] {
		weight[i] = v * v
	}
}

func encodeIQ4_NL(dst []byte, x, w []float32) {
	var weight [32]float32
	var l [32]uint8
	for at := 0; at < len(x); at, dst = at+32, dst[18:] {
		b := x[at : at+32]
		var wb []float32
		if w != nil {
			wb = w[at:]
		}
		weighIQ4(weight[:], b, wb, float32(sumSquares(b)*(2.0/32)))
		d := scaleIQ4(b, weight[:])
		putF16(dst, d)
		id := inverse(d)
		for i, v := range b {
			l[i] = nearestIQ4(float32(id * v))
		}
		packNibbles(dst[2:], &l)
	}
}

func encodeIQ4_XS(dst []byte, x, w []float32) {
	var weight [32]float32
	var l [32]uint8
	var scales [8]float32
	for at := 0; at < len(x); at, dst = at+256, dst[136:] {
		b, wb := x[at:at+256], part(w, at)
		s := float32(sumSquares(b) * (2.0 / 256))
		for j := range scales {
			var wj []float32
			if wb != nil {
				wj = wb[32*j:]
			}
			weighIQ4(weight[:], b[32*j:], wj, s)
			scales[j] = scaleIQ4(b[32*j:32*j+32], weight[:])
		}
		ids := headIQ4(dst, &scales)
		for j, id := range ids {
			for i, v := range b[32*j : 32*j+32] {
				l[i] = nearestIQ4(float32(id * v))
			}
			packNibbles(dst[8+16*j:], &l)
		}
	}
}

// headIQ4 writes the scales of IQ4_XS and returns the inverses of those that
// will be read.
func headIQ4(dst []byte, scales *[8]float32) (ids [8]float32) {
	_, top := extreme(scales[:])
	d := -top / 32
	putF16(dst, d)
	id := inverse(d)
	var hi uint16
	clear(dst[4:8])
	for j, v := range scales {
		q := min(max(nearest(float32(id*v)), -32), 31)
		ids[j] = inverse(float32(d * float32(q)))
		q += 32
		dst[4+j/2] |= byte(q) & 15 << (j % 2 * 4)
		hi |= uint16(q>>4) << (2 * j)
	}
	le.PutUint16(dst[2:], hi)
	return ids
}
