package block

import "math"

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 along a row. Without importance
// the scale comes from the extreme values; with it a search weighs every
// element by importance·sqrt(mean square of the row + x²).

func abs32(v float32) float32  { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }
func sqrt32(v float32) float32 { return float32(math.Sqrt(float64(v))) }

func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

// extreme is the value of largest magnitude, the first of equals.
func extreme(x []float32) (amax, at float32) {
	for _, v := range x {
		if a := abs32(v); a > amax {
			amax, at = a, v
		}
	}
	return amax, at
}

func bounds(x []float32) (lo, hi float32) {
	lo, hi = math.MaxFloat32, -math.MaxFloat32
	for _, v := range x {
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
	}
	return lo, hi
}

// meanSquare sums in order, as the reference does.
func meanSquare(x []float32) float32 {
	return sumSquares(x) / float32(len(x))
}

// weigh sets weight = importance·sqrt(sigma2 + x²).
func weigh(weight, x, importance []float32, sigma2 float32) {
	x, importance = x[:len(weight)], importance[:len(weight)]
	for i, v := range x {
		weight[i] = importance[i] * sqrt32(sigma2+float32(v*v))
	}
}

func encodeQ8_0(dst []byte, x, _ []float32) {
	for ; len(x) > 0; x, dst = x[32:], dst[34:] {
		b, q := (*[32]float32)(x), (*[32]byte)(dst[2:])
		amax, _ := extreme(b[:])
		d := amax / 127
		putF16(dst, d)
		id := inverse(d)
		for i, v := range b {
			q[i] = byte(roundAway(float32(v * id)))
		}
	}
}

// roundAway rounds halves away from zero.
func roundAway(v float32) int32 {
	i := int32(v)
	r := v - float32(i)
	if r >= 0.5 {
		i++
	} else if r <= -0.5 {
		i--
	}
	return i
}

func encodeQ4_0(dst []byte, x, w []float32) {
	var sigma2 float32
	if w != nil {
		sigma2 = meanSquare(x)
	}
	var l [32]uint8
	for at := 0; at < len(x); at, dst = at+32, dst[18:] {
		b := x[at : at+32]
		if w == nil {
			putF16(dst, levelsAround(&l, b, 8))
		} else {
			putF16(dst, searchAround(l[:], b, w[at:], sigma2, 8))
		}
		packNibbles(dst[2:], &l)
	}
}

func encodeQ5_0(dst []byte, x, w []float32) {
	var sigma2 float32
	if w != nil {
		sigma2 = meanSquare(x)
	}
	var l [32]uint8
	for at := 0; at < len(x); at, dst = at+32, dst[22:] {
		b := x[at : at+32]
		if w == nil {
			putF16(dst, levelsAround(&l, b, 16))
		} else {
			putF16(dst, searchAround(l[:], b, w[at:], sigma2, 16))
		}
		packHigh(dst[2:], &l)
		packNibbles(dst[6:], &l)
	}
}

// levelsAround rounds to 2·half levels around zero, the extreme value at -half.
func levelsAround(l *[32]uint8, b []float32, half int32) float32 {
	_, at := extreme(b)
	d := at / float32(-half)
	id := inverse(d)
	for i, v := range b {
		l[i] = uint8(min(2*half-1, int32(int8(int32(float32(v*id)+(float32(half)+0.5))))))
	}
	return d
}

func searchAround(l []uint8, b, w []float32, sigma2 float32, half int32) float32 {
	var weight [32]float32
	weigh(weight[:], b, w, sigma2)
	return searchSigned(l, b, weight[:], half)
}

func encodeQ4_1(dst []byte, x, w []float32) {
	var sigma2 float32
	if w != nil {
		sigma2 = meanSquare(x)
	}
	var l [32]uint8
	for at := 0; at < len(x); at, dst = at+32, dst[20:] {
		d, m := levelsFrom(&l, x[at:at+32], w, at, sigma2, 15)
		putF16(dst, d)
		putF16(dst[2:], m)
		packNibbles(dst[4:], &l)
	}
}

func encodeQ5_1(dst []byte, x, w []float32) {
	var sigma2 float32
	if w != nil {
		sigma2 = meanSquare(x)
	}
	var l [32]uint8
	for at := 0; at < len(x); at, dst = at+32, dst[24:] {
		d, m := levelsFrom(&l, x[at:at+32], w, at, sigma2, 31)
		putF16(dst, d)
		putF16(dst[2:], m)
		packHigh(dst[4:], &l)
		packNibbles(dst[8:], &l)
	}
}

// levelsFrom rounds to levels 0..top above a minimum.
func levelsFrom(l *[32]uint8, b, w []float32, at int, sigma2 float32, top int32) (d, m float32) {
	if w != nil {
		var weight [32]float32
		weigh(weight[:], b, w[at:], sigma2)
		d, m = searchAffine(l[:], b, weight[:], top, importanceTries)
		return d, -m
	}
	lo, hi := bounds(b)
	d = (hi - lo) / float32(top)
	id := inverse(d)
	for i, v := range b {
		q := int32(float32((v-lo)*id) + 0.5)
		if top == 15 {
			q = min(15, int32(int8(q)))
		}
		l[i] = uint8(q)
	}
	return d, lo
}

// packNibbles stores the low four bits of codes j and j+16 in byte j.
func packNibbles(dst []byte, l *[32]uint8) {
	for i := 0; i < 16; i += 8 {
		le.PutUint64(dst[i:], le.Uint64(l[i:])&bytes0f|le.Uint64(l[i+16:])&bytes0f<<4)
	}
}

// packHigh stores the fifth bits of 32 codes.
func packHigh(dst []byte, l *[32]uint8) {
	for i := range 4 {
		b := le.Uint64(l[8*i:]) >> 4 & bytes01
		dst[i] = byte(b * 0x0102040810204080 >> 56) // bit 8j to bit j
	}
}
