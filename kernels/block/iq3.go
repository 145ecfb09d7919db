package block

// IQ3_XXS and IQ3_S: eight magnitudes, four elements a point.

func encodeIQ3_XXS(dst []byte, x, w []float32) {
	s := iqGroup{g: lattice3XXS.prepared(), n: 32}
	for at := 0; at < len(x); at, dst = at+256, dst[98:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 2)
		clear(dst[:98])
		var scales [8]float32
		var most float32
		for j := range scales {
			xj := b[32*j : 32*j+32]
			s.weigh(xj, from(w, at+32*j), sigma2, square)
			largest := s.split(xj, true)
			if largest < 1e-8 {
				continue
			}
			s.start(true)
			scale := s.flip(s.settle(s.search(largest, largest/15, 15, 0.2), false), true)
			signs := uint32(0)
			for k := range 8 {
				dst[2+8*j+k] = byte(s.points[k])
				signs |= uint32(s.signs[k/2]) << (k / 2 * 7)
			}
			le.PutUint32(dst[66+4*j:], signs)
			scales[j], most = scale, larger(most, scale)
		}
		if most == 0 {
			clear(dst[:98])
			continue
		}
		d := most / 31
		putF16(dst, float32(d*1.0125))
		for j, v := range scales {
			dst[69+4*j] |= oddScale(v, 1/d, 15) << 4
		}
	}
}

func encodeIQ3_S(dst []byte, x, w []float32) {
	s := iqGroup{g: lattice3S.prepared(), n: 32}
	for at := 0; at < len(x); at, dst = at+256, dst[110:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 2)
		clear(dst[:110])
		var scales [8]float32
		var most float32
		written := 0 // groups; those that are all zero leave no room for themselves, in the reference too
		for j := range scales {
			xj := b[32*j : 32*j+32]
			s.weigh(xj, from(w, at+32*j), sigma2, square)
			largest := s.split(xj, false)
			if largest == 0 {
				continue
			}
			s.start(false)
			scale := s.flip(s.settle(s.search(largest, largest/15, 9, 0.2), true), false)
			for k := range 8 {
				dst[2+8*written+k] = byte(s.points[k])
				dst[66+j] |= byte(s.points[k]>>8) << k
			}
			copy(dst[74+4*written:], s.signs[:])
			written++
			scales[j], most = scale, larger(most, scale)
		}
		if most == 0 {
			continue
		}
		d := most / 31
		putF16(dst, float32(d*1.033))
		for j, v := range scales {
			dst[106+j/2] |= oddScale(v, 1/d, 15) << (j % 2 * 4)
		}
	}
}
