package autograd_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// tolerance is the largest difference allowed between a float32 gradient and
// the central difference in float64, relative to the largest element.
const tolerance = 1e-5

// gradCase is one operation. in are its inputs in float64; forward computes the
// output from them in float64; tape does it with the operation under test,
// given inputs or parameters as kinds says.
type gradCase struct {
	name    string
	shapes  [][2]int
	params  []bool // which inputs are parameters
	forward func(in [][]float64) []float64
	tape    func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor
}

// newParam makes a trainable f32 parameter.
func newParam(tb testing.TB, dev kernels.Backend, name string, rows, cols int, v []float64) *autograd.Param {
	tb.Helper()
	m, err := dev.Load(kernels.Weights, dtype.Of(dtype.F32), rows, cols, kernels.Bytes(single(v)), kernels.Copy)
	if err != nil {
		tb.Fatal(err)
	}
	g, err := dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), rows*cols)
	if err != nil {
		tb.Fatal(err)
	}
	dev.Fill(g, 0)
	return &autograd.Param{Name: name, Mat: m, Grad: g}
}

func single(v []float64) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x)
	}
	return out
}

func download(tb testing.TB, dev kernels.Backend, b kernels.Buffer) []float32 {
	tb.Helper()
	v := make([]float32, b.Len())
	if err := dev.Download(kernels.Bytes(v), b); err != nil {
		tb.Fatal(err)
	}
	return v
}

// normal draws values that float32 holds exactly.
func normal(r *rand.Rand, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(float32(r.NormFloat64()))
	}
	return v
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

// central is the gradient of Σ dy·forward(in) by central differences.
func central(c *gradCase, in [][]float64, dy []float64) [][]float64 {
	const h = 1e-5
	out := make([][]float64, len(in))
	for i, x := range in {
		out[i] = make([]float64, len(x))
		for j, v := range x {
			x[j] = v + h
			up := dot(dy, c.forward(in))
			x[j] = v - h
			out[i][j] = (up - dot(dy, c.forward(in))) / (2 * h)
			x[j] = v
		}
	}
	return out
}

// compare fails unless got is within tol of want, relative to want's largest element.
func compare(t *testing.T, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	largest, worst, at := 0.0, 0.0, 0
	for i, w := range want {
		largest = max(largest, math.Abs(w))
		if d := math.Abs(float64(got[i]) - w); d > worst || math.IsNaN(d) {
			worst, at = d, i
			if math.IsNaN(d) {
				t.Fatalf("%s: [%d] is %v, want %v", what, i, got[i], w)
			}
		}
	}
	if worst > tol*largest {
		t.Errorf("%s: [%d] is %v, want %v (relative %.2g)", what, at, got[at], want[at], worst/largest)
	}
}

// check runs a case on a fresh tape and compares output and gradients.
func (c *gradCase) check(t *testing.T, dev kernels.Backend, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	in := make([][]float64, len(c.shapes))
	for i, s := range c.shapes {
		in[i] = normal(r, s[0]*s[1])
	}
	y64 := c.forward(in)
	dy := normal(r, len(y64))
	want := central(c, in, dy)

	tape := &autograd.Tape{Dev: dev, Record: true}
	defer tape.Free()
	x, p := make([]*autograd.Tensor, len(in)), make([]*autograd.Param, len(in))
	for i, s := range c.shapes {
		if c.params[i] {
			p[i] = newParam(t, dev, fmt.Sprint("p", i), s[0], s[1], in[i])
		} else {
			x[i] = tape.Input(single(in[i]), s[0], s[1])
		}
	}
	y := c.tape(tape, x, p)
	got, err := tape.Values(y)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, c.name+": output", got, y64, tolerance)
	tape.Done(y)
	tape.SetGrad(y, single(dy))
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	for i := range in {
		var g []float32
		if c.params[i] {
			g = download(t, dev, p[i].Grad)
		} else if g, err = tape.GradOf(x[i]); err != nil {
			t.Fatal(err)
		}
		compare(t, fmt.Sprintf("%s: gradient of input %d", c.name, i), g, want[i], tolerance)
	}
}

func TestGradients(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	for i, c := range gradCases() {
		t.Run(c.name, func(t *testing.T) {
			c.check(t, dev, uint64(i))
			leaks(t, dev)
		})
	}
}

// leaks fails when activations, gradients of activations or scratch outlive
// their tape. Parameters of the test stay.
func leaks(t *testing.T, dev kernels.Backend) {
	t.Helper()
	now := dev.Info().Mem.Now
	if now[kernels.Activations] != 0 || now[kernels.Scratch] != 0 {
		t.Errorf("%d bytes of activations and %d of scratch are left", now[kernels.Activations], now[kernels.Scratch])
	}
}

// ---- float64 forward passes ----

// matT is x·wᵀ: x [n, in], w [out, in].
func matT(x, w []float64, n, in, out int) []float64 {
	y := make([]float64, n*out)
	for i := range n {
		for o := range out {
			y[i*out+o] = dot(x[i*in:(i+1)*in], w[o*in:(o+1)*in])
		}
	}
	return y
}

func plus(a, b []float64, alpha, beta float64) []float64 {
	y := make([]float64, len(a))
	for i := range a {
		y[i] = alpha*a[i] + beta*b[i]
	}
	return y
}

func norm64(kind kernels.NormKind, x, w, b []float64, eps float64) []float64 {
	c := len(w)
	y := make([]float64, len(x))
	for o := 0; o < len(x); o += c {
		mean, sq := 0.0, 0.0
		if kind == kernels.LayerNorm {
			for _, v := range x[o : o+c] {
				mean += v / float64(c)
			}
		}
		for _, v := range x[o : o+c] {
			sq += (v - mean) * (v - mean) / float64(c)
		}
		for i := range c {
			y[o+i] = (x[o+i] - mean) / math.Sqrt(sq+eps) * w[i]
			if b != nil {
				y[o+i] += b[i]
			}
		}
	}
	return y
}

func act64(kind kernels.ActKind, v float64) float64 {
	switch kind {
	case kernels.SiLU:
		return v / (1 + math.Exp(-v))
	case kernels.GELU:
		return v / 2 * (1 + math.Erf(v/math.Sqrt2))
	case kernels.GELUTanh:
		return v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	}
	return max(v, 0)
}

// ---- the cases ----

func gradCases() []gradCase {
	cases := []gradCase{
		{"linear", [][2]int{{5, 7}, {6, 7}, {1, 6}}, []bool{false, true, true},
			func(in [][]float64) []float64 {
				y := matT(in[0], in[1], 5, 7, 6)
				for i := range y {
					y[i] += in[2][i%6]
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Linear(x[0], p[1], p[2])
			}},
		loraCase(), regroupCase(),
		{"embed", [][2]int{{6, 4}}, []bool{true},
			func(in [][]float64) []float64 {
				var y []float64
				for _, i := range []int{3, 0, 3, 5} {
					y = append(y, in[0][i*4:(i+1)*4]...)
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Embed(p[0], t.Upload([]int32{3, 0, 3, 5}, 4))
			}},
		combineCase(false), combineCase(true),
		{"add", [][2]int{{3, 5}, {3, 5}}, []bool{false, false},
			func(in [][]float64) []float64 { return plus(in[0], in[1], 0.5, -2) },
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Add(x[0], x[1], 0.5, -2)
			}},
		{"scale", [][2]int{{3, 5}}, []bool{false},
			func(in [][]float64) []float64 { return plus(in[0], in[0], 3, 0) },
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Scale(x[0], 3)
			}},
		{"act plain", [][2]int{{3, 5}}, []bool{false},
			func(in [][]float64) []float64 {
				y := make([]float64, 15)
				for i := range y {
					y[i] = act64(kernels.GELUTanh, in[0][i])
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Act(autograd.ActSpec{Kind: kernels.GELUTanh}, x[0], nil)
			}},
		addNormCase(), shareCase(), mlpCase(),
	}
	cases = append(cases, elementwiseCases()...)
	for _, k := range []kernels.NormKind{kernels.RMSNorm, kernels.LayerNorm} {
		cases = append(cases, normCase(k))
	}
	for _, k := range []kernels.ActKind{kernels.SiLU, kernels.GELU, kernels.GELUTanh, kernels.ReLU} {
		cases = append(cases, actCase(k))
	}
	for _, p := range []kernels.Pairs{kernels.HalfSplit, kernels.Adjacent} {
		cases = append(cases, ropeCase(p, 6, 0), ropeCase(p, 4, 0), ropeCase(p, 2, 3))
	}
	cases = append(append(cases, expertCases()...), scanCases()...)
	return append(cases, attentionCases()...)
}

// combineCase sums rows of x, weighted or not; some are chosen twice, one never.
func combineCase(weighted bool) gradCase {
	const n, c, m, k = 5, 4, 3, 2
	idx := []int32{3, 0, 3, 3, 1, 4}
	return gradCase{fmt.Sprint("combine weighted ", weighted), [][2]int{{n, c}, {m, k}}, []bool{false, false},
		func(in [][]float64) []float64 {
			y := make([]float64, m*c)
			for i, r := range idx {
				w := 1.0
				if weighted {
					w = in[1][i]
				}
				for j := range c {
					y[i/k*c+j] += w * in[0][int(r)*c+j]
				}
			}
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			ids := t.Upload(idx, m, k)
			if weighted {
				return t.Combine(x[0], ids, x[1])
			}
			return t.Combine(x[0], ids, nil)
		}}
}

// regroupCase deals the halves of rows in another order, one of them twice, in longer rows.
func regroupCase() gradCase {
	const n, c = 3, 4
	idx := []int32{5, 0, 0, 3, 1, 4}
	return gradCase{"regroup", [][2]int{{n, c}}, []bool{false},
		func(in [][]float64) []float64 {
			var y []float64
			for _, i := range idx {
				y = append(y, in[0][2*i:2*i+2]...)
			}
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			y := t.Regroup(x[0], t.Upload(idx, len(idx)), 2, 6)
			if y.Rows() != 2 || y.Cols() != 6 {
				panic(fmt.Sprint(y.Shape))
			}
			return y
		}}
}

// loraCase has two adapters: y = x·wᵀ + 2·x·a1ᵀ·b1ᵀ - 0.5·x·a2ᵀ·b2ᵀ.
func loraCase() gradCase {
	const n, in, out, r = 5, 7, 6, 2
	return gradCase{"linear with two adapters", [][2]int{{n, in}, {out, in}, {r, in}, {out, r}, {3, in}, {out, 3}},
		[]bool{false, true, true, true, true, true},
		func(v [][]float64) []float64 {
			y := matT(v[0], v[1], n, in, out)
			y = plus(y, matT(matT(v[0], v[2], n, in, r), v[3], n, r, out), 1, 2)
			return plus(y, matT(matT(v[0], v[4], n, in, 3), v[5], n, 3, out), 1, -0.5)
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			return t.Linear(x[0], p[1], nil, &autograd.LowRank{A: p[2], B: p[3], Scale: 2}, &autograd.LowRank{A: p[4], B: p[5], Scale: -0.5})
		}}
}

func normCase(kind kernels.NormKind) gradCase {
	return gradCase{fmt.Sprint("norm ", kind), [][2]int{{4, 9}, {1, 9}, {1, 9}}, []bool{false, true, true},
		func(in [][]float64) []float64 {
			if kind == kernels.RMSNorm {
				return norm64(kind, in[0], in[1], make([]float64, 9), 1e-2)
			}
			return norm64(kind, in[0], in[1], in[2], 1e-2)
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			s := autograd.NormSpec{Kind: kind, W: p[1], Eps: 1e-2}
			if kind == kernels.LayerNorm {
				s.Bias = p[2]
			}
			return t.Norm(x[0], s)
		}}
}

// addNormCase returns sum + norm(sum), so that both results have a gradient.
func addNormCase() gradCase {
	return gradCase{"add and norm", [][2]int{{4, 9}, {4, 9}, {1, 9}}, []bool{false, false, true},
		func(in [][]float64) []float64 {
			sum := plus(in[0], in[1], 1, 0.3)
			return plus(sum, norm64(kernels.RMSNorm, sum, in[2], nil, 1e-2), 1, 1)
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			sum, y := t.AddNorm(x[0], x[1], 0.3, autograd.NormSpec{W: p[2], Eps: 1e-2})
			z := t.Add(sum, y, 1, 1)
			t.Done(sum, y)
			return z
		}}
}

// shareCase sends one gradient to several readers that add to it: (x+z)+(x+z)+x.
func shareCase() gradCase {
	return gradCase{"shared gradients", [][2]int{{3, 4}, {3, 4}}, []bool{false, false},
		func(in [][]float64) []float64 { return plus(in[0], in[1], 3, 2) },
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			a := t.Add(x[0], x[1], 1, 1)
			b := t.Add(a, a, 1, 1)
			return t.Add(b, x[0], 1, 1)
		}}
}

// mlpCase drops every cheap result and reads it again in the backward pass.
func mlpCase() gradCase {
	const n, c, f = 4, 6, 5
	return gradCase{"cheap results made again", [][2]int{{n, c}, {1, c}, {f, c}, {f, c}, {c, f}}, []bool{false, true, true, true, true},
		func(in [][]float64) []float64 {
			h := norm64(kernels.RMSNorm, in[0], in[1], nil, 1e-2)
			g, u := matT(h, in[2], n, c, f), matT(h, in[3], n, c, f)
			for i := range g {
				g[i] = act64(kernels.SiLU, g[i]) * u[i]
			}
			return plus(in[0], matT(g, in[4], n, f, c), 1, 1)
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			h := t.Norm(x[0], autograd.NormSpec{W: p[1], Eps: 1e-2})
			g, u := t.Linear(h, p[2], nil), t.Linear(h, p[3], nil)
			t.Done(h)
			a := t.Act(autograd.ActSpec{}, g, u)
			t.Done(g, u)
			d := t.Linear(a, p[4], nil)
			t.Done(a)
			y := t.Add(x[0], d, 1, 1)
			t.Done(d)
			return y
		}}
}

func actCase(kind kernels.ActKind) gradCase {
	return gradCase{fmt.Sprint("act ", kind), [][2]int{{3, 5}, {3, 5}}, []bool{false, false},
		func(in [][]float64) []float64 {
			y := make([]float64, 15)
			for i := range y {
				y[i] = act64(kind, in[0][i]) * in[1][i]
			}
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			return t.Act(autograd.ActSpec{Kind: kind}, x[0], x[1])
		}}
}

// logProbs is log p(target) under logits scale·h·wᵀ + bias, squeezed where softCap
// is set, 0 where there is no target.
func logProbs(h, w, bias []float64, target []int32, n, c, v int, scale, softCap float64) []float64 {
	logits, out := matT(h, w, n, c, v), make([]float64, n)
	for i := range logits {
		if logits[i] = scale*logits[i] + bias[i%v]; softCap > 0 {
			logits[i] = softCap * math.Tanh(logits[i]/softCap)
		}
	}
	for i, t := range target {
		if t < 0 {
			continue
		}
		sum := 0.0
		for _, l := range logits[i*v : (i+1)*v] {
			sum += math.Exp(l)
		}
		out[i] = logits[i*v+int(t)] - math.Log(sum)
	}
	return out
}
