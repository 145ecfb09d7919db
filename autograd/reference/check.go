package reference

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Tolerance is the largest difference that float32 arithmetic explains,
// relative to the largest element of the array.
const Tolerance = 1e-5

// Finding is one array of one layer as a backend computes it, against the
// reference.
type Finding struct {
	Layer string // "attention"
	Array string // "y", or the input whose gradient it is
	Diff  float64
}

// OK reports whether the difference is within Tolerance.
func (f Finding) OK() bool { return f.Diff <= Tolerance }

// Check runs the layer set and its gradients on a backend and compares every
// array with the reference. It takes well under a second.
func Check(dev kernels.Backend) ([]Finding, error) {
	c := &checker{dev: dev, r: rand.New(rand.NewPCG(20, 26))}
	err := dev.Run(func() error {
		for _, f := range []func(){c.linear, c.norm, c.swiglu, c.rope, c.attention, c.crossEntropy} {
			if f(); c.err != nil {
				break
			}
		}
		return c.err
	})
	for _, b := range c.held {
		dev.Free(b)
	}
	return c.found, err
}

// checker uploads what it draws, so both sides see the same values.
type checker struct {
	dev   kernels.Backend
	r     *rand.Rand
	held  []kernels.Buffer
	found []Finding
	err   error
}

// random draws a matrix of values that float32 holds exactly, and uploads it.
func (c *checker) random(rows, cols int) (Matrix, kernels.Buffer) {
	m := NewMatrix(rows, cols)
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = float32(c.r.NormFloat64())
		m.Data[i] = float64(v[i])
	}
	return m, c.upload(dtype.F32, kernels.Bytes(v))
}

func (c *checker) upload(k dtype.Kind, b []byte) kernels.Buffer {
	buf := c.alloc(k, len(b)/k.Info().Bytes)
	if c.err == nil {
		c.dev.Upload(buf, b)
	}
	return buf
}

func (c *checker) alloc(k dtype.Kind, n int) kernels.Buffer {
	b, err := c.dev.Alloc(kernels.Scratch, dtype.Of(k), n)
	if err != nil {
		c.err = err
		return nil
	}
	c.held = append(c.held, b)
	return b
}

// out is memory for a result.
func (c *checker) out(m Matrix) kernels.Buffer { return c.alloc(dtype.F32, len(m.Data)) }

func mat(b kernels.Buffer, m Matrix) kernels.Mat {
	return kernels.Mat{Buffer: b, Rows: m.Rows, Cols: m.Cols, Of: m.Rows}
}

// compare runs the layer and notes how far each array is off.
func (c *checker) compare(l *Layer, dy Matrix, got map[string]kernels.Buffer) {
	if c.err != nil {
		return
	}
	want, err := l.Run(dy)
	if err != nil {
		c.err = err
		return
	}
	want.Grads["y"] = want.Y
	for _, name := range append([]string{"y"}, l.names...) {
		b, ok := got[name]
		if !ok {
			c.err = fmt.Errorf("reference: %s: nothing to compare with %s", l.Name, name)
			return
		}
		d, err := c.diff(want.Grads[name], b)
		if err != nil {
			c.err = err
			return
		}
		c.found = append(c.found, Finding{l.Name, name, d})
	}
}

func (c *checker) diff(want Matrix, b kernels.Buffer) (float64, error) {
	v := make([]float32, len(want.Data))
	if err := c.dev.Download(kernels.Bytes(v), b); err != nil {
		return 0, err
	}
	worst, largest := 0.0, 0.0
	for i, w := range want.Data {
		largest = max(largest, math.Abs(w))
		d := math.Abs(float64(v[i]) - w)
		if math.IsNaN(d) {
			return math.Inf(1), nil
		}
		worst = max(worst, d)
	}
	return worst / largest, nil
}

func (c *checker) linear() {
	const n, in, out, r = 37, 70, 45, 5
	x, bx := c.random(n, in)
	w, bw := c.random(out, in)
	bias, bb := c.random(1, out)
	a, ba := c.random(r, in)
	b, bB := c.random(out, r)
	dy, bdy := c.random(n, out)
	u, du, none := c.alloc(dtype.F32, n*r), c.alloc(dtype.F32, n*r), kernels.Dst{}
	got := map[string]kernels.Buffer{"y": c.out(dy), "x": c.out(x), "w": c.out(w), "bias": c.out(bias), "a": c.out(a), "b": c.out(b)}
	if c.err != nil {
		return
	}
	d := c.dev
	d.Linear(kernels.To(u), &kernels.LinearArgs{N: n, X: bx, W: mat(ba, a), Alpha: 1.5})
	d.Linear(kernels.To(got["y"]), &kernels.LinearArgs{N: n, X: bx, W: mat(bw, w), Bias: bb, U: u, B: mat(bB, b)})
	d.LinearBackward(kernels.To(du), none, none, bdy, &kernels.LinearArgs{N: n, W: mat(bB, b), Alpha: 1.5})
	d.LinearBackward(none, kernels.To(got["b"]), none, bdy, &kernels.LinearArgs{N: n, X: u, W: mat(bB, b)})
	d.LinearBackward(none, kernels.To(got["a"]), none, du, &kernels.LinearArgs{N: n, X: bx, W: mat(ba, a)})
	d.LinearBackward(kernels.To(got["x"]), kernels.To(got["w"]), kernels.To(got["bias"]), bdy,
		&kernels.LinearArgs{N: n, X: bx, W: mat(bw, w), U: du, B: mat(ba, a)})
	c.compare(Linear(x, w, bias, a, b, 1.5), dy, got)
}

func (c *checker) norm() {
	const n, width = 19, 70
	x, bx := c.random(n, width)
	w, bw := c.random(1, width)
	dy, bdy := c.random(n, width)
	stats := c.alloc(dtype.F32, n)
	got := map[string]kernels.Buffer{"y": c.out(dy), "x": c.out(x), "w": c.out(w)}
	if c.err != nil {
		return
	}
	args := &kernels.NormArgs{Kind: kernels.RMSNorm, N: n, C: width, X: bx, W: bw, Eps: 1e-5}
	c.dev.Norm(kernels.To(got["y"]), kernels.Dst{}, stats, args)
	c.dev.NormBackward(kernels.To(got["x"]), kernels.To(got["w"]), kernels.Dst{}, bdy, stats, args)
	c.compare(RMSNorm(x, w, float64(float32(1e-5))), dy, got)
}

func (c *checker) swiglu() {
	const n, f = 19, 70
	gate, bg := c.random(n, f)
	up, bu := c.random(n, f)
	dy, bdy := c.random(n, f)
	got := map[string]kernels.Buffer{"y": c.out(dy), "gate": c.out(gate), "up": c.out(up)}
	if c.err != nil {
		return
	}
	args := &kernels.ActArgs{Kind: kernels.SiLU, N: n, F: f, Gate: bg, Up: bu}
	c.dev.Act(kernels.To(got["y"]), args)
	c.dev.ActBackward(kernels.To(got["gate"]), kernels.To(got["up"]), bdy, args)
	c.compare(SwiGLU(gate, up), dy, got)
}

func (c *checker) rope() {
	const n, h, d = 19, 3, 16
	for _, pairs := range []kernels.Pairs{kernels.HalfSplit, kernels.Adjacent} {
		x, bx := c.random(n, h*d)
		dy, bdy := c.random(n, h*d)
		angle, cs := c.angles(n, d/2)
		got := map[string]kernels.Buffer{"y": c.out(dy), "x": c.out(x)}
		if c.err != nil {
			return
		}
		v := func(b kernels.Buffer) kernels.Heads { return kernels.Heads{Buffer: b, Tok: h * d, Head: d} }
		a := &kernels.RopeArgs{N: n, H: h, D: d, Rot: d, CS: cs, Pairs: pairs}
		c.dev.Rope(v(got["y"]), v(bx), a)
		a.Inverse = true
		c.dev.Rope(v(got["x"]), v(bdy), a)
		c.compare(Rope(x, angle, d, pairs == kernels.Adjacent), dy, got)
	}
}

// angles draws angles and uploads their cosines and sines.
func (c *checker) angles(n, half int) (Matrix, kernels.Buffer) {
	m := NewMatrix(n, half)
	var cs []float32
	for i := range m.Data {
		m.Data[i] = 6 * c.r.Float64()
		sin, cos := math.Sincos(m.Data[i])
		cs = append(cs, float32(cos), float32(sin))
	}
	return m, c.upload(dtype.F32, kernels.Bytes(cs))
}

func (c *checker) attention() {
	const n, h, k, d = 41, 4, 2, 16
	seq := []int32{0, 29, n}
	q, bq := c.random(n, h*d)
	ks, bk := c.random(n, k*d)
	vs, bv := c.random(n, k*d)
	dy, bdy := c.random(n, h*d)
	bseq := c.upload(dtype.I32, kernels.Bytes(seq))
	lse := c.alloc(dtype.F32, n*h)
	got := map[string]kernels.Buffer{"y": c.out(dy), "q": c.out(q), "k": c.out(ks), "v": c.out(vs)}
	if c.err != nil {
		return
	}
	hv := func(b kernels.Buffer) kernels.Heads { return kernels.Heads{Buffer: b, Tok: h * d, Head: d} }
	kv := func(b kernels.Buffer) kernels.Heads { return kernels.Heads{Buffer: b, Tok: k * d, Head: d} }
	args := &kernels.AttnArgs{N: n, H: h, K: k, Dk: d, Seq: bseq, Scale: 0.25}
	c.dev.Attention(hv(got["y"]), lse, hv(bq), kv(bk), kv(bv), args)
	c.dev.AttentionBackward(&kernels.AttnGrads{Q: hv(got["q"]), K: kv(got["k"]), V: kv(got["v"])}, hv(bdy), hv(got["y"]), lse, hv(bq), kv(bk), kv(bv), args)
	c.compare(Attention(q, ks, vs, AttentionShape{H: h, K: k, D: d, Starts: []int{0, 29}, Scale: 0.25}), dy, got)
}

func (c *checker) crossEntropy() {
	const n, width, v = 23, 40, 77
	h, bh := c.random(n, width)
	w, bw := c.random(v, width)
	target, coef := make([]int, n), make([]float64, n)
	t32, c32 := make([]int32, n), make([]float32, n)
	for i := range n {
		target[i] = c.r.IntN(v+1) - 1
		t32[i], c32[i] = int32(target[i]), float32(c.r.Float64())
		coef[i] = float64(c32[i])
	}
	logp := c.alloc(dtype.F32, n)
	got := map[string]kernels.Buffer{"h": c.out(h), "w": c.out(w)}
	bt, bc := c.upload(dtype.I32, kernels.Bytes(t32)), c.upload(dtype.F32, kernels.Bytes(c32))
	if c.err != nil {
		return
	}
	c.dev.LogProb(&kernels.LogProbOut{LogP: logp}, kernels.To(got["h"]), kernels.To(got["w"]), kernels.Dst{},
		&kernels.LogProbArgs{N: n, X: bh, W: mat(bw, w), Target: bt, Coef: bc})
	loss := make([]float32, n)
	if c.err = c.dev.Download(kernels.Bytes(loss), logp); c.err != nil {
		return
	}
	sum := 0.0
	for i, v := range loss {
		sum -= coef[i] * float64(v)
	}
	got["y"] = c.upload(dtype.F32, kernels.Bytes([]float32{float32(sum)}))
	c.compare(CrossEntropy(h, w, target, coef), full(1, 1, 1), got)
}
