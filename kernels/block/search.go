package block

import "math"

// groupMaxEps: groups whose largest magnitude is below this become all zeros.
const groupMaxEps = 1e-15

// nearest rounds to the nearest integer, halves to even, for |v| < 2^22. Any
// other v gives the same bits as the reference's trick.
func nearest(v float32) int32 {
	return int32(math.Float32bits(v+12582912)&0x007fffff) - 0x00400000
}

// tries are the scales an affine search goes through:
// (from + step·i + top)/(max - min) for i = 0 … n. The error of a try is
// weight·diff², or weight·|diff| with abs.
type tries struct {
	from, step float32
	n          int
	abs        bool
}

var (
	q4Tries         = tries{-1, 0.1, 20, false}
	q5Tries         = tries{-0.5, 0.1, 15, false}
	q2Tries         = tries{-0.5, 0.1, 15, true}
	importanceTries = tries{-0.9, 0.05, 36, false}
)

// searchAffine finds codes l in 0..top with x ≈ scale·l - minimum that are best
// under the weights: for each trial scale the codes are fixed, the least-squares
// scale and minimum for them solved, and the error compared. minimum ≥ 0.
func searchAffine(l []uint8, x, weight []float32, top int32, t tries) (scale, minimum float32) {
	l, weight = l[:len(x)], weight[:len(x)]
	lo, hi := x[0], x[0]
	sumW := weight[0]
	sumX := float32(sumW * x[0])
	for i := 1; i < len(x); i++ {
		v, w := x[i], weight[i]
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
		sumW += w
		sumX += float32(w * v)
	}
	if lo > 0 {
		lo = 0
	}
	if hi <= lo {
		clear(l)
		return 0, -lo
	}
	var above [32]float32 // x - minimum
	span := lift(above[:], x, lo, hi)
	iscale := float32(top) / span
	scale = 1 / iscale
	var best float32
	for i, v := range x {
		q := min(max(nearest(float32(iscale*above[i])), 0), top)
		l[i] = uint8(q)
		best += float32(weight[i] * t.loss(float32(scale*float32(q))+lo-v))
	}
	minimum = lo
	var try [32]float32
	codes := try[:len(x)]
	for i := 0; i <= t.n; i++ {
		iscale = (t.from + float32(t.step*float32(i)) + float32(top)) / span
		var sumL, sumL2, sumXL float32
		for j, v := range x {
			q := float32(min(max(nearest(float32(iscale*above[j])), 0), top))
			codes[j] = q
			wl := float32(weight[j] * q)
			sumL += wl
			sumL2 += float32(wl * q)
			sumXL += float32(wl * v)
		}
		det := float32(sumW*sumL2) - float32(sumL*sumL)
		if !(det > 0) {
			continue
		}
		s := (float32(sumW*sumXL) - float32(sumX*sumL)) / det
		m := (float32(sumL2*sumX) - float32(sumL*sumXL)) / det
		if m > 0 {
			m = 0
			s = sumXL / sumL2
		}
		if e := t.error(codes, x, weight, s, m, best); e < best {
			best, scale, minimum = e, s, m
			span = lift(above[:], x, m, hi) // the reference goes on from the new minimum
			for j, q := range codes {
				l[j] = uint8(q)
			}
		}
	}
	return scale, -minimum
}

func lift(above, x []float32, lo, hi float32) (span float32) {
	above = above[:len(x)]
	for i, v := range x {
		above[i] = v - lo
	}
	return hi - lo
}

func (t *tries) loss(diff float32) float32 {
	if t.abs {
		return abs32(diff)
	}
	return diff * diff
}

// error is Σ weight·loss(s·code + m - x). It stops once the sum, which cannot
// fall, has reached limit.
func (t *tries) error(codes, x, weight []float32, s, m, limit float32) float32 {
	x, weight = x[:len(codes)], weight[:len(codes)]
	var e float32
	for i := 0; i < len(codes); {
		end := min(i+8, len(codes))
		for ; i < end; i++ {
			diff := float32(s*codes[i]) + m - x[i]
			if t.abs {
				diff = abs32(diff)
			} else {
				diff = float32(diff * diff)
			}
			e += float32(weight[i] * diff)
		}
		if e >= limit {
			break
		}
	}
	return e
}

// searchSigned finds codes 0..2·half-1 (zero at half) and the scale that are
// best under the weights; nil weights are x².
func searchSigned(l []uint8, x, weight []float32, half int32) float32 {
	l = l[:len(x)]
	amax, at := extreme(x)
	if amax < groupMaxEps {
		clear(l)
		return 0
	}
	var own [32]float32
	if weight == nil {
		for i, v := range x {
			own[i] = v * v
		}
		weight = own[:]
	}
	weight = weight[:len(x)]
	iscale := float32(-half) / at
	sumLX, sumL2 := fitSigned(x, weight, iscale, half)
	writeSigned(l, x, iscale, half)
	var scale float32
	if sumL2 != 0 {
		scale = sumLX / sumL2
	}
	best := float32(scale * sumLX)
	for i := -9; i <= 9; i++ {
		if i == 0 {
			continue
		}
		iscale = -(float32(half) + float32(0.1*float32(i))) / at
		sumLX, sumL2 = fitSigned(x, weight, iscale, half)
		if sumL2 > 0 && float32(sumLX*sumLX) > float32(best*sumL2) {
			writeSigned(l, x, iscale, half)
			scale = sumLX / sumL2
			best = float32(scale * sumLX)
		}
	}
	return scale
}

func fitSigned(x, weight []float32, iscale float32, half int32) (sumLX, sumL2 float32) {
	weight = weight[:len(x)]
	for i, v := range x {
		q := float32(min(max(nearest(float32(iscale*v)), -half), half-1))
		w := weight[i]
		sumLX += float32(float32(w*v) * q)
		sumL2 += float32(float32(w*q) * q)
	}
	return sumLX, sumL2
}

func writeSigned(l []uint8, x []float32, iscale float32, half int32) {
	for i, v := range x {
		l[i] = uint8(half + min(max(nearest(float32(iscale*v)), -half), half-1))
	}
}

// searchPositive finds codes 0..top and the scale for values that are scales
// themselves: a coarse search, then coordinate descent.
func searchPositive(l []uint8, x, weight []float32, top int32) float32 {
	l, weight = l[:len(x)], weight[:len(x)]
	var hi float32
	for _, v := range x {
		if v > hi {
			hi = v
		}
	}
	if hi < groupMaxEps {
		clear(l)
		return 0
	}
	iscale := coarse(l, x, weight, top, hi)
	var sumLX, sumL2 float32
	for i, v := range x {
		q := min(top, nearest(float32(iscale*v)))
		l[i] = uint8(q)
		w, f := weight[i], float32(q)
		sumLX += float32(float32(w*v) * f)
		sumL2 += float32(float32(w*f) * f)
	}
	for range 5 {
		changed := false
		for i, v := range x {
			w, f := weight[i], float32(l[i])
			wv := float32(w * v)
			lx := sumLX - float32(wv*f)
			l2 := sumL2 - float32(float32(w*f)*f)
			if !(lx > 0 && l2 > 0) {
				continue
			}
			q := min(top, nearest(float32(v*l2)/lx))
			if q == int32(l[i]) {
				continue
			}
			f = float32(q)
			lx += float32(wv * f)
			l2 += float32(float32(w*f) * f)
			if float32(float32(lx*lx)*sumL2) > float32(float32(sumLX*sumLX)*l2) {
				l[i], sumLX, sumL2 = uint8(q), lx, l2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	if sumL2 > 0 {
		return sumLX / sumL2
	}
	return 0
}

// coarse is the inverse scale of least weighted square error among nine.
func coarse(l []uint8, x, weight []float32, top int32, hi float32) float32 {
	iscale := float32(top) / hi
	scale := 1 / iscale
	var best float32
	for i, v := range x {
		l[i] = uint8(nearest(float32(iscale * v)))
		diff := v - float32(scale*float32(l[i]))
		best += float32(float32(weight[i]*diff) * diff)
	}
	for i := -4; i <= 4; i++ {
		if i == 0 {
			continue
		}
		is := (float32(0.1*float32(i)) + float32(top)) / hi
		scale = 1 / is
		var e float32
		for j, v := range x {
			q := min(top, nearest(float32(is*v)))
			diff := v - float32(scale*float32(q))
			e += float32(float32(weight[j]*diff) * diff)
		}
		if e < best {
			best, iscale = e, is
		}
	}
	return iscale
}
