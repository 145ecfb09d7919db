package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
)

// sinkhorn64 is the reference of Sinkhorn.
func sinkhorn64(x []float64, n, s, iters int, eps float64) []float64 {
	y := make([]float64, n*s*s)
	for at := 0; at < len(x); at += s * s {
		m := make([]float64, s*s)
		for i := range m {
			sum := 0.0
			for j := range s {
				sum += math.Exp(x[at+i/s*s+j] - x[at+i])
			}
			m[i] = 1/sum + eps
		}
		for turn := 1; turn < 2*iters; turn++ {
			first, step := 1, s // of columns
			if turn%2 == 0 {
				first, step = s, 1
			}
			for line := range s {
				sum := eps
				for j := range s {
					sum += m[line*first+j*step]
				}
				for j := range s {
					m[line*first+j*step] /= sum
				}
			}
		}
		for i := range m {
			y[at+i%s*s+i/s] = m[i]
		}
	}
	return y
}

func testSinkhorn(s *suite) {
	for _, c := range []struct{ n, size, iters int }{{1, 1, 1}, {3, 2, 1}, {5, 4, 3}, {70, 4, 20}, {2, 7, 2}, {0, 2, 2}} {
		s.in(fmt.Sprintf("%d of %d, %d times", c.n, c.size, c.iters), func(s *suite) {
			const eps = 1e-3
			total := c.n * c.size * c.size
			x, dy := s.normal(total, 1), s.normal(total, 1)
			a := &kernels.SinkhornArgs{N: c.n, S: c.size, Iters: c.iters, Eps: eps, X: s.up(x)}
			s.check([]result{{name: "y", n: total, want: sinkhorn64(x, c.n, c.size, c.iters, eps), tol: f32Tol}}, func(d []kernels.Dst) { s.b.Sinkhorn(d[0], a) })
			loss := func() float64 { return dot(dy, sinkhorn64(x, c.n, c.size, c.iters, eps)) }
			dyb := s.up(dy)
			s.check([]result{{name: "dx", n: total, want: gradient(loss, x, s.some(total, 40)), tol: f32Tol, abs: 2e-6}}, func(d []kernels.Dst) { s.b.SinkhornBackward(d[0], dyb, a) })
		})
	}
}
