package kerneltest

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func testColStats(s *suite) {
	s.in("groups", func(s *suite) {
		const rows, cols = 50, 33
		x := s.normal(rows*cols, 1)
		groups, at := s.offsets(rows)
		want := make([]float64, 3*cols)
		for g := range 3 {
			for r := at[g]; r < at[g+1]; r++ {
				for c := range cols {
					want[g*cols+c] += math.Abs(x[int(r)*cols+c])
				}
			}
		}
		a := &kernels.ColStatsArgs{Stat: kernels.SumAbs, Rows: rows, Cols: cols, X: s.up(x), Groups: groups}
		s.check([]result{{name: "out", n: len(want), want: want, tol: 1e-6}}, func(d []kernels.Dst) { s.b.ColStats(d[0], a) })
	})
	for _, c := range []struct{ rows, cols int }{{0, 3}, {1, 1}, {3, 67}, {100, 16}, {2000, 33}} {
		x := s.normal(c.rows*c.cols, 1)
		xb := s.up(x)
		for stat := kernels.SumSq; stat <= kernels.Min; stat++ {
			if stat > kernels.MaxAbs && c.rows == 0 {
				continue // nothing has no largest
			}
			want := make([]float64, c.cols)
			if stat > kernels.MaxAbs {
				copy(want, x)
			}
			for i, v := range x {
				switch j := i % c.cols; stat {
				case kernels.SumSq:
					want[j] += v * v
				case kernels.SumAbs:
					want[j] += math.Abs(v)
				case kernels.MaxAbs:
					want[j] = math.Max(want[j], math.Abs(v))
				case kernels.Max:
					want[j] = math.Max(want[j], v)
				default:
					want[j] = math.Min(want[j], v)
				}
			}
			name := fmt.Sprintf("stat %d of %d×%d", stat, c.rows, c.cols)
			r := []result{{name: name, n: c.cols, want: want, tol: 1e-6}}
			op := func(d []kernels.Dst) {
				s.b.ColStats(d[0], &kernels.ColStatsArgs{Stat: stat, Rows: c.rows, Cols: c.cols, X: xb})
			}
			if stat < kernels.MaxAbs {
				s.check(r, op)
				continue
			}
			s.once("write", r, []mode{writing}, op)
			prev := s.normal(c.cols, 2)
			for j, p := range prev {
				if stat == kernels.MaxAbs {
					prev[j] = math.Abs(p)
				}
			}
			pb := s.up(prev)
			s.b.ColStats(kernels.Into(pb), &kernels.ColStatsArgs{Stat: stat, Rows: c.rows, Cols: c.cols, X: xb})
			for j, p := range prev {
				if stat == kernels.Min {
					want[j] = math.Min(want[j], p)
				} else {
					want[j] = math.Max(want[j], p)
				}
			}
			s.close(name+" (with what is there)", s.get(pb), want, 0)
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

// optimCase is a step of an update rule over spans: lengths and, for each, its
// rate and decay.
type optimCase struct {
	kind      kernels.OptimKind
	momentum  bool // of SGD
	lens      []int
	lr, decay []float64
	maxNorm   float64
}

func testOptim(s *suite) {
	for _, lens := range [][]int{{1}, {37}, {40000}, {5, 20000, 1, 16384, 3, 700}, {5, 300, 1, 90}} {
		if s.large(20 * slices.Max(lens)) {
			continue
		}
		for _, maxNorm := range []float64{0, 0.25, 1e9} {
			for _, c := range []optimCase{{kind: kernels.AdamW}, {kind: kernels.SGD, momentum: true}, {kind: kernels.SGD}} {
				c.lens, c.maxNorm = lens, maxNorm
				for i := range lens {
					c.lr = append(c.lr, 1e-2*float64(1+i%3))
					c.decay = append(c.decay, 0.1*float64(i%2))
				}
				s.in(fmt.Sprintf("kind %d momentum %v spans %v norm %v", c.kind, c.momentum, lens, maxNorm), func(s *suite) { s.optim(c) })
			}
		}
	}
	s.in("not finite", func(s *suite) {
		x := s.normal(9, 1)
		b := s.up(x)
		for _, bad := range []float64{math.NaN(), math.Inf(1)} {
			s.b.Optim(&kernels.OptimArgs{Spans: []kernels.OptimSpan{{P: b, LR: 1}}, G: b, M: b, V: b, Step: 1, SumSq: s.up([]float64{bad})})
		}
		s.close("parameters", s.get(b), x, 0)
	})
}

// optim makes five steps. Spans lie in the flat buffers with gaps, which must
// stay as they are.
func (s *suite) optim(c optimCase) {
	const gap = 7
	n := gap
	for _, l := range c.lens {
		n += l + gap
	}
	o := &kernels.OptimArgs{Kind: c.kind, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, SumSq: s.alloc(dtype.F32, 1), MaxNorm: c.maxNorm}
	m, v := s.normal(n, 1), s.normal(n, 1)
	for i := range v {
		v[i] = math.Abs(v[i])
	}
	if c.kind == kernels.AdamW || c.momentum {
		o.M = s.up(m)
	}
	if c.kind == kernels.AdamW {
		o.V = s.up(v)
	}
	var ps [][]float64
	off := gap
	for i, l := range c.lens {
		p := s.normal(l, 1)
		ps = append(ps, p)
		o.Spans = append(o.Spans, kernels.OptimSpan{P: s.up(p), Off: off, LR: c.lr[i], Decay: c.decay[i]})
		off += l + gap
	}
	for o.Step = 1; o.Step <= 5; o.Step++ {
		g := s.normal(n, 1)
		o.G = s.up(g)
		s.b.Sum(kernels.To(o.SumSq), o.G, nil, n)
		clip := 1.0
		if c.maxNorm > 0 {
			clip = math.Min(1, c.maxNorm/(math.Sqrt(dot(g, g))+1e-6))
		}
		for i, p := range ps {
			sp := o.Spans[i]
			end := sp.Off + len(p)
			if c.kind == kernels.AdamW {
				adam64(p, g[sp.Off:end], m[sp.Off:end], v[sp.Off:end], o, sp, clip)
			} else {
				sgd64(p, g[sp.Off:end], m[sp.Off:end], o, sp, clip)
			}
		}
		s.b.Optim(o)
	}
	for i, p := range ps {
		s.close(fmt.Sprintf("p %d", i), s.get(o.Spans[i].P), p, 2e-6)
	}
	if o.M != nil {
		s.close("m", s.get(o.M), m, 2e-6)
	}
	if o.V != nil {
		s.close("v", s.get(o.V), v, 2e-6)
	}
}

// adam64 is torch.optim.AdamW in float64.
func adam64(p, g, m, v []float64, o *kernels.OptimArgs, sp kernels.OptimSpan, clip float64) {
	t := float64(o.Step)
	for i := range p {
		d := g[i] * clip
		m[i] += (1 - o.Beta1) * (d - m[i])
		v[i] = o.Beta2*v[i] + (1-o.Beta2)*d*d
		step := sp.LR / (1 - math.Pow(o.Beta1, t))
		p[i] = p[i]*(1-sp.LR*sp.Decay) - step*m[i]/(math.Sqrt(v[i])/math.Sqrt(1-math.Pow(o.Beta2, t))+o.Eps)
	}
}

// sgd64 is torch.optim.SGD in float64.
func sgd64(p, g, m []float64, o *kernels.OptimArgs, sp kernels.OptimSpan, clip float64) {
	for i := range p {
		d := g[i]*clip + sp.Decay*p[i]
		if o.M != nil {
			m[i] = o.Beta1*m[i] + d
			d = m[i]
		}
		p[i] -= sp.LR * d
	}
}

func testLogitStats(s *suite) {
	for _, c := range []struct {
		n, v  int
		noise float64
	}{{1, 1, 0}, {3, 5, 1}, {4, 1000, 0.01}, {2, 49152, 1e-3}, {2, 500, 1e-3}, {5, 333, 5}} {
		if s.large(10 * c.n * c.v) {
			continue
		}
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
			func(d []kernels.Dst) {
				s.b.LogitStats(d[0], d[1], &kernels.LogitStatsArgs{N: c.n, V: c.v, Logits: xb, Ref: rb})
			})
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
