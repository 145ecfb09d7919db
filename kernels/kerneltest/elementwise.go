package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// normCase is a norm of n rows of c.
type normCase struct {
	kind   kernels.NormKind
	n, c   int
	heads  int // rows of weights; 0: one
	offset float64
	w      bool
	bias   bool
	res    bool
}

// of is the reference of Norm.
func (k normCase) of(x, w, bias []float64, eps float64) []float64 {
	y, c := make([]float64, len(x)), k.c
	for i := range k.n {
		row := x[i*c : (i+1)*c]
		var mean, sq float64
		if k.kind == kernels.LayerNorm {
			for _, v := range row {
				mean += v / float64(c)
			}
		}
		for _, v := range row {
			sq += (v - mean) * (v - mean) / float64(c)
		}
		r, head := 1/math.Sqrt(sq+eps), i%max(k.heads, 1)*c
		for j, v := range row {
			v = (v - mean) * r
			if w != nil {
				v *= k.offset + w[head+j]
			}
			if bias != nil {
				v += bias[head+j]
			}
			y[i*c+j] = v
		}
	}
	return y
}

func testNorm(s *suite) {
	for _, kind := range []kernels.NormKind{kernels.RMSNorm, kernels.LayerNorm} {
		for _, c := range []struct{ n, c int }{{1, 1}, {3, 8}, {5, 67}, {2, 576}, {100, 64}, {0, 8}} {
			for _, k := range []normCase{{}, {w: true}, {w: true, bias: true}, {w: true, res: true}, {w: true, offset: 1}, {w: true, bias: true, res: true, offset: 0.5}} {
				if k.kind, k.n, k.c = kind, c.n, c.c; k.c == 1 && k.offset > 0 || s.large(4*k.n*k.c) {
					continue // one column is its own mean, where nothing but rounding is left; or too large
				}
				s.in(fmt.Sprintf("%+v", k), k.run)
			}
		}
		for _, k := range []normCase{{n: 12, c: 16, heads: 4, w: true}, {n: 300, c: 64, heads: 3, w: true, bias: true, offset: 1}, {n: 6, c: 5, heads: 6, w: true, res: true}} {
			if k.kind = kind; s.large(4 * k.n * k.c) {
				continue
			}
			s.in(fmt.Sprintf("%+v", k), k.run)
		}
	}
}

func (k normCase) run(s *suite) {
	n, c, rows := k.n, k.c, max(k.heads, 1)
	x := s.normal(n*c, 1)
	a := &kernels.NormArgs{Kind: k.kind, N: n, C: c, Heads: k.heads, X: s.up(x), Offset: float32(k.offset), Eps: 1e-5}
	sum := append([]float64{}, x...)
	var w, bias []float64
	if k.w {
		w = s.normal(rows*c, 1)
		a.W = s.up(w)
	}
	if k.bias {
		bias = s.normal(rows*c, 1)
		a.Bias = s.up(bias)
	}
	results := []result{{name: "y"}}
	if k.res {
		res := s.normal(n*c, 1)
		a.Res, a.Alpha = s.up(res), 0.75
		for i := range sum {
			sum[i] = res[i] + 0.75*x[i]
		}
		results = append(results, result{name: "sum", n: n * c, want: sum, tol: 1e-6})
	}
	y := k.of(sum, w, bias, float64(a.Eps))
	results[0] = result{name: "y", n: n * c, want: y, tol: f32Tol}
	stats := s.alloc(dtype.F32, n*k.kind.StatsLen())
	s.check(results, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.Norm(d[0], d[1], stats, a)
	})
	s.check(results[:1], func(d []kernels.Dst) { s.b.Norm(d[0], kernels.Dst{}, nil, a) })

	dy := s.normal(n*c, 1)
	dyb := s.up(dy)
	loss := func() float64 { return dot(dy, k.of(sum, w, bias, float64(a.Eps))) }
	back := *a
	back.X, back.Res = s.up(sum), nil
	s.b.Norm(kernels.Dst{}, kernels.Dst{}, stats, &back)
	cancels := 2e-6
	if c == 1 { // a row of one has no slope: what cancels is multiplied by 1/√eps
		cancels = 1e-4
	}
	grads := []result{{name: "dx", n: n * c, want: gradient(loss, sum, s.some(n*c, 60)), tol: f32Tol, abs: cancels}}
	if w != nil {
		grads = append(grads, result{name: "dw", n: rows * c, want: gradient(loss, w, s.some(rows*c, 30)), tol: f32Tol})
	}
	if bias != nil {
		grads = append(grads, result{name: "db", n: rows * c, want: gradient(loss, bias, s.some(rows*c, 30)), tol: f32Tol})
	}
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{}, kernels.Dst{})
		s.b.NormBackward(d[0], d[1], d[2], dyb, stats, &back)
	})
}

// act64 is the reference of one element of Act; u is 1 where it isn't gated.
func act64(a *kernels.ActArgs, g, u float64) float64 {
	sigma := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	switch a.Kind {
	case kernels.SiLU:
		return u * g * sigma(g)
	case kernels.GELU:
		return u * 0.5 * g * math.Erfc(-g/math.Sqrt2)
	case kernels.GELUTanh:
		return u * 0.5 * g * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(g+0.044715*g*g*g)))
	case kernels.ReLU:
		return u * math.Max(g, 0)
	case kernels.ReLU2:
		return u * math.Pow(math.Max(g, 0), 2)
	case kernels.Sigmoid:
		return u * sigma(g)
	case kernels.Tanh:
		return u * math.Tanh(g)
	case kernels.QuickGELU:
		return u * g * sigma(1.702*g)
	case kernels.Softplus:
		return u * math.Log(1+math.Exp(g))
	case kernels.XIELU:
		if g > 0 {
			return u * (float64(a.AlphaP)*g*g + float64(a.Beta)*g)
		}
		return u * (float64(a.AlphaN)*(math.Exp(math.Min(g, float64(a.Eps)))-1-g) + float64(a.Beta)*g)
	case kernels.Clip:
		return u * math.Max(-float64(a.Limit), math.Min(g, float64(a.Limit)))
	case kernels.Rsqrt:
		return u / math.Sqrt(math.Max(g, float64(a.Limit)))
	case kernels.LimitedSwiGLU:
		g, u = math.Min(g, float64(a.Limit)), math.Max(-float64(a.Limit), math.Min(u, float64(a.Limit)))
		return g * sigma(g) * u
	case kernels.ClampedSwiGLU:
		g, u = math.Min(g, float64(a.Limit)), math.Max(-float64(a.Limit), math.Min(u, float64(a.Limit)))
		return g * sigma(float64(a.Alpha)*g) * (u + 1)
	}
	panic("no such activation")
}

// actParams are the numbers of the models that have any: gpt-oss, Apertus and OLMo.
var actParams = kernels.ActParams{Limit: 2, Alpha: 1.702, AlphaP: 0.8, AlphaN: 0.9, Beta: 0.5, Eps: -1e-6}

func testAct(s *suite) {
	for k := kernels.SiLU; k <= kernels.LimitedSwiGLU; k++ {
		for _, c := range []struct{ n, f int }{{1, 1}, {3, 17}, {7, 1536}, {0, 4}} {
			if s.large(20 * c.n * c.f) {
				continue
			}
			for _, layout := range []kernels.ActLayout{kernels.Separate, kernels.Halves, kernels.Interleaved} {
				a := kernels.ActArgs{Kind: k, Layout: layout, ActParams: actParams, N: c.n, F: c.f}
				s.in(fmt.Sprintf("kind %d layout %d %d×%d", k, layout, c.n, c.f), func(s *suite) { s.act(a, true) })
				if _, gated := k.Opened(); layout == kernels.Separate && !gated {
					s.in(fmt.Sprintf("kind %d alone %d×%d", k, c.n, c.f), func(s *suite) { s.act(a, false) })
				}
			}
		}
	}
	s.in("extremes", func(s *suite) {
		x := []float64{-1e30, -200, -100, -89, -88, -87, -50, -1e-30, 0, 1e-30, 50, 87, 88, 89, 100, 200, 1e30}
		want := make([]float64, len(x))
		g := s.up(x)
		a := &kernels.ActArgs{N: 1, F: len(x), Gate: g}
		for i, v := range x {
			want[i] = act64(a, v, 1)
		}
		y := s.alloc(dtype.F32, len(x))
		s.b.Act(kernels.To(y), a)
		for i, v := range s.get(y) {
			s.close(fmt.Sprintf("silu(%v)", x[i]), []float32{v + 1}, []float64{want[i] + 1}, 1e-6)
		}
	})
}

// act checks one activation; gates and ups lie as a.Layout says.
func (s *suite) act(a kernels.ActArgs, gated bool) {
	n, f := a.N, a.F
	g, up, dy := s.normal(n*f, 3), s.normal(n*f, 2), s.normal(n*f, 1)
	y, dg, du := make([]float64, n*f), make([]float64, n*f), make([]float64, n*f)
	for i := range g {
		if !gated {
			up[i] = 1
		}
		const h = 1e-6
		for _, kink := range []float64{0, float64(a.Limit)} { // stay off the places without a slope
			if math.Abs(math.Abs(g[i])-kink) < 1e-4 {
				g[i] += 1e-3
			}
			if math.Abs(math.Abs(up[i])-kink) < 1e-4 {
				up[i] += 1e-3
			}
		}
		g[i], up[i] = float64(float32(g[i])), float64(float32(up[i]))
		y[i] = act64(&a, g[i], up[i])
		dg[i] = dy[i] * (act64(&a, g[i]+h, up[i]) - act64(&a, g[i]-h, up[i])) / (2 * h)
		du[i] = dy[i] * (act64(&a, g[i], up[i]+h) - act64(&a, g[i], up[i]-h)) / (2 * h)
	}
	// A slope near its zero is a difference of numbers of order one, each rounded: the
	// last bit of two of these is forgiven where it is all there is.
	const bit = 0x1p-22
	grads := []result{{name: "dgate", n: n * f, want: dg, tol: f32Tol, abs: bit}, {name: "dup", n: n * f, want: du, tol: f32Tol, abs: bit}}
	switch {
	case a.Layout != kernels.Separate:
		a.Gate = s.up(together(a.Layout, f, g, up))
		grads = []result{{name: "dgate", n: 2 * n * f, want: together(a.Layout, f, dg, du), tol: f32Tol, abs: bit}}
	case gated:
		a.Gate, a.Up = s.up(g), s.up(up)
	default:
		a.Gate = s.up(g)
		grads = grads[:1]
	}
	s.check([]result{{name: "y", n: n * f, want: y, tol: 2e-6, abs: 1e-6}}, func(d []kernels.Dst) { s.b.Act(d[0], &a) })
	dyb := s.up(dy)
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.ActBackward(d[0], d[1], dyb, &a)
	})
}

// together lays gates and ups [n, f] out as one matrix [n, 2f].
func together(l kernels.ActLayout, f int, g, up []float64) []float64 {
	out := make([]float64, 2*len(g))
	for i := range g {
		if l == kernels.Halves {
			row, col := i/f*2*f, i%f
			out[row+col], out[row+f+col] = g[i], up[i]
		} else {
			out[2*i], out[2*i+1] = g[i], up[i]
		}
	}
	return out
}

// mulAt is the factor of element i of [n, c].
func mulAt(by kernels.MulBy, i, c int) int {
	switch by {
	case kernels.ByRow:
		return i / c
	case kernels.ByCol:
		return i % c
	}
	return i
}

func testMul(s *suite) {
	for _, c := range []struct{ n, c int }{{1, 1}, {3, 67}, {70, 130}, {1, 5000}, {300, 3}, {0, 4}} {
		for _, by := range []kernels.MulBy{kernels.ByElement, kernels.ByRow, kernels.ByCol} {
			s.in(fmt.Sprintf("%d×%d by %d", c.n, c.c, by), func(s *suite) { s.mul(c.n, c.c, by, false) })
		}
		s.in(fmt.Sprintf("%d×%d by column, with a bias", c.n, c.c), func(s *suite) { s.mul(c.n, c.c, kernels.ByCol, true) })
	}
}

func (s *suite) mul(n, c int, by kernels.MulBy, biased bool) {
	a := &kernels.MulArgs{N: n, C: c, By: by}
	x, f, dy, bias := s.normal(n*c, 1), s.normal(a.Factors(), 1), s.normal(n*c, 1), make([]float64, c)
	a.X, a.S = s.up(x), s.up(f)
	if biased {
		bias = s.normal(c, 1)
		a.Bias = s.up(bias)
	}
	y, dx, df, db := make([]float64, n*c), make([]float64, n*c), make([]float64, len(f)), make([]float64, c)
	for i, v := range x {
		k := mulAt(by, i, c)
		y[i], dx[i] = v*f[k]+bias[i%c], dy[i]*f[k]
		df[k] += dy[i] * v
		db[i%c] += dy[i]
	}
	dyb := s.up(dy)
	s.check([]result{{name: "y", n: n * c, want: y, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Mul(d[0], a) })
	if !biased {
		s.divide(a, x, f)
	}
	grads := []result{{name: "dx", n: n * c, want: dx, tol: 1e-6}, {name: "ds", n: len(f), want: df, tol: f32Tol}}
	if biased {
		grads = append(grads, result{name: "dbias", n: c, want: db, tol: f32Tol})
	}
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.MulBackward(d[0], d[1], d[2], dyb, a)
	})
	in := s.up(append([]float64{}, dy...))
	s.b.MulBackward(kernels.To(in), kernels.Dst{}, kernels.Dst{}, in, a)
	s.close("dx in place of dy", s.get(in), dx, 1e-6)
}

// divide is the same operands' quotient.
func (s *suite) divide(a *kernels.MulArgs, x, f []float64) {
	s.Helper()
	by, want := make([]float64, len(f)), make([]float64, len(x))
	for i, v := range f {
		by[i] = math.Copysign(0.5+math.Abs(v), v)
	}
	for i, v := range x {
		want[i] = v / by[mulAt(a.By, i, a.C)]
	}
	d := *a
	d.S = s.up(by)
	s.check([]result{{name: "quotient", n: len(want), want: want, tol: 1e-6}}, func(y []kernels.Dst) { s.b.Divide(y[0], &d) })
}

func testCopy2D(s *suite) {
	for _, a := range []kernels.Copy2DArgs{
		{Rows: 1, Cols: 5, XStride: 5, YStride: 5}, {Rows: 7, Cols: 3, XOff: 2, XStride: 11, YOff: 1, YStride: 4},
		{Rows: 40, Cols: 700, XOff: 13, XStride: 1001, YStride: 700}, {Rows: 9, Cols: 1, XStride: 0, YStride: 3}, {Cols: 4},
	} {
		if s.large(10 * a.Rows * a.Cols) {
			continue
		}
		s.in(fmt.Sprintf("%+v", a), func(s *suite) {
			x := s.normal(a.XOff+max(a.Rows-1, 0)*a.XStride+a.Cols, 1)
			a.X = s.up(x)
			want := make([]float64, a.Rows*a.Cols)
			for i := range want {
				want[i] = x[a.XOff+i/a.Cols*a.XStride+i%a.Cols]
			}
			at := func(i int) int { return a.YOff + i/a.Cols*a.YStride + i%a.Cols }
			s.check([]result{{name: "y", n: a.YOff + max(a.Rows-1, 0)*a.YStride + a.Cols, at: at, want: want, tol: 1e-7}},
				func(d []kernels.Dst) { s.b.Copy2D(d[0], &a) })
		})
	}
}

func testAdd(s *suite) {
	for _, n := range []int{0, 1, 3, 31, 65, 50000} {
		if s.large(10 * n) {
			continue
		}
		x, z := s.normal(n, 1), s.normal(n, 1)
		xb, zb := s.up(x), s.up(z)
		both, one := make([]float64, n), make([]float64, n)
		for i := range both {
			both[i], one[i] = 1.5*x[i]-0.25*z[i], -2*x[i]
		}
		s.check([]result{{name: "two", n: n, want: both, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Add(d[0], &kernels.AddArgs{N: n, A: xb, B: zb, Alpha: 1.5, Beta: -0.25}) })
		s.check([]result{{name: "one", n: n, want: one, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Add(d[0], &kernels.AddArgs{N: n, A: xb, Alpha: -2}) })
	}
	s.in("converts", func(s *suite) {
		for k, tol := range map[dtype.Kind]float64{dtype.BF16: 0x1p-8, dtype.F16: 0x1p-11} {
			x := s.normal(999, 1)
			half, full := s.alloc(k, 999), s.alloc(dtype.F32, 999)
			s.b.Add(kernels.To(half), &kernels.AddArgs{N: 999, A: s.up(x), Alpha: 1})
			s.b.Add(kernels.To(full), &kernels.AddArgs{N: 999, A: half, Alpha: 1})
			s.close(k.String(), s.get(full), x, tol)
			s.b.Add(kernels.Into(half), &kernels.AddArgs{N: 999, A: half, B: half, Alpha: 1, Beta: 1})
			s.b.Add(kernels.To(full), &kernels.AddArgs{N: 999, A: half, Alpha: 1})
			for i := range x {
				x[i] *= 3
			}
			s.close(k.String()+" adding", s.get(full), x, 2*tol)
		}
	})
}
