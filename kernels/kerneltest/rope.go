package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
)

func testRope(s *suite) {
	for _, c := range []struct{ n, h, d, rot, off int }{
		{1, 1, 2, 2, 0}, {3, 2, 8, 8, 0}, {5, 3, 64, 64, 0}, {4, 2, 20, 6, 0}, {2, 9, 128, 32, 0}, {3, 2, 5, 0, 0},
		{4, 2, 20, 6, 14}, {3, 4, 192, 64, 128}, {5, 2, 11, 4, 3},
	} {
		for _, pairs := range []kernels.Pairs{kernels.HalfSplit, kernels.Adjacent} {
			for i, v := range views(c.n, c.h, c.d) {
				s.in(fmt.Sprintf("%d×%d×%d rot %d from %d pairs %d view %d", c.n, c.h, c.d, c.rot, c.off, pairs, i), func(s *suite) {
					s.rope(v, kernels.RopeArgs{N: c.n, H: c.h, D: c.d, Rot: c.rot, Off: c.off, Pairs: pairs})
				})
			}
		}
	}
}

func (s *suite) rope(v view, a kernels.RopeArgs) {
	x := s.normal(v.n*v.h*v.d, 1)
	cs := make([]float64, v.n*a.Rot)
	for i := range v.n * a.Rot / 2 {
		sin, cos := math.Sincos(s.rng.Float64() * 100)
		cs[2*i], cs[2*i+1] = cos, sin
	}
	a.CS = s.up(cs)
	for _, a.Inverse = range []bool{false, true} {
		want := rope64(x, cs, &a)
		xh := s.heads(v, x)
		s.check([]result{{name: "y", n: v.size(), at: v.at, want: want, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Rope(v.of(d[0]), xh, &a) })
		s.b.Rope(xh, xh, &a)
		got, dense := s.get(xh.Buffer), make([]float32, len(want))
		for i := range dense {
			dense[i] = got[v.at(i)]
		}
		s.close("in place", dense, want, 1e-6)
	}
}

func rope64(x, cs []float64, r *kernels.RopeArgs) []float64 {
	y := append([]float64{}, x...)
	for i := range r.N * r.H {
		for j := range r.Rot / 2 {
			a, b := i*r.D+r.Off+j, i*r.D+r.Off+j+r.Rot/2
			if r.Pairs == kernels.Adjacent {
				a, b = i*r.D+r.Off+2*j, i*r.D+r.Off+2*j+1
			}
			c, sn := cs[(i/r.H)*r.Rot+2*j], cs[(i/r.H)*r.Rot+2*j+1]
			if r.Inverse {
				sn = -sn
			}
			y[a], y[b] = x[a]*c-x[b]*sn, x[b]*c+x[a]*sn
		}
	}
	return y
}
