package block

import "math"

// IQ1_S and IQ1_M: values -1, 0 and 1, all of them shifted by delta1 one way or
// the other, eight elements a point. Their encoders go through all ways to cut
// the sorted elements of a group into the three values.

// levelsUp and levelsDown are the three values on either side.
var (
	levelsUp   = [8]float32{-1 + delta1, delta1, 1 + delta1}
	levelsDown = [8]float32{-1 - delta1, -delta1, 1 - delta1}
)

// sorted fills order with the places of x by value, equal ones in order.
func sorted(order []uint8, x []float32) {
	for i, v := range x {
		j := i
		for ; j > 0 && x[order[j-1]] > v; j-- {
			order[j] = order[j-1]
		}
		order[j] = uint8(i)
	}
}

// thirds sets the codes of elements in order: 0 up to i1, 1 up to i2, 2 beyond;
// reversed when the scale found for them is negative.
func thirds(codes []uint8, order []uint8, i1, i2 int, reversed bool) {
	for j, i := range order {
		c := uint8(1)
		if j < i1 {
			c = 0
		} else if j >= i2 {
			c = 2
		}
		if reversed {
			c = 2 - c
		}
		codes[i] = c
	}
}

// place1 is the point of eight codes, or the neighbour nearest to x.
func place1(codes []uint8, x, weight []float32, scale float32, levels *[8]float32) (point uint16, exact bool) {
	code := uint16(0)
	for i, c := range codes[:8] {
		code |= uint16(c) << (2 * i)
	}
	if j := lattice1S.near[code]; j >= 0 {
		return uint16(j), true
	}
	return lattice1S.closest(code, x, weight, scale, levels), false
}

// fit1 adds the weighted Σxq and Σq² of a point to the sums; q is a level times factor.
func fit1(sumQX, sumQ2 *float32, point uint16, x, weight []float32, levels *[8]float32, factor float32) {
	for i, c := range lattice1S.coords[point] {
		w, q := weight[i], float32(levels[c&7]*factor)
		*sumQX += float32(float32(w*q) * x[i])
		*sumQ2 += float32(float32(w*q) * q)
	}
}

func encodeIQ1_S(dst []byte, x, w []float32) {
	lattice1S.prepared()
	var weight [32]float32
	for at := 0; at < len(x); at, dst = at+256, dst[50:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 2)
		clear(dst[:50])
		var scales [8]float32
		var down [8]bool
		var most float32
		for j := range scales {
			xj := b[32*j : 32*j+32]
			weigh(weight[:], xj, w[at+32*j:], sigma2)
			var codes [32]uint8
			var ok bool
			if scales[j], down[j], ok = cut32(&codes, xj, &weight); !ok {
				continue
			}
			levels := &levelsUp
			if down[j] {
				levels = &levelsDown
			}
			var points [4]uint16
			all := true
			for k := range points {
				var exact bool
				points[k], exact = place1(codes[8*k:], xj[8*k:], weight[8*k:], scales[j], levels)
				all = all && exact
			}
			if !all {
				var qx, q2 float32
				for k, p := range points {
					fit1(&qx, &q2, p, xj[8*k:], weight[8*k:], levels, 1)
				}
				if qx > 0 && q2 > 0 {
					scales[j] = qx / q2
				}
			}
			high := uint16(0)
			for k, p := range points {
				dst[2+4*j+k] = byte(p)
				high |= p >> 8 << (3 * k)
			}
			le.PutUint16(dst[34+2*j:], high)
			most = larger(most, scales[j])
		}
		if most == 0 {
			continue
		}
		d := most / 15
		putF16(dst, float32(d*1.125))
		for j, v := range scales {
			dst[35+2*j] |= oddScale(v, 1/d, 7) << 4
			if down[j] {
				dst[35+2*j] |= 0x80
			}
		}
	}
}

// cut32 finds the best codes of 32 elements, their scale and the side of delta1;
// none where the elements are too small or weigh nothing.
func cut32(codes *[32]uint8, x []float32, weight *[32]float32) (scale float32, down, ok bool) {
	if amax, _ := extreme(x); amax < 1e-12 {
		return 0, false, false
	}
	var order [32]uint8
	sorted(order[:], x)
	var sumX, sumW [33]float32
	for j, i := range order {
		sumX[j+1] = sumX[j] + float32(weight[i]*x[i])
		sumW[j+1] = sumW[j] + weight[i]
	}
	best := float32(-math.MaxFloat32)
	i1, i2 := 0, 0
	for a := range 33 {
		for b := a; b < 33; b++ {
			for side, v := range [2]*[8]float32{&levelsUp, &levelsDown} {
				qx := float32(sumX[a]*v[0]) + float32((sumX[b]-sumX[a])*v[1]) + float32((sumX[32]-sumX[b])*v[2])
				q2 := float32(float32(sumW[a]*v[0])*v[0]) + float32(float32((sumW[b]-sumW[a])*v[1])*v[1]) + float32(float32((sumW[32]-sumW[b])*v[2])*v[2])
				if q2 > 0 && float32(qx*qx) > float32(best*q2) {
					scale = qx / q2
					best = float32(scale * qx)
					i1, i2, down, ok = a, b, side == 1, true
				}
			}
		}
	}
	if !ok {
		return 0, false, false
	}
	reversed := scale < 0
	thirds(codes[:], order[:], i1, i2, reversed)
	if reversed {
		scale, down = -scale, !down
	}
	return scale, down, true
}

// levels1M are the values of either half of a group of IQ1_M by its code of
// sides; bit 1 is that of the first half.
func levels1M(sides uint8, half int) *[8]float32 {
	if sides>>(1-half)&1 != 0 {
		return &levelsDown
	}
	return &levelsUp
}

func encodeIQ1_M(dst []byte, x, w []float32) {
	lattice1S.prepared()
	for at := 0; at < len(x); at, dst = at+256, dst[56:] {
		b, wb := x[at:at+256], part(w, at)
		sigma2 := superSquare(b, 2)
		clear(dst[:56])
		var weight [256]float32
		if wb != nil {
			weigh(weight[:], b, wb, sigma2)
		} else {
			for i, v := range b {
				weight[i] = float32(v * v)
			}
		}
		var scales [16]float32
		var sides [16]uint8
		var points [32]uint16
		var most float32
		for j := range scales {
			xj, wj := b[16*j:16*j+16], weight[16*j:16*j+16]
			var codes [16]uint8
			var ok bool
			if scales[j], sides[j], ok = cut16(&codes, xj, wj); !ok {
				continue
			}
			all := true
			for k := range 2 {
				var exact bool
				points[2*j+k], exact = place1(codes[8*k:], xj[8*k:], wj[8*k:], scales[j], levels1M(sides[j], k))
				all = all && exact
			}
			if !all {
				var qx, q2 float32
				for k := range 2 {
					fit1(&qx, &q2, points[2*j+k], xj[8*k:], wj[8*k:], levels1M(sides[j], k), 1)
				}
				if qx > 0 && q2 > 0 {
					scales[j] = qx / q2
				}
			}
			most = larger(most, scales[j])
		}
		for i, p := range points {
			dst[i] = byte(p)
			dst[32+i/2] |= byte(p>>8) << (i % 2 * 4)
		}
		if most == 0 {
			continue
		}
		d := most / 15
		id := 1 / d
		var words [4]uint16
		var qx, q2 float32
		for j, v := range scales {
			l := oddScale(v, id, 7)
			words[j/4] |= uint16(l) << (j % 4 * 3)
			dst[32+j] |= sides[j]&1<<7 | sides[j]>>1<<3
			for k := range 2 {
				i := 16*j + 8*k
				fit1(&qx, &q2, points[2*j+k], b[i:], weight[i:], levels1M(sides[j], k), float32(2*l+1))
			}
		}
		if q2 > 0 {
			d = qx / q2
		}
		scale := F16(float32(d * 1.1125))
		for i, v := range words {
			le.PutUint16(dst[48+2*i:], v|scale>>(4*i)<<12)
		}
	}
}

// cut16 finds the best codes of 16 elements, their scale, and the sides of delta1
// of its halves, see levels1M. The sums of a cut are made in the order of values.
func cut16(codes *[16]uint8, x, weight []float32) (scale float32, sides uint8, ok bool) {
	if amax, _ := extreme(x); amax < 1e-7 {
		return 0, 0, false
	}
	var order [16]uint8
	sorted(order[:], x)
	// What an element adds to the sums under each code, for the four pairs of sides.
	var terms [16][3]cutSums
	for j, i := range order {
		for c := range 3 {
			for s := range 4 {
				v := levels1M(uint8(s), int(i/8))[c]
				wv := float32(weight[i] * v)
				terms[j][c].qx[s] = float32(wv * x[i])
				terms[j][c].q2[s] = float32(wv * v)
			}
		}
	}
	best := float32(-math.MaxFloat32)
	i1, i2 := 0, 0
	var low cutSums // of the elements below a
	for a := range 17 {
		middle := low // of those below b
		for b := a; b < 17; b++ {
			sums := middle.with(terms[b:])
			for s := range 4 {
				qx, q2 := sums.qx[s], sums.q2[s]
				if q2 > 0 && float32(qx*qx) > float32(best*q2) {
					scale = qx / q2
					best = float32(scale * qx)
					i1, i2, sides, ok = a, b, uint8(s), true
				}
			}
			if b < 16 {
				middle.add(&terms[b][1])
			}
		}
		if a < 16 {
			low.add(&terms[a][0])
		}
	}
	if !ok {
		return 0, 0, false
	}
	reversed := scale < 0
	thirds(codes[:], order[:], i1, i2, reversed)
	if reversed {
		scale, sides = -scale, 3-sides
	}
	return scale, sides, true
}

// cutSums are the weighted Σxq and Σq² for each of the four pairs of sides.
type cutSums struct{ qx, q2 [4]float32 }

func (s *cutSums) add(t *cutSums) {
	for i := range s.qx {
		s.qx[i] += t.qx[i]
		s.q2[i] += t.q2[i]
	}
}

// with is s and the terms of code 2 of the elements that are left, one after another.
func (s *cutSums) with(left [][3]cutSums) cutSums {
	a0, a1, a2, a3 := s.qx[0], s.qx[1], s.qx[2], s.qx[3]
	b0, b1, b2, b3 := s.q2[0], s.q2[1], s.q2[2], s.q2[3]
	for j := range left {
		t := &left[j][2]
		a0, a1, a2, a3 = a0+t.qx[0], a1+t.qx[1], a2+t.qx[2], a3+t.qx[3]
		b0, b1, b2, b3 = b0+t.q2[0], b1+t.q2[1], b2+t.q2[2], b3+t.q2[3]
	}
	return cutSums{[4]float32{a0, a1, a2, a3}, [4]float32{b0, b1, b2, b3}}
}
