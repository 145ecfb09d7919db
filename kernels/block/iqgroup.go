package block

import "slices"

// The encoders of IQ2_* and IQ3_* search, for every 16 or 32 elements, the scale
// and the points of a lattice that fit magnitudes best; signs are stored apart.

// iqGroup is one such search. Everything but g and n is made anew for each group.
type iqGroup struct {
	g      *lattice
	n      int         // elements
	x      [32]float32 // magnitudes; one may be negative, see split
	weight [32]float32
	root   [32]float32 // of weight: what measures the distance to points
	signs  [4]uint8    // of eight elements each
	iqFit
}

// iqFit is a choice of points.
type iqFit struct {
	points [8]uint16 // by index, of g.dims elements each
	exact  [8]bool   // rounding led there, without a choice among neighbours
}

// weigh sets the weights of x: importance·sqrt(sigma2 + x²), or what own says
// where there is no importance.
func (s *iqGroup) weigh(x, importance []float32, sigma2 float32, own func(v float32) float32) {
	if importance != nil {
		weigh(s.weight[:s.n], x, importance, sigma2)
	} else {
		for i, v := range x[:s.n] {
			s.weight[i] = own(v)
		}
	}
	for i, w := range s.weight[:s.n] {
		s.root[i] = sqrt32(w)
	}
}

// split sets signs and magnitudes of x and returns the largest magnitude. With
// even, the signs of eight elements are even in number, so that seven are
// enough: where they are not, the element that weighs least takes the wrong one.
func (s *iqGroup) split(x []float32, even bool) (largest float32) {
	for k := range s.n / 8 {
		b, w, y := x[8*k:8*k+8], s.weight[8*k:8*k+8], s.x[8*k:8*k+8]
		var signs uint8
		flips := 0
		for i, v := range b {
			y[i] = v
			if !(v >= 0) {
				y[i] = -v
				signs |= 1 << i
				flips++
			}
		}
		if even && flips%2 != 0 {
			least, at := float32(float32(w[0]*b[0])*b[0]), 0
			for i := 1; i < 8; i++ {
				if e := float32(float32(w[i]*b[i]) * b[i]); e < least {
					least, at = e, i
				}
			}
			y[at] = -y[at]
			signs ^= 1 << at
		}
		s.signs[k] = signs
		if even {
			s.signs[k] &= 127
		}
	}
	largest = s.x[0]
	for _, v := range s.x[1:s.n] {
		largest = larger(largest, v)
	}
	return largest
}

// flip makes a negative scale positive: the signs are all others. With seven
// signs of eight stored, the eighth follows.
func (s *iqGroup) flip(scale float32, even bool) float32 {
	if !(scale < 0) {
		return scale
	}
	for k := range s.n / 8 {
		s.signs[k] = ^s.signs[k]
		if even {
			s.signs[k] &= 127
		}
	}
	return -scale
}

// round sets codes to the packed coordinates, rounded to nearest, of every g.dims
// elements under the inverse of a scale.
func (s *iqGroup) round(codes *[8]uint16, inverse float32) {
	if s.roundLanes(codes, inverse) {
		return
	}
	g := s.g
	for k := range s.n / g.dims {
		codes[k] = 0
		for i, v := range s.x[k*g.dims:][:g.dims] {
			c := min(max(nearest(float32(0.5*(float32(inverse*v)-1))), 0), int32(g.top))
			codes[k] |= uint16(c) << (g.bits * i)
		}
	}
}

// place is the point for elements k·dims on, whose code is given: that of the
// code, or the neighbour that is closest under the scale.
func (s *iqGroup) place(k int, code uint16, scale float32) (point uint16, exact bool) {
	if j := s.g.near[code]; j >= 0 {
		return uint16(j), true
	}
	at := k * s.g.dims
	return s.g.closest(code, s.x[at:], s.root[at:], scale, &oddLevels), false
}

// fit is the weighted Σxq and Σq² of points, whose quotient is the best scale for
// them.
func (s *iqGroup) fit(f *iqFit) (sumQX, sumQ2 float32) {
	g := s.g
	for k := range s.n / g.dims {
		at, p := k*g.dims, &g.coords[f.points[k]]
		for i, v := range s.x[at : at+g.dims] {
			w, q := s.weight[at+i], oddLevels[p[i&7]&7]
			sumQX += float32(float32(w*v) * q)
			sumQ2 += float32(float32(w*q) * q)
		}
	}
	return sumQX, sumQ2
}

// search tries scales around the one that brings largest to the outermost level
// and keeps the points that fit best. scale is what there is without any.
func (s *iqGroup) search(largest, scale float32, tries int, step float32) float32 {
	outer := float32(2*s.g.top + 1)
	var best, qx, q2 float32
	var try iqFit
	var codes, fitted [8]uint16 // fitted are the points that qx and q2 are of
	for i := -tries; i <= tries; i++ {
		id := (outer + float32(float32(i)*step)) / largest
		s.round(&codes, id)
		for k := range s.n / s.g.dims {
			try.points[k], try.exact[k] = s.place(k, codes[k], 1/id)
		}
		if i == -tries || try.points != fitted {
			qx, q2 = s.fit(&try)
			fitted = try.points
		}
		if q2 > 0 && float32(qx*qx) > float32(best*q2) {
			scale = qx / q2
			best = float32(scale * qx)
			s.iqFit = try
		}
	}
	return scale
}

// again places the points that were a choice among neighbours, or all, under the
// scale found, and returns the scale that fits them.
func (s *iqGroup) again(scale float32, all bool) float32 {
	if !(scale > 0) {
		return scale
	}
	var codes [8]uint16
	s.round(&codes, 1/scale)
	for k := range s.n / s.g.dims {
		if all || !s.exact[k] {
			s.points[k], _ = s.place(k, codes[k], scale)
		}
	}
	if qx, q2 := s.fit(&s.iqFit); q2 > 0 {
		return qx / q2
	}
	return scale
}

// start forgets the points of the group before: all are the first, as exact as
// exact says.
func (s *iqGroup) start(exact bool) {
	s.iqFit = iqFit{}
	for k := range s.exact {
		s.exact[k] = exact
	}
}

// settle is again where a point was a choice among neighbours.
func (s *iqGroup) settle(scale float32, all bool) float32 {
	if slices.Contains(s.exact[:s.n/s.g.dims], false) {
		return s.again(scale, all)
	}
	return scale
}

// larger is the larger of a and b, and b where one is no number.
func larger(a, b float32) float32 {
	if a > b {
		return a
	}
	return b
}

// oddScale is the code 0..top of a scale that stands for 2·code+1 in units of 1/id.
func oddScale(scale, id float32, top int32) uint8 {
	return uint8(min(max(nearest(float32(0.5*(float32(id*scale)-1))), 0), top))
}

func square(v float32) float32 { return float32(v * v) }
