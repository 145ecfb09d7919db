package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
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
