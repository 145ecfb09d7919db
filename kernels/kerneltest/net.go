package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// f32Tol is the allowance of operations that round a few times.
const f32Tol = 1e-5

// weights loads a random matrix of type t and returns what it decodes to.
func (s *suite) weights(t dtype.Type, rows, cols int, size float64) (kernels.Mat, []float64) {
	s.Helper()
	x := s.normal(rows*cols, size)
	raw := block.New(t, rows, cols)
	f := make([]float32, len(x))
	for i, v := range x {
		f[i] = float32(v)
	}
	switch t.Kind {
	case dtype.F32:
		block.PutF32(raw.Data, f)
	case dtype.BF16:
		block.PutBF16(raw.Data, f)
	case dtype.F16:
		block.PutF16(raw.Data, f)
	default:
		if err := block.Encode(raw, f, nil); err != nil {
			s.Fatalf("%v: %v", t, err)
		}
	}
	block.DecodeAll(f, raw)
	for i, v := range f {
		x[i] = float64(v)
	}
	m, err := s.b.Load(kernels.Weights, t, rows, cols, raw.Data, kernels.Copy)
	if err != nil {
		s.Fatal(err)
	}
	s.bufs = append(s.bufs, m.Buffer)
	return m, x
}

// norm64 is the reference of Norm.
func norm64(kind kernels.NormKind, n, c int, x, w, bias []float64, eps float64) []float64 {
	y := make([]float64, n*c)
	for i := range n {
		row := x[i*c : (i+1)*c]
		var mean, sq float64
		if kind == kernels.LayerNorm {
			for _, v := range row {
				mean += v / float64(c)
			}
		}
		for _, v := range row {
			sq += (v - mean) * (v - mean) / float64(c)
		}
		r := 1 / math.Sqrt(sq+eps)
		for j, v := range row {
			v = (v - mean) * r
			if w != nil {
				v *= w[j]
			}
			if bias != nil {
				v += bias[j]
			}
			y[i*c+j] = v
		}
	}
	return y
}

func testNorm(s *suite) {
	for _, kind := range []kernels.NormKind{kernels.RMSNorm, kernels.LayerNorm} {
		for _, c := range []struct{ n, c int }{{1, 1}, {3, 8}, {5, 67}, {2, 576}, {100, 64}, {0, 8}} {
			for _, parts := range []string{"plain", "w", "w bias", "w res"} {
				s.in(fmt.Sprintf("kind %d %d×%d %s", kind, c.n, c.c, parts), func(s *suite) { s.norm(kind, c.n, c.c, parts) })
			}
		}
	}
}

func (s *suite) norm(kind kernels.NormKind, n, c int, parts string) {
	x := s.normal(n*c, 1)
	a := &kernels.NormArgs{Kind: kind, N: n, C: c, X: s.up(x), Eps: 1e-5}
	sum := append([]float64{}, x...)
	var w, bias []float64
	if parts != "plain" {
		w = s.normal(c, 1)
		a.W = s.up(w)
	}
	if parts == "w bias" {
		bias = s.normal(c, 1)
		a.Bias = s.up(bias)
	}
	results := []result{{name: "y"}}
	if parts == "w res" {
		res := s.normal(n*c, 1)
		a.Res, a.Alpha = s.up(res), 0.75
		for i := range sum {
			sum[i] = res[i] + 0.75*x[i]
		}
		results = append(results, result{name: "sum", n: n * c, want: sum, tol: 1e-6})
	}
	y := norm64(kind, n, c, sum, w, bias, float64(a.Eps))
	results[0] = result{name: "y", n: n * c, want: y, tol: f32Tol}
	stats := s.alloc(dtype.F32, n*(1+int(kind)))
	s.check(results, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.Norm(d[0], d[1], stats, a)
	})
	s.check(results[:1], func(d []kernels.Dst) { s.b.Norm(d[0], kernels.Dst{}, nil, a) })

	dy := s.normal(n*c, 1)
	dyb := s.up(dy)
	loss := func() float64 { return dot(dy, norm64(kind, n, c, sum, w, bias, float64(a.Eps))) }
	back := *a
	back.X, back.Res = s.up(sum), nil
	s.b.Norm(kernels.Dst{}, kernels.Dst{}, stats, &back)
	grads := []result{{name: "dx", n: n * c, want: gradient(loss, sum, s.some(n*c, 60)), tol: f32Tol, abs: 2e-6}}
	if w != nil {
		grads = append(grads, result{name: "dw", n: c, want: gradient(loss, w, s.some(c, 30)), tol: f32Tol})
	}
	if bias != nil {
		grads = append(grads, result{name: "db", n: c, want: gradient(loss, bias, s.some(c, 30)), tol: f32Tol})
	}
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{}, kernels.Dst{})
		s.b.NormBackward(d[0], d[1], d[2], dyb, stats, &back)
	})
}

func act64(k kernels.ActKind, x float64) float64 {
	switch k {
	case kernels.SiLU:
		return x / (1 + math.Exp(-x))
	case kernels.GELU:
		return 0.5 * x * math.Erfc(-x/math.Sqrt2)
	case kernels.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	return math.Max(x, 0)
}

func testAct(s *suite) {
	for k := kernels.SiLU; k <= kernels.ReLU; k++ {
		for _, c := range []struct{ n, f int }{{1, 1}, {3, 17}, {7, 1536}} {
			for _, gated := range []bool{true, false} {
				s.in(fmt.Sprintf("kind %d %d×%d gated %v", k, c.n, c.f, gated), func(s *suite) { s.act(k, c.n, c.f, gated) })
			}
		}
	}
	s.in("extremes", func(s *suite) {
		x := []float64{-1e30, -200, -100, -89, -88, -87, -50, -1e-30, 0, 1e-30, 50, 87, 88, 89, 100, 200, 1e30}
		want := make([]float64, len(x))
		g := s.up(x)
		for i, v := range x {
			want[i] = act64(kernels.SiLU, v)
		}
		y := s.alloc(dtype.F32, len(x))
		s.b.Act(kernels.To(y), &kernels.ActArgs{N: 1, F: len(x), Gate: g})
		for i, v := range s.get(y) {
			s.close(fmt.Sprintf("silu(%v)", x[i]), []float32{v + 1}, []float64{want[i] + 1}, 1e-6)
		}
	})
}

func (s *suite) act(k kernels.ActKind, n, f int, gated bool) {
	g, dy := s.normal(n*f, 3), s.normal(n*f, 1)
	a := &kernels.ActArgs{Kind: k, N: n, F: f, Gate: s.up(g)}
	up := s.normal(n*f, 1)
	dyb, upb := s.up(dy), s.up(up)
	if gated {
		a.Up = upb
	} else {
		for i := range up {
			up[i] = 1
		}
	}
	y, dg, du := make([]float64, n*f), make([]float64, n*f), make([]float64, n*f)
	for i, v := range g {
		y[i] = act64(k, v) * up[i]
		h := 1e-5
		if k == kernels.ReLU {
			h = math.Abs(v) / 2
		}
		dg[i] = dy[i] * up[i] * (act64(k, v+h) - act64(k, v-h)) / (2 * h)
		du[i] = dy[i] * act64(k, v)
	}
	s.check([]result{{name: "y", n: n * f, want: y, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Act(d[0], a) })
	grads := []result{{name: "dgate", n: n * f, want: dg, tol: f32Tol}}
	if gated {
		grads = append(grads, result{name: "dup", n: n * f, want: du, tol: f32Tol})
	}
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.ActBackward(d[0], d[1], dyb, a)
	})
}

func testAdd(s *suite) {
	for _, n := range []int{0, 1, 3, 31, 65, 50000} {
		x, z := s.normal(n, 1), s.normal(n, 1)
		xb, zb := s.up(x), s.up(z)
		both, one := make([]float64, n), make([]float64, n)
		for i := range both {
			both[i], one[i] = 1.5*x[i]-0.25*z[i], -2*x[i]
		}
		s.check([]result{{name: "two", n: n, want: both, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Add(d[0], xb, zb, n, 1.5, -0.25) })
		s.check([]result{{name: "one", n: n, want: one, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Add(d[0], xb, nil, n, -2, 0) })
	}
	s.in("converts", func(s *suite) {
		for k, tol := range map[dtype.Kind]float64{dtype.BF16: 0x1p-8, dtype.F16: 0x1p-11} {
			x := s.normal(999, 1)
			half, full := s.alloc(k, 999), s.alloc(dtype.F32, 999)
			s.b.Add(kernels.To(half), s.up(x), nil, 999, 1, 0)
			s.b.Add(kernels.To(full), half, nil, 999, 1, 0)
			s.close(k.String(), s.get(full), x, tol)
			s.b.Add(kernels.Into(half), half, half, 999, 1, 1)
			s.b.Add(kernels.To(full), half, nil, 999, 1, 0)
			for i := range x {
				x[i] *= 3
			}
			s.close(k.String()+" adding", s.get(full), x, 2*tol)
		}
	})
}

// view is a strided layout of heads inside a buffer.
type view struct{ n, h, d, off, tok, head int }

// views returns a dense layout and one with gaps everywhere.
func views(n, h, d int) []view {
	return []view{{n, h, d, 0, h * d, d}, {n, h, d, 5, h*(d+3) + 7, d + 3}}
}

func (v view) size() int { return v.off + v.n*v.tok }

// at is the place of element i of the dense [n, h, d].
func (v view) at(i int) int { return v.off + i/(v.h*v.d)*v.tok + i/v.d%v.h*v.head + i%v.d }

func (v view) of(d kernels.Dst) kernels.Heads {
	if d.Skip() {
		return kernels.Heads{}
	}
	return kernels.Heads{Buffer: d.Buffer, Off: v.off, Tok: v.tok, Head: v.head, Add: d.Add}
}

// heads uploads a dense [n, h, d] in layout v; the gaps are NaN.
func (s *suite) heads(v view, x []float64) kernels.Heads {
	p := make([]float64, v.size())
	for i := range p {
		p[i] = math.NaN()
	}
	for i, e := range x {
		p[v.at(i)] = e
	}
	return v.of(kernels.Dst{Buffer: s.up(p)})
}
