package kerneltest

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func testHalfElementwise(s *suite) {
	for _, k := range []normCase{{n: 1, c: 1}, {n: 5, c: 67, w: true}, {n: 90, c: 576, w: true, res: true}, {n: 7, c: 66, w: true, res: true}, {n: 40, c: 64, heads: 4, w: true, bias: true, offset: 1, kind: kernels.LayerNorm}} {
		if s.large(10 * k.n * k.c) {
			continue
		}
		s.in(fmt.Sprintf("norm %+v", k), func(s *suite) { s.halfNorm(k) })
	}
	s.in("act", func(s *suite) {
		for _, kind := range []kernels.ActKind{kernels.SiLU, kernels.GELUTanh, kernels.ReLU2} {
			for _, n := range []int{1, 67, 20000} {
				if s.large(20 * n) {
					continue
				}
				gate, up, dy := s.twin(n), s.twin(n), s.twin(n)
				args := func(half bool) *kernels.ActArgs {
					return &kernels.ActArgs{Kind: kind, N: 1, F: n, Gate: gate.pick(half), Up: up.pick(half)}
				}
				s.halves([]int{n}, func(half bool, d []kernels.Dst) { s.b.Act(d[0], args(half)) })
				s.halves([]int{n, n}, func(half bool, d []kernels.Dst) { s.b.ActBackward(d[0], d[1], dy.pick(half), args(half)) })
			}
			for _, layout := range []kernels.ActLayout{kernels.Halves, kernels.Interleaved} {
				const n, f = 30, 90
				gate, dy := s.twin(2*n*f), s.twin(n*f)
				args := func(half bool) *kernels.ActArgs {
					return &kernels.ActArgs{Kind: kind, Layout: layout, N: n, F: f, Gate: gate.pick(half)}
				}
				s.halves([]int{n * f}, func(half bool, d []kernels.Dst) { s.b.Act(d[0], args(half)) })
				s.halves([]int{2 * n * f}, func(half bool, d []kernels.Dst) { s.b.ActBackward(d[0], kernels.Dst{}, dy.pick(half), args(half)) })
			}
		}
	})
	s.in("mul", func(s *suite) {
		const n, c = 30, 70
		for _, by := range []kernels.MulBy{kernels.ByElement, kernels.ByRow, kernels.ByCol} {
			factors := (&kernels.MulArgs{N: n, C: c, By: by}).Factors()
			x, f, dy := s.twin(n*c), s.twin(factors), s.twin(n*c)
			args := func(half bool) *kernels.MulArgs {
				return &kernels.MulArgs{N: n, C: c, By: by, X: x.pick(half), S: f.pick(half)}
			}
			s.halves([]int{n * c}, func(half bool, d []kernels.Dst) { s.b.Mul(d[0], args(half)) })
			s.halves([]int{n * c, factors, c}, func(half bool, d []kernels.Dst) { s.b.MulBackward(d[0], d[1], d[2], dy.pick(half), args(half)) })
		}
	})
	s.in("copy2d", func(s *suite) {
		x := s.twin(20 * 50)
		s.halves([]int{20 * 30}, func(half bool, d []kernels.Dst) {
			s.b.Copy2D(d[0], &kernels.Copy2DArgs{Rows: 20, Cols: 30, X: x.pick(half), XOff: 7, XStride: 50, YStride: 30})
		})
	})
}

// halfNorm runs a norm whose rows are bf16, and its gradient. The sum of a
// residual is normalised as it is stored, so it is no case of its own.
func (s *suite) halfNorm(k normCase) {
	n, rows := k.n*k.c, max(k.heads, 1)
	x, dy, sum := s.twin(n), s.twin(n), s.twin(n)
	w, bias, stats := s.up(s.normal(rows*k.c, 1)), kernels.Buffer(nil), s.alloc(dtype.F32, k.n*k.kind.StatsLen())
	if k.bias {
		bias = s.up(s.normal(rows*k.c, 1))
	}
	args := func(b kernels.Buffer) *kernels.NormArgs {
		return &kernels.NormArgs{Kind: k.kind, N: k.n, C: k.c, Heads: k.heads, X: b, W: w, Bias: bias, Offset: float32(k.offset), Eps: 1e-5}
	}
	s.halves([]int{n}, func(half bool, d []kernels.Dst) { s.b.Norm(d[0], kernels.Dst{}, stats, args(x.pick(half))) })
	s.halves([]int{n}, func(half bool, d []kernels.Dst) {
		s.b.NormBackward(d[0], kernels.Dst{}, kernels.Dst{}, dy.pick(half), stats, args(x.pick(half)))
	})
	grads := map[bool][2]kernels.Buffer{}
	for _, half := range []bool{true, false} {
		g := [2]kernels.Buffer{s.alloc(dtype.F32, rows*k.c), s.alloc(dtype.F32, rows*k.c)}
		s.b.NormBackward(kernels.Dst{}, kernels.To(g[0]), kernels.To(g[1]), dy.pick(half), stats, args(x.pick(half)))
		grads[half] = g
	}
	for i, name := range []string{"dw", "db"} {
		s.sameValues(name, s.get(grads[true][i]), s.get(grads[false][i]))
	}
	if k.res {
		res := s.twin(n)
		for _, half := range []bool{true, false} {
			a := args(x.pick(half))
			a.Res, a.Alpha = res.pick(half), 0.5
			s.b.Norm(kernels.Dst{}, kernels.To(sum.pick(half)), nil, a)
		}
		want := make([]float64, n)
		for i, v := range s.full(sum.full) {
			want[i] = float64(v)
		}
		s.near("sum", s.full(sum.half), want, halfTol, 1e-6)
		stored, y := s.alloc(dtype.F32, n), s.alloc(dtype.F32, n)
		a := args(x.half)
		a.Res, a.Alpha = res.half, 0.5
		s.b.Norm(kernels.To(y), kernels.To(sum.half), nil, a)
		s.b.Norm(kernels.To(stored), kernels.Dst{}, nil, args(sum.half))
		s.sameValues("the norm of the stored sum", s.get(y), s.get(stored))
	}
}
