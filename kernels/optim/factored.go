package optim

import (
	"math"

	"github.com/tunekit/tunekit/kernels/par"
)

// colGrain is the number of columns that are summed together.
const colGrain = 64

// means moves averages of rows and columns of x² + eps towards those of this
// step: row = keep·row + take·mean. x is asked row by row, several times.
func means[F Float](s *Span[F], row, col []F, keep, take, eps F, x func(i int) F) {
	par.For(s.Rows, max(1, grain/s.Cols), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			var t float64
			for i := r * s.Cols; i < (r+1)*s.Cols; i++ {
				v := float64(x(i))
				t += v * v
			}
			row[r] = blend(keep, row[r], take, F(t/float64(s.Cols))+eps)
		}
	})
	par.For(s.Cols, colGrain, func(lo, hi int) {
		var sums [colGrain]float64
		for r := range s.Rows {
			for c := lo; c < hi; c++ {
				v := float64(x(r*s.Cols + c))
				sums[c-lo] += v * v
			}
		}
		for c := lo; c < hi; c++ {
			col[c] = blend(keep, col[c], take, F(sums[c-lo]/float64(s.Rows))+eps)
		}
	})
}

// mean of x, float64 inside.
func mean[F Float](x []F) float64 {
	var t float64
	for _, v := range x {
		t += float64(v)
	}
	return t / float64(len(x))
}

// rsqrtOf is 1/√(row·col/mean(row)) of the element i of a matrix.
func rsqrtOf[F Float](cols int, row, col []F) func(i int) F {
	m := F(mean(row))
	r, c := make([]F, len(row)), make([]F, len(col))
	for i, v := range row {
		r[i] = 1 / sqrt(v/m)
	}
	for i, v := range col {
		c[i] = 1 / sqrt(v)
	}
	return func(i int) F { return F(r[i/cols] * c[i%cols]) }
}

// elementMeans moves the averages of a vector's squares.
func elementMeans[F Float](v []F, keep, take, eps F, x func(i int) F) {
	for i := range v {
		g := x(i)
		v[i] = blend(keep, v[i], take, F(g*g)+eps)
	}
}

// second moves the second moment st of a span towards the squares of x and
// returns 1/√ of it for each element, and how many states it took.
func second[F Float](s *Span[F], st []Moment[F], keep, take, eps F, x func(i int) F) (func(i int) F, int) {
	if s.Rows > 1 {
		means(s, st[0].V, st[1].V, keep, take, eps, x)
		return rsqrtOf(s.Cols, st[0].V, st[1].V), 2
	}
	v := st[0].V
	elementMeans(v, keep, take, eps, x)
	return func(i int) F { return 1 / sqrt(v[i]) }, 1
}

// sumOf is Σ u².
func sumOf[F Float](n int, u func(i int) F) float64 {
	return total(n, func(lo, hi int) float64 {
		var t float64
		for i := lo; i < hi; i++ {
			v := float64(u(i))
			t += v * v
		}
		return t
	})
}

// adafactor is Transformers': Beta2 is that of the step (1 - step^decay_rate),
// LR the external or the relative rate.
func adafactor[F Float](a *Args[F], s *Span[F]) {
	n := len(s.P)
	lr := s.LR
	if a.ScaleParameter {
		lr *= max(a.Eps2, rms(sumSq(s.P), n))
	}
	grad := func(i int) F { return s.G[i] * a.Clip }
	root, used := second(s, s.State, F(a.Beta2), F(1-a.Beta2), F(a.Eps), grad)
	update := func(i int) F { return F(root(i) * grad(i)) }
	size := F(lr / a.cut(rms(sumOf(n, update), n)))
	keep, b1, r1 := F(1-lr*s.Decay), F(a.Beta1), F(1-a.Beta1)
	chunks(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			u := F(size * update(i))
			if used < len(s.State) {
				m := s.State[used].V
				m[i] = blend(b1, m[i], r1, u)
				u = m[i]
			}
			s.P[i] = F(s.P[i]*keep) - u
		}
	})
}

// cut is what an update of some RMS is divided by.
func (a *Args[F]) cut(rms float64) float64 {
	if a.MaxRMS == 0 {
		return 1
	}
	return max(1, rms/a.MaxRMS)
}

// torchAdafactor is torch.optim.Adafactor: Beta2 is that of the step, LR already
// the smaller of the rate and 1/√step, and Decay is by the rate as given.
func torchAdafactor[F Float](a *Args[F], s *Span[F]) {
	n := len(s.P)
	keep := s.keep()
	alpha := max(a.Eps2, rms(sumSq(s.P), n)) * min(s.LR, 1/math.Sqrt(float64(a.Step)))
	grad := func(i int) F { return s.G[i] * a.Clip }
	least := F(a.Eps * a.Eps)
	var estimate func(i int) F
	if s.Rows > 1 {
		row, col := s.State[0].V, s.State[1].V
		means(s, row, col, F(a.Beta2), F(1-a.Beta2), 0, grad)
		m := F(max(mean(row), a.Eps))
		estimate = func(i int) F { return F(row[i/s.Cols]*col[i%s.Cols]) / m }
	} else {
		v := s.State[0].V
		elementMeans(v, F(a.Beta2), F(1-a.Beta2), 0, grad)
		estimate = func(i int) F { return v[i] }
	}
	update := func(i int) F { return F(1/sqrt(max(estimate(i), least))) * grad(i) }
	size := F(alpha / a.cut(rms(sumOf(n, update), n)))
	chunks(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.P[i] = F(s.P[i]*keep) - F(size*update(i))
		}
	})
}

// came divides Adafactor's smoothed update by how far it strays from the update.
func came[F Float](a *Args[F], s *Span[F]) {
	n := len(s.P)
	m := s.State[0].V
	grad := func(i int) F { return s.G[i] * a.Clip }
	root, used := second(s, s.State[1:], F(a.Beta2), F(1-a.Beta2), F(a.Eps), grad)
	size := F(1 / a.cut(rms(sumOf(n, func(i int) F { return F(root(i) * grad(i)) }), n)))
	update := func(i int) F { return F(size * F(root(i)*grad(i))) }
	b1, r1 := F(a.Beta1), F(1-a.Beta1)
	chunks(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			m[i] = blend(b1, m[i], r1, update(i))
		}
	})
	confidence := func(int) F { return 1 }
	if s.Rows > 1 {
		stray := func(i int) F { return update(i) - m[i] }
		confidence, _ = second(s, s.State[1+used:], F(a.Beta3), F(1-a.Beta3), F(a.Eps2), stray)
	}
	lr, keep := F(s.LR), s.keep()
	chunks(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.P[i] = F(s.P[i]*keep) - F(lr*F(confidence(i)*m[i]))
		}
	})
}
