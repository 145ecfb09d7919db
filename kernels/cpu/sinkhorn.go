package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// sinkhorn is one Sinkhorn or its gradient. Matrices are small; each is computed in
// float64, step by step: made[0] is the softmax of rows plus Eps, made[k] what the kth
// division makes of the one before, of columns where k is odd.
type sinkhorn struct {
	*kernels.SinkhornArgs
	x []float32
}

func newSinkhorn(a *kernels.SinkhornArgs) *sinkhorn {
	if a.S < 1 || a.Iters < 1 {
		panic(fmt.Sprintf("cpu: sinkhorn: %d times of %d by %d", a.Iters, a.S, a.S))
	}
	want("sinkhorn: x", a.X, a.N*a.S*a.S)
	return &sinkhorn{a, f32(a.X)}
}

// grain is the number of matrices of one task.
func (s *sinkhorn) grain() int { return max(1, elemGrain/(16*s.S*s.S*s.Iters)) }

func (s *sinkhorn) room() [][]float64 {
	made := make([][]float64, 2*s.Iters)
	for k := range made {
		made[k] = make([]float64, s.S*s.S)
	}
	return made
}

// run computes matrix n, and returns the softmax of its rows in soft.
func (s *sinkhorn) run(n int, made [][]float64, soft []float64) {
	size := s.S * s.S
	for i := range s.S {
		softmax64(soft[i*s.S:(i+1)*s.S], s.x[n*size+i*s.S:][:s.S])
	}
	for i, v := range soft {
		made[0][i] = v + float64(s.Eps)
	}
	for k := 1; k < len(made); k++ {
		s.lines(k, func(at, step int) {
			sum := float64(s.Eps)
			for j := range s.S {
				sum += made[k-1][at+j*step]
			}
			for j := range s.S {
				made[k][at+j*step] = made[k-1][at+j*step] / sum
			}
		})
	}
}

// lines calls f for each column where k is odd, else for each row: where it begins,
// and how far its elements lie apart.
func (s *sinkhorn) lines(k int, f func(at, step int)) {
	for i := range s.S {
		if k%2 == 1 {
			f(i, s.S)
		} else {
			f(i*s.S, 1)
		}
	}
}

// Sinkhorn normalises rows and columns of matrices in turn.
func (c *CPU) Sinkhorn(y kernels.Dst, a *kernels.SinkhornArgs) {
	s, size := newSinkhorn(a), a.S*a.S
	want("sinkhorn: y", y.Buffer, a.N*size)
	if y.Skip() {
		return
	}
	out := f32(y.Buffer)
	par.For(a.N, s.grain(), func(lo, hi int) {
		made, soft := s.room(), make([]float64, size)
		for n := lo; n < hi; n++ {
			s.run(n, made, soft)
			s.put(out[n*size:], made[len(made)-1], y.Add, true)
		}
	})
}

// put writes or adds a matrix, or its transpose, to dst.
func (s *sinkhorn) put(dst []float32, m []float64, add, turn bool) {
	for i := range s.S {
		for j := range s.S {
			v := float32(m[i*s.S+j])
			to := &dst[i*s.S+j]
			if turn {
				to = &dst[j*s.S+i]
			}
			if add {
				v += *to
			}
			*to = v
		}
	}
}

// SinkhornBackward goes back through the divisions, which it makes again.
func (c *CPU) SinkhornBackward(dx kernels.Dst, dy kernels.Buffer, a *kernels.SinkhornArgs) {
	s, size := newSinkhorn(a), a.S*a.S
	want("sinkhorn backward: dx", dx.Buffer, a.N*size)
	want("sinkhorn backward: dy", dy, a.N*size)
	if dx.Skip() {
		return
	}
	out, in := f32(dx.Buffer), f32(dy)
	par.For(a.N, s.grain(), func(lo, hi int) {
		made, soft, g := s.room(), make([]float64, size), make([]float64, size)
		for n := lo; n < hi; n++ {
			s.run(n, made, soft)
			for i := range s.S {
				for j := range s.S {
					g[i*s.S+j] = float64(in[n*size+j*s.S+i])
				}
			}
			for k := len(made) - 1; k > 0; k-- {
				s.lines(k, func(at, step int) {
					sum, mean := float64(s.Eps), 0.0
					for j := at; j < at+s.S*step; j += step {
						sum += made[k-1][j]
						mean += g[j] * made[k][j]
					}
					for j := at; j < at+s.S*step; j += step {
						g[j] = (g[j] - mean) / sum
					}
				})
			}
			s.lines(0, func(at, _ int) {
				mean := 0.0
				for j := at; j < at+s.S; j++ {
					mean += g[j] * soft[j]
				}
				for j := at; j < at+s.S; j++ {
					g[j] = soft[j] * (g[j] - mean)
				}
			})
			s.put(out[n*size:], g, dx.Add, false)
		}
	})
}
