package optim

import (
	"math"

	"github.com/tunekit/tunekit/kernels/par"
)

// chunks calls f for pieces of n elements on several threads.
func chunks(n int, f func(lo, hi int)) { par.For(n, grain, f) }

// moments moves AdamW's two averages towards the gradient.
func moments[F Float](s *Span[F], clip, b1, b2 F) {
	m, v := s.State[0].V, s.State[1].V
	r1, r2 := 1-b1, 1-b2
	chunks(len(s.P), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			d := s.G[i] * clip
			m[i], v[i] = blend(b1, m[i], r1, d), blend(b2, v[i], r2, F(d*d))
		}
	})
}

// stableAdamW divides the rate by the RMS of g²/v where that is above one. The
// decays of the moments hold the correction of their bias.
func stableAdamW[F Float](a *Args[F], s *Span[F]) {
	hat := func(beta float64) F { return F(beta * unbias(beta, a.Step-1) / unbias(beta, a.Step)) }
	moments(s, a.Clip, hat(a.Beta1), hat(a.Beta2))
	m, v, eps := s.State[0].V, s.State[1].V, F(a.Eps)
	least := a.Eps * a.Eps
	sum := total(len(s.P), func(lo, hi int) float64 {
		var t float64
		for i := lo; i < hi; i++ {
			d := float64(s.G[i] * a.Clip)
			t += d * d / max(float64(v[i]), least)
		}
		return t
	})
	lr := s.LR / max(1, rms(sum, len(s.P)))
	rate, keep := F(lr), F(1-lr*s.Decay)
	chunks(len(s.P), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.P[i] = F(s.P[i]*keep) - F(rate*m[i])/(sqrt(v[i])+eps)
		}
	})
}

// lambLimit is the largest norm of a parameter that LAMB's ratio counts.
const lambLimit = 10

// lamb scales a parameter's update to the parameter's own norm. As pytorch_optimizer
// reads the third version of the paper, the rate alone corrects a bias, the first
// moment's, which the scaled update has not.
func lamb[F Float](a *Args[F], s *Span[F]) {
	moments(s, a.Clip, F(a.Beta1), F(a.Beta2))
	m, v, eps, keep := s.State[0].V, s.State[1].V, F(a.Eps), s.keep()
	chunks(len(s.P), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.P[i] *= keep
		}
	})
	update := func(i int) F { return m[i] / (sqrt(v[i]) + eps) }
	norm := math.Sqrt(total(len(s.P), func(lo, hi int) float64 {
		var t float64
		for i := lo; i < hi; i++ {
			u := float64(update(i))
			t += u * u
		}
		return t
	}))
	ratio := 1.0
	if w := min(math.Sqrt(sumSq(s.P)), lambLimit); w > 0 && norm > 0 {
		ratio = w / (norm + a.Eps)
	}
	size := F(s.LR / unbias(a.Beta1, a.Step) * ratio)
	chunks(len(s.P), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.P[i] -= F(size * update(i))
		}
	})
}

// adamMini is AdamW with one second moment for each block of a parameter: a
// head, a row, an element, or all of it.
func adamMini[F Float](a *Args[F], s *Span[F]) {
	m, v, keep, eps := s.State[0].V, s.State[1].V, s.keep(), F(a.Eps)
	lerp, b2, r2 := F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2)
	root, size := F(math.Sqrt(unbias(a.Beta2, a.Step))), F(s.LR/unbias(a.Beta1, a.Step))
	one := func(lo, hi, b int, sum float64) {
		v[b] = blend(b2, v[b], r2, F(sum/float64(s.Block)))
		den := sqrt(v[b])/root + eps
		for i := lo; i < hi; i++ {
			m[i] += F(lerp * (F(s.G[i]*a.Clip) - m[i]))
			s.P[i] = F(s.P[i]*keep) - F(size*m[i])/den
		}
	}
	square := func(lo, hi int) float64 {
		var t float64
		for _, g := range s.G[lo:hi] {
			d := float64(g * a.Clip)
			t += d * d
		}
		return t
	}
	par.For(len(v), max(1, grain/s.Block), func(lo, hi int) {
		for b := lo; b < hi; b++ {
			from := b * s.Block
			one(from, from+s.Block, b, square(from, from+s.Block))
		}
	})
}

// prodigy estimates the distance to the solution from all parameters together,
// in units of which AdamW's steps are made.
func prodigy[F Float](a *Args[F]) {
	c := a.Common // d, the largest estimate, the numerator, 1 after a step
	if c[3] == 0 {
		c[0], c[1], c[2], c[3] = F(a.D0), F(a.D0), 0, 1
	}
	d, top, d0 := float64(c[0]), float64(c[1]), float64(F(a.D0))
	lr := 0.0
	for i := range a.Spans {
		lr = max(lr, a.Spans[i].LR)
	}
	rate := d * lr
	if a.BiasCorrection {
		rate *= math.Sqrt(unbias(a.Beta2, a.Step)) / unbias(a.Beta1, a.Step)
	}
	numerator, denominator := float64(c[2])*a.Beta3, 0.0
	for i := range a.Spans {
		n, s := a.look(&a.Spans[i], d, d/d0*d, rate)
		numerator += d / d0 * rate * n
		denominator += s
	}
	if denominator == 0 {
		return
	}
	next := d
	if lr > 0 {
		hat := a.DCoef * numerator / denominator
		if d == d0 {
			next = max(next, hat)
		}
		top = max(top, hat)
		grown := math.Inf(1)
		if a.Growth > 0 {
			grown = next * a.Growth
		}
		next = min(top, grown)
	}
	c[0], c[1], c[2] = F(next), F(top), F(numerator)
	for i := range a.Spans {
		s := &a.Spans[i]
		m, v, eps, size, keep := s.State[0].V, s.State[1].V, F(next*a.Eps), F(rate), F(1)
		if !a.L2 {
			keep = F(1 - s.Decay*rate)
		}
		chunks(len(s.P), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				s.P[i] = F(s.P[i]*keep) - F(size*m[i])/(sqrt(v[i])+eps)
			}
		})
	}
}

// look moves a span's moments and returns its parts of the estimate's numerator,
// Σ g·(p₀ - p), and denominator.
func (a *Args[F]) look(s *Span[F], d, guarded, rate float64) (numerator, denominator float64) {
	m, v, sum, p0 := s.State[0].V, s.State[1].V, s.State[2].V, s.State[3].V
	decay := F(0)
	if a.L2 {
		decay = F(s.Decay)
	}
	weight := F(guarded / d * rate)
	if a.Safeguard {
		weight = F(guarded)
	}
	b1, b2, b3 := F(a.Beta1), F(a.Beta2), F(a.Beta3)
	r1, r2 := F(d*(1-a.Beta1)), F(d*d*(1-a.Beta2))
	numerator = total(len(s.P), func(lo, hi int) float64 {
		var t float64
		for i := lo; i < hi; i++ {
			g := F(s.G[i]*a.Clip) + F(decay*s.P[i])
			m[i], v[i] = blend(b1, m[i], r1, g), blend(b2, v[i], r2, F(g*g))
			if i%a.Slice == 0 {
				k := i / a.Slice
				t += float64(g) * float64(p0[k]-s.P[i])
				sum[k] = blend(b3, sum[k], weight, g)
			}
		}
		return t
	})
	denominator = total(len(sum), func(lo, hi int) float64 {
		var t float64
		for _, x := range sum[lo:hi] {
			t += math.Abs(float64(x))
		}
		return t
	})
	return numerator, denominator
}
