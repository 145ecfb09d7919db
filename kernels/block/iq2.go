package block

// IQ2_XXS, IQ2_XS and IQ2_S: three magnitudes, eight elements a point.

func encodeIQ2_XXS(dst []byte, x, w []float32) {
	s := iqGroup{g: lattice2XXS.prepared(), n: 32}
	var codes [32]uint8
	for at := 0; at < len(x); at, dst = at+256, dst[66:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 1)
		clear(dst[:66])
		var scales [8]float32
		var most float32
		for j := range scales {
			xj := b[32*j : 32*j+32]
			s.weigh(xj, w[at+32*j:], sigma2, nil)
			largest := s.split(xj, true)
			if largest < groupMaxEps {
				continue
			}
			scale := searchPositive(codes[:], s.x[:], s.weight[:], 4)
			largest = float32(scale * 3)
			if largest <= 0 {
				continue
			}
			s.start(true)
			scale = s.again(s.search(largest, scale, 6, 0.1), true)
			scale = s.flip(scale, true)
			signs := uint32(0)
			for k := range 4 {
				dst[2+8*j+k] = byte(s.points[k])
				signs |= uint32(s.signs[k]) << (7 * k)
			}
			le.PutUint32(dst[6+8*j:], signs)
			scales[j], most = scale, larger(most, scale)
		}
		if most == 0 {
			clear(dst[:66])
			continue
		}
		d := most / 31
		putF16(dst, d)
		for j, v := range scales {
			dst[9+8*j] |= oddScale(v, 1/d, 15) << 4
		}
	}
}

func encodeIQ2_XS(dst []byte, x, w []float32) {
	s := iqGroup{g: lattice2XS.prepared(), n: 16}
	for at := 0; at < len(x); at, dst = at+256, dst[74:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 1)
		clear(dst[:74])
		var scales [16]float32
		var most float32
		for j := range scales {
			xj := b[16*j : 16*j+16]
			s.weigh(xj, w[at+16*j:], sigma2, nil)
			scale, ok := s.scale2(xj, true, groupMaxEps)
			if !ok {
				continue
			}
			for k := range 2 {
				le.PutUint16(dst[2+4*j+2*k:], s.points[k]|uint16(s.signs[k])<<9)
			}
			scales[j], most = scale, larger(most, scale)
		}
		if most == 0 {
			clear(dst[:66])
			continue
		}
		d := most / 31
		putF16(dst, d)
		for j, v := range scales {
			dst[66+j/2] |= oddScale(v, 1/d, 15) << (j % 2 * 4)
		}
	}
}

// scale2 finds the scale of 16 elements and their two points; ok is false where
// all are below least, and the scale is 0.
func (s *iqGroup) scale2(x []float32, even bool, least float32) (scale float32, ok bool) {
	largest := s.split(x, even)
	if largest < least {
		return 0, false
	}
	s.start(true)
	scale = s.search(largest, largest/5, 9, 0.1)
	return s.flip(s.settle(scale, false), even), true
}

func encodeIQ2_S(dst []byte, x, w []float32) {
	s := iqGroup{g: lattice2S.prepared(), n: 16}
	for at := 0; at < len(x); at, dst = at+256, dst[82:] {
		b := x[at : at+256]
		sigma2 := superSquare(b, 2)
		own := func(v float32) float32 { return float32(0.25*sigma2) + float32(v*v) }
		clear(dst[:82])
		var scales [16]float32
		var most float32
		for j := range scales {
			xj := b[16*j : 16*j+16]
			s.weigh(xj, from(w, at+16*j), sigma2, own)
			scale, ok := s.scale2(xj, false, 1e-8)
			if !ok {
				continue
			}
			for k := range 2 {
				i := 2*j + k
				dst[2+i] = byte(s.points[k])
				dst[66+i/4] |= byte(s.points[k]>>8) << (i % 4 * 2)
				dst[34+i] = s.signs[k]
			}
			scales[j], most = scale, larger(most, scale)
		}
		if most == 0 {
			continue
		}
		d := most / 31
		putF16(dst, float32(d*0.9875))
		for j, v := range scales {
			dst[74+j/2] |= oddScale(v, 1/d, 15) << (j % 2 * 4)
		}
	}
}

// from is the importance from column at on, nil when there is none.
func from(w []float32, at int) []float32 {
	if w == nil {
		return nil
	}
	return w[at:]
}
