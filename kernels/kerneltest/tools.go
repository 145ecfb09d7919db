package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
)

func testColStats(s *suite) {
	for _, c := range []struct{ rows, cols int }{{0, 3}, {1, 1}, {3, 67}, {100, 16}, {2000, 33}} {
		x := s.normal(c.rows*c.cols, 1)
		xb := s.up(x)
		for stat := kernels.SumSq; stat <= kernels.MaxAbs; stat++ {
			want := make([]float64, c.cols)
			for i, v := range x {
				switch j := i % c.cols; stat {
				case kernels.SumSq:
					want[j] += v * v
				case kernels.SumAbs:
					want[j] += math.Abs(v)
				default:
					want[j] = math.Max(want[j], math.Abs(v))
				}
			}
			name := fmt.Sprintf("stat %d of %d×%d", stat, c.rows, c.cols)
			r := []result{{name: name, n: c.cols, want: want, tol: 1e-6}}
			op := func(d []kernels.Dst) { s.b.ColStats(d[0], xb, c.rows, c.cols, stat) }
			if stat != kernels.MaxAbs {
				s.check(r, op)
				continue
			}
			s.once("write", r, []mode{writing}, op)
			prev := s.normal(c.cols, 2)
			for j, p := range prev {
				prev[j] = math.Abs(p)
			}
			pb := s.up(prev)
			s.b.ColStats(kernels.Into(pb), xb, c.rows, c.cols, stat)
			for j, p := range prev {
				want[j] = math.Max(want[j], p)
			}
			s.close(name+" (larger)", s.get(pb), want, 0)
		}
	}
}

func testSum(s *suite) {
	for _, n := range []int{0, 1, 15, 70000} {
		a, b := s.normal(n, 1), s.normal(n, 1)
		ab, bb := s.up(a), s.up(b)
		var one, two float64
		for i := range a {
			one += a[i] * a[i]
			two += (a[i] - b[i]) * (a[i] - b[i])
		}
		s.check([]result{{name: "Σa²", n: 1, want: []float64{one}, tol: 1e-7}}, func(d []kernels.Dst) { s.b.Sum(d[0], ab, nil, n) })
		s.check([]result{{name: "Σ(a-b)²", n: 1, want: []float64{two}, tol: 1e-7}}, func(d []kernels.Dst) { s.b.Sum(d[0], ab, bb, n) })
	}
}

// adam64 is torch.optim.AdamW in float64.
func adam64(p, g, m, v []float64, o *kernels.OptimArgs, clip float64) {
	t := float64(o.Step)
	for i := range p {
		d := g[i] * clip
		m[i] += (1 - o.Beta1) * (d - m[i])
		v[i] = o.Beta2*v[i] + (1-o.Beta2)*d*d
		step := o.LR / (1 - math.Pow(o.Beta1, t))
		p[i] = p[i]*(1-o.LR*o.Decay) - step*m[i]/(math.Sqrt(v[i])/math.Sqrt(1-math.Pow(o.Beta2, t))+o.Eps)
	}
}

func testOptim(s *suite) {
	for _, n := range []int{1, 37, 40000} {
		for _, clip := range []float64{1, 0.25} {
			s.in(fmt.Sprintf("adamw %d clip %v", n, clip), func(s *suite) { s.adamw(n, clip) })
		}
		for _, momentum := range []bool{true, false} {
			s.in(fmt.Sprintf("sgd %d momentum %v", n, momentum), func(s *suite) { s.sgd(n, momentum) })
		}
	}
	s.in("not finite", func(s *suite) {
		x := s.normal(9, 1)
		b := s.up(x)
		for _, bad := range []float64{math.NaN(), math.Inf(1)} {
			s.b.Optim(kernels.AdamW, &kernels.OptimArgs{N: 9, P: b, G: b, M: b, V: b, LR: 1, Step: 1, Clip: s.up([]float64{bad})})
		}
		s.close("parameters", s.get(b), x, 0)
	})
}

func (s *suite) adamw(n int, clip float64) {
	o := &kernels.OptimArgs{N: n, LR: 1e-2, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Decay: 0.1, Clip: s.up([]float64{clip})}
	p, m, v := s.normal(n, 1), make([]float64, n), make([]float64, n)
	o.P, o.M, o.V = s.up(p), s.up(m), s.up(v)
	for o.Step = 1; o.Step <= 5; o.Step++ {
		g := s.normal(n, 1)
		o.G = s.up(g)
		s.b.Optim(kernels.AdamW, o)
		adam64(p, g, m, v, o, clip)
	}
	s.close("p", s.get(o.P), p, 2e-6)
	s.close("m", s.get(o.M), m, 1e-6)
	s.close("v", s.get(o.V), v, 1e-6)
}

func (s *suite) sgd(n int, momentum bool) {
	o := &kernels.OptimArgs{N: n, LR: 1e-2, Beta1: 0.9, Decay: 0.1}
	p, m := s.normal(n, 1), make([]float64, n)
	o.P = s.up(p)
	if momentum {
		o.M = s.up(m)
	}
	for o.Step = 1; o.Step <= 5; o.Step++ {
		g := s.normal(n, 1)
		o.G = s.up(g)
		s.b.Optim(kernels.SGD, o)
		for i := range p {
			d := g[i] + o.Decay*p[i]
			if momentum {
				m[i] = o.Beta1*m[i] + d
				d = m[i]
			}
			p[i] -= o.LR * d
		}
	}
	s.close("p", s.get(o.P), p, 1e-6)
}

func testLogitStats(s *suite) {
	for _, c := range []struct {
		n, v  int
		noise float64
	}{{1, 1, 0}, {3, 5, 1}, {4, 1000, 0.01}, {2, 49152, 1e-3}, {5, 333, 5}} {
		ref := s.normal(c.n*c.v, 4)
		x := make([]float64, len(ref))
		for i, v := range ref {
			x[i] = v + 3 + c.noise*s.rng.NormFloat64()
		}
		rb, xb := s.up(ref), s.up(x)
		kl, top := make([]float64, c.n), make([]float64, c.n)
		for i := range c.n {
			kl[i], top[i] = kl64(ref[i*c.v:(i+1)*c.v], x[i*c.v:(i+1)*c.v])
		}
		s.check([]result{{name: fmt.Sprintf("kl of %d×%d", c.n, c.v), n: c.n, want: kl, tol: 1e-4, abs: 2e-8}, {name: "top1", n: c.n, want: top, tol: 1e-6}},
			func(d []kernels.Dst) { s.b.LogitStats(d[0], d[1], xb, rb, c.n, c.v) })
	}
}

func kl64(ref, x []float64) (kl, same float64) {
	lse := func(x []float64) (top int, l float64) {
		for i, v := range x {
			if v > x[top] {
				top = i
			}
		}
		for _, v := range x {
			l += math.Exp(v - x[top])
		}
		return top, x[top] + math.Log(l)
	}
	tr, lr := lse(ref)
	tx, lx := lse(x)
	for i, r := range ref {
		kl += math.Exp(r-lr) * ((r - lr) - (x[i] - lx))
	}
	if tr == tx {
		same = 1
	}
	return kl, same
}
