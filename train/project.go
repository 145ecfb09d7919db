package train

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
)

// spare is how many vectors more than asked for, and iterations how many products
// with a matrix, find its first singular vectors (Halko, Martinsson, Tropp 2011).
const (
	spare      = 32
	iterations = 3
)

// project makes p's projection anew: singular vectors of its gradient, or random
// numbers of variance 1/r.
func (l *lowRank) project(p *param, s *projected, step int) error {
	d := p.Rows
	if s.right {
		d = p.Cols
	}
	var vectors []float64 // [r, d]
	var err error
	if l.random {
		vectors = make([]float64, s.r*d)
		normal(vectors, uint64(*l.c.Seed), step, p.off, 1/math.Sqrt(float64(s.r)))
	} else if vectors, err = l.singular(p, s, d, step); err != nil {
		return err
	}
	out := make([]float32, s.r*d)
	for i, v := range vectors {
		if s.right {
			out[i] = float32(v)
		} else {
			out[i%d*s.r+i/d] = float32(v)
		}
	}
	err = l.dev.Run(func() error { l.dev.Upload(s.proj, kernels.Bytes(out)); return nil })
	if l.replaced != nil {
		l.replaced(p, step)
	}
	return err
}

// tried is the number of vectors that are carried along to find s.r.
func (s *projected) tried(p *param) int { return min(max(2*s.r, s.r+spare), p.Rows, p.Cols) }

// singular returns the first s.r singular vectors of p's gradient on s's side, of
// length d, by powers of the gradient times its transpose.
func (l *lowRank) singular(p *param, s *projected, d, step int) ([]float64, error) {
	k := s.tried(p)
	q := make([]float64, k*d)
	normal(q, uint64(*l.c.Seed), step, p.off, 1)
	orthonormal(q, k, d)
	var gram []float32
	for i := range iterations + 1 {
		next, g, err := l.power(p, s, q, k, i < iterations)
		if err != nil {
			return nil, err
		}
		if gram = g; g == nil {
			for i, v := range next {
				q[i] = float64(v)
			}
			orthonormal(q, k, d)
		}
	}
	small := newSquare(k)
	for i, v := range gram {
		small.v[i] = float64(v)
	}
	_, turn := eigen(small)
	out := make([]float64, s.r*d)
	for i := range s.r {
		for j, f := range turn.row(i) {
			for x, v := range q[j*d : (j+1)*d] {
				out[i*d+x] += f * v
			}
		}
	}
	return out, nil
}

// power sends the k rows of q to the other side of p's gradient. With back it
// returns them sent back [k, d], else their products there with each other [k, k].
func (l *lowRank) power(p *param, s *projected, q []float64, k int, back bool) (next, gram []float32, err error) {
	d := len(q) / k
	other := p.Len() / d
	x, y := l.dev.Slice(l.scratch[3], 0, k*d), l.dev.Slice(l.scratch[4], 0, k*other)
	next = make([]float32, k*d)
	for i, v := range q {
		next[i] = float32(v)
	}
	err = l.dev.Run(func() error {
		l.dev.Upload(x, kernels.Bytes(next))
		l.dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: x, B: p.Grad, TB: s.right, M: k, N: other, K: d, Alpha: 1})
		if back {
			l.dev.Gemm(kernels.To(x), &kernels.GemmArgs{A: y, B: p.Grad, TB: !s.right, M: k, N: d, K: other, Alpha: 1})
			return l.dev.Download(kernels.Bytes(next), x)
		}
		g := l.dev.Slice(l.scratch[5], 0, k*k)
		l.dev.Gemm(kernels.To(g), &kernels.GemmArgs{A: y, B: y, TB: true, M: k, N: k, K: other, Alpha: 1})
		gram = make([]float32, k*k)
		return l.dev.Download(kernels.Bytes(gram), g)
	})
	return next, gram, err
}
