package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// eachSeq calls f for the tokens of each sequence.
func eachSeq(seq []int32, f func(s, lo, hi int)) {
	for s := range len(seq) - 1 {
		f(s, int(seq[s]), int(seq[s+1]))
	}
}

// halfway cuts sequences in two batches: the first tokens of each, and the rest.
// The rows of both, in order, are the tokens of the whole that they have.
func halfway(seq []int32) (seqs [2][]int32, rows [2][]int) {
	seqs = [2][]int32{{0}, {0}}
	eachSeq(seq, func(_, lo, hi int) {
		mid := (lo + hi) / 2
		for n := lo; n < hi; n++ {
			i := 0
			if n >= mid {
				i = 1
			}
			rows[i] = append(rows[i], n)
		}
		for i := range seqs {
			seqs[i] = append(seqs[i], int32(len(rows[i])))
		}
	})
	return seqs, rows
}

// take returns rows of width w of x.
func take(x []float64, rows []int, w int) []float64 {
	out := make([]float64, 0, len(rows)*w)
	for _, r := range rows {
		out = append(out, x[r*w:(r+1)*w]...)
	}
	return out
}

// resumed checks that two halves of a batch, with the state between them, make
// the whole: run computes a half and returns rows of width w.
func (s *suite) resumed(seq []int32, want []float64, w int, run func(seq []int32, rows []int) kernels.Buffer) {
	s.Helper()
	seqs, rows := halfway(seq)
	for i := range seqs {
		s.close(fmt.Sprintf("half %d with a state", i), s.get(run(seqs[i], rows[i])), take(want, rows[i], w), f32Tol)
	}
}

// slots are the slots of so many sequences, backwards, and an empty state of
// such a size for each.
func (s *suite) slots(n, size int) (slot, state kernels.Buffer) {
	at := make([]int32, n)
	for i := range at {
		at[i] = int32(n - 1 - i)
	}
	return s.ints(at), s.up(make([]float64, n*size))
}

// ---- convolution ----

type convCase struct {
	seq     []int32
	c, taps int
	bias    bool
	silu    bool
}

func testConv(s *suite) {
	for _, c := range []convCase{
		{[]int32{0, 1}, 1, 1, false, false},
		{[]int32{0, 7, 7, 9, 10}, 5, 4, true, true},
		{[]int32{0, 70, 300}, 67, 4, true, false},
		{[]int32{0, 40}, 130, 3, false, true},
		{[]int32{0, 0}, 4, 2, true, true},
	} {
		s.in(fmt.Sprintf("%+v", c), func(s *suite) { s.conv(c) })
	}
}

func (c convCase) run(x, w, bias []float64) []float64 {
	y := make([]float64, len(x))
	eachSeq(c.seq, func(_, lo, hi int) {
		for n := lo; n < hi; n++ {
			for ch := range c.c {
				sum := 0.0
				if bias != nil {
					sum = bias[ch]
				}
				for t := range c.taps {
					if m := n - (c.taps - 1) + t; m >= lo {
						sum += w[ch*c.taps+t] * x[m*c.c+ch]
					}
				}
				if c.silu {
					sum /= 1 + math.Exp(-sum)
				}
				y[n*c.c+ch] = sum
			}
		}
	})
	return y
}

func (s *suite) conv(c convCase) {
	n := int(c.seq[len(c.seq)-1])
	x, w, dy := s.normal(n*c.c, 1), s.normal(c.c*c.taps, 1), s.normal(n*c.c, 1)
	var bias []float64
	if c.bias {
		bias = s.normal(c.c, 1)
	}
	a := &kernels.ConvArgs{N: n, C: c.c, Taps: c.taps, X: s.up(x), W: s.up(w), Bias: s.up(bias), Seq: s.ints(c.seq), SiLU: c.silu}
	dyb, want := s.up(dy), c.run(x, w, bias)
	s.check([]result{{name: "y", n: n * c.c, want: want, tol: f32Tol}}, func(d []kernels.Dst) { s.b.Conv1D(d[0], a) })
	loss := func() float64 { return dot(dy, c.run(x, w, bias)) }
	grads := []result{
		{name: "dx", n: len(x), want: gradient(loss, x, s.some(len(x), 60)), tol: f32Tol, abs: 2e-6},
		{name: "dw", n: len(w), want: gradient(loss, w, s.some(len(w), 60)), tol: f32Tol, abs: 2e-6},
	}
	if c.bias {
		grads = append(grads, result{name: "db", n: c.c, want: gradient(loss, bias, s.some(c.c, 60)), tol: f32Tol, abs: 2e-6})
	}
	s.check(grads, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{})
		s.b.Conv1DBackward(d[0], d[1], d[2], dyb, a)
	})
	slot, state := s.slots(len(c.seq)-1, (c.taps-1)*c.c)
	s.resumed(c.seq, want, c.c, func(seq []int32, rows []int) kernels.Buffer {
		half := *a
		half.N, half.X, half.Seq, half.State, half.Slot = len(rows), s.up(take(x, rows, c.c)), s.ints(seq), state, slot
		y := s.alloc(dtype.F32, len(rows)*c.c)
		s.b.Conv1D(kernels.To(y), &half)
		return y
	})
	xs, dys, ws := s.twin(n*c.c), s.twin(n*c.c), s.twin(len(w))
	s.halves([]int{n * c.c, n * c.c}, func(half bool, d []kernels.Dst) {
		b := *a
		b.X, b.W = xs.pick(half), ws.pick(half)
		s.b.Conv1D(d[0], &b)
		s.b.Conv1DBackward(d[1], kernels.Dst{}, kernels.Dst{}, dys.pick(half), &b)
	})
}

// ---- gated delta rule ----

type deltaCase struct {
	seq             []int32
	h, k, dk, dv    int
	channel, aLog   bool
	scale, keyScale float32
}

func testDelta(s *suite) {
	for _, c := range []deltaCase{
		{seq: []int32{0, 1}, h: 1, k: 1, dk: 1, dv: 1},
		{seq: []int32{0, 9, 9, 30}, h: 4, k: 2, dk: 6, dv: 5, aLog: true, scale: 0.5, keyScale: 0.4},
		{seq: []int32{0, 21, 30}, h: 3, k: 3, dk: 8, dv: 16, channel: true, aLog: true, keyScale: 0.3},
		{seq: []int32{0, 70}, h: 2, k: 1, dk: 4, dv: 3, channel: true, keyScale: 0.5},
		{seq: []int32{0, 75}, h: 2, k: 2, dk: 4, dv: 7, scale: 2, keyScale: 0.5},
	} {
		for i := range 2 {
			s.in(fmt.Sprintf("%+v view %d", c, i), func(s *suite) { s.delta(c, i) })
		}
	}
}

// deltaOperands are in float64.
type deltaOperands struct{ q, k, v, gate, beta, aLog, bias []float64 }

func (c deltaCase) width() int {
	if c.channel {
		return c.dk
	}
	return 1
}

// run is the definition, one matrix a head.
func (c deltaCase) run(in *deltaOperands) []float64 {
	n, w := int(c.seq[len(c.seq)-1]), c.width()
	o := make([]float64, n*c.h*c.dv)
	scale, keyScale := 1.0, 1.0
	if c.scale != 0 {
		scale = float64(c.scale)
	}
	if c.keyScale != 0 {
		keyScale = float64(c.keyScale)
	}
	eachSeq(c.seq, func(_, lo, hi int) {
		for h := range c.h {
			m := make([]float64, c.dk*c.dv)
			for n := lo; n < hi; n++ {
				q, k := in.q[(n*c.k+h*c.k/c.h)*c.dk:], in.k[(n*c.k+h*c.k/c.h)*c.dk:]
				for i := range m {
					at := h*w + i/c.dv%w
					g := in.gate[n*c.h*w+at]
					if c.aLog {
						g = -math.Exp(in.aLog[h]) * math.Log(1+math.Exp(g+in.bias[at]))
					}
					m[i] *= math.Exp(g)
				}
				for j := range c.dv {
					mem := 0.0
					for i := range c.dk {
						mem += m[i*c.dv+j] * keyScale * k[i]
					}
					change := in.beta[n*c.h+h] * (in.v[(n*c.h+h)*c.dv+j] - mem)
					for i := range c.dk {
						m[i*c.dv+j] += keyScale * k[i] * change
						o[(n*c.h+h)*c.dv+j] += scale * q[i] * m[i*c.dv+j]
					}
				}
			}
		}
	})
	return o
}

func (s *suite) delta(c deltaCase, gap int) {
	n, w := int(c.seq[len(c.seq)-1]), c.width()
	in := &deltaOperands{q: s.normal(n*c.k*c.dk, 1), k: s.normal(n*c.k*c.dk, 1), v: s.normal(n*c.h*c.dv, 1), gate: s.normal(n*c.h*w, 1), beta: make([]float64, n*c.h)}
	for i := range in.beta {
		in.beta[i] = s.rng.Float64()
	}
	a := &kernels.DeltaArgs{N: n, H: c.h, K: c.k, Dk: c.dk, Dv: c.dv, Seq: s.ints(c.seq), PerChannel: c.channel, Scale: c.scale, KeyScale: c.keyScale, Beta: s.up(in.beta)}
	if c.aLog {
		in.aLog, in.bias = s.normal(c.h, 0.5), s.normal(c.h*w, 0.5)
		a.ALog, a.DtBias = s.up(in.aLog), s.up(in.bias)
	} else {
		for i, g := range in.gate {
			in.gate[i] = -math.Abs(g)
		}
	}
	a.Gate = s.up(in.gate)
	vk, vv := views(n, c.k, c.dk)[gap], views(n, c.h, c.dv)[gap]
	q, k, v := s.heads(vk, in.q), s.heads(vk, in.k), s.heads(vv, in.v)
	want := c.run(in)
	s.check([]result{{name: "o", n: vv.size(), at: vv.at, want: want, tol: f32Tol}}, func(d []kernels.Dst) { s.b.DeltaScan(vv.of(d[0]), q, k, v, a) })

	dy := s.normal(len(want), 1)
	do := s.heads(vv, dy)
	loss := func() float64 { return dot(dy, c.run(in)) }
	grad := func(name string, x []float64) result {
		return result{name: name, n: len(x), want: gradient(loss, x, s.some(len(x), 30)), tol: 2 * f32Tol, abs: 4e-6}
	}
	results := []result{grad("dq", in.q), grad("dk", in.k), grad("dv", in.v), grad("dgate", in.gate), grad("dbeta", in.beta)}
	for i, v := range []view{vk, vk, vv} {
		results[i].n, results[i].at = v.size(), v.at
	}
	if c.aLog {
		results = append(results, grad("dalog", in.aLog), grad("ddtbias", in.bias))
	}
	s.check(results, func(d []kernels.Dst) {
		d = append(d, kernels.Dst{}, kernels.Dst{})
		s.b.DeltaScanBackward(&kernels.DeltaGrads{Q: vk.of(d[0]), K: vk.of(d[1]), V: vv.of(d[2]), Gate: d[3], Beta: d[4], ALog: d[5], DtBias: d[6]}, do, q, k, v, a)
	})
	if gap == 0 {
		s.resumedDelta(c, a, in, want)
		s.halfDelta(a, vk, vv, w)
	}
}

// resumedDelta runs the batch in two halves.
func (s *suite) resumedDelta(c deltaCase, a *kernels.DeltaArgs, in *deltaOperands, want []float64) {
	w := c.width()
	slot, state := s.slots(len(c.seq)-1, c.h*c.dk*c.dv)
	dense := func(x []float64, rows []int, h, d int) kernels.Heads {
		return s.heads(views(len(rows), h, d)[0], take(x, rows, h*d))
	}
	s.resumed(c.seq, want, c.h*c.dv, func(seq []int32, rows []int) kernels.Buffer {
		b := *a
		b.N, b.Seq, b.State, b.Slot = len(rows), s.ints(seq), state, slot
		b.Gate, b.Beta = s.up(take(in.gate, rows, c.h*w)), s.up(take(in.beta, rows, c.h))
		o := s.alloc(dtype.F32, len(rows)*c.h*c.dv)
		s.b.DeltaScan(kernels.Heads{Buffer: o, Tok: c.h * c.dv, Head: c.dv}, dense(in.q, rows, c.k, c.dk), dense(in.k, rows, c.k, c.dk), dense(in.v, rows, c.h, c.dv), &b)
		return o
	})
}

// halfDelta compares operands and results of bf16 with those of float32.
func (s *suite) halfDelta(a *kernels.DeltaArgs, vk, vv view, w int) {
	q, k, v, do, beta, aLog := s.twin(vk.size()), s.twin(vk.size()), s.twin(vv.size()), s.twin(vv.size()), s.twin(a.N*a.H), s.twin(a.H)
	g := s.normal(a.N*a.H*w, 1)
	for i, x := range g {
		g[i] = -math.Abs(x)
	}
	gate := twin{half: s.half(g)}
	gate.full = s.up(g)
	heads := func(v view, t twin, half bool) kernels.Heads { return v.of(kernels.To(t.pick(half))) }
	s.halves([]int{vv.size(), vk.size(), vk.size(), vv.size(), len(g), a.N * a.H}, func(half bool, d []kernels.Dst) {
		b := *a
		b.Gate, b.Beta, b.KeyScale, b.ALog = gate.pick(half), beta.pick(half), 0.2, aLog.pick(half)
		qh, kh, vh := heads(vk, q, half), heads(vk, k, half), heads(vv, v, half)
		s.b.DeltaScan(vv.of(d[0]), qh, kh, vh, &b)
		s.b.DeltaScanBackward(&kernels.DeltaGrads{Q: vk.of(d[1]), K: vk.of(d[2]), V: vv.of(d[3]), Gate: d[4], Beta: d[5]}, heads(vv, do, half), qh, kh, vh, &b)
	})
}

// ---- selective scan ----

type ssmCase struct {
	seq        []int32
	h, p, g, s int
	perState   bool
	bias, skip bool
	low, high  float32
}

func testSSM(s *suite) {
	for _, c := range []ssmCase{
		{seq: []int32{0, 1}, h: 1, p: 1, g: 1, s: 1},
		{seq: []int32{0, 9, 9, 30}, h: 6, p: 5, g: 2, s: 7, bias: true, skip: true},
		{seq: []int32{0, 70}, h: 40, p: 1, g: 1, s: 4, perState: true, bias: true, skip: true},
		{seq: []int32{0, 75, 80}, h: 3, p: 4, g: 1, s: 16, skip: true, low: 0.3, high: 1.2},
		{seq: []int32{0, 12}, h: 36, p: 2, g: 18, s: 3, perState: true},
	} {
		for i := range 2 {
			s.in(fmt.Sprintf("%+v view %d", c, i), func(s *suite) { s.ssm(c, i) })
		}
	}
}

// ssmOperands are in float64.
type ssmOperands struct{ x, b, c, dt, bias, aLog, d []float64 }

// run is the definition, one matrix a head.
func (c ssmCase) run(in *ssmOperands) []float64 {
	n := int(c.seq[len(c.seq)-1])
	y := make([]float64, n*c.h*c.p)
	eachSeq(c.seq, func(_, lo, hi int) {
		for h := range c.h {
			m := make([]float64, c.p*c.s)
			group := h / (c.h / c.g)
			for n := lo; n < hi; n++ {
				b, cc := in.b[(n*c.g+group)*c.s:], in.c[(n*c.g+group)*c.s:]
				dt := math.Max(c.softplus(in, n, h), float64(c.low))
				if c.high > 0 {
					dt = math.Min(dt, float64(c.high))
				}
				for p := range c.p {
					x, out := in.x[(n*c.h+h)*c.p+p], &y[(n*c.h+h)*c.p+p]
					for i := range c.s {
						rate := h
						if c.perState {
							rate = h*c.s + i
						}
						e := &m[p*c.s+i]
						*e = *e*math.Exp(-dt*math.Exp(in.aLog[rate])) + dt*x*b[i]
						*out += *e * cc[i]
					}
					if c.skip {
						*out += in.d[h] * x
					}
				}
			}
		}
	})
	return y
}

func (c ssmCase) softplus(in *ssmOperands, n, h int) float64 {
	z := in.dt[n*c.h+h]
	if c.bias {
		z += in.bias[h]
	}
	return math.Log(1 + math.Exp(z))
}

// settle moves time steps off the limits, where there is no derivative.
func (c ssmCase) settle(in *ssmOperands, n int) {
	for i := range in.dt {
		for _, limit := range []float32{c.low, c.high} {
			if math.Abs(c.softplus(in, i/c.h, i%c.h)-float64(limit)) < 1e-3 {
				in.dt[i] += 0.1
			}
		}
	}
}

func (s *suite) ssm(c ssmCase, gap int) {
	n, rates := int(c.seq[len(c.seq)-1]), c.h
	if c.perState {
		rates *= c.s
	}
	in := &ssmOperands{x: s.normal(n*c.h*c.p, 1), b: s.normal(n*c.g*c.s, 1), c: s.normal(n*c.g*c.s, 1), dt: s.normal(n*c.h, 1), aLog: s.normal(rates, 0.5)}
	a := &kernels.SSMArgs{N: n, H: c.h, P: c.p, G: c.g, S: c.s, Seq: s.ints(c.seq), ALog: s.up(in.aLog), PerState: c.perState, DtMin: c.low, DtMax: c.high}
	if c.bias {
		in.bias = s.normal(c.h, 0.5)
		a.DtBias = s.up(in.bias)
	}
	if c.skip {
		in.d = s.normal(c.h, 1)
		a.D = s.up(in.d)
	}
	c.settle(in, n)
	a.Dt = s.up(in.dt)
	vx, vb := views(n, c.h, c.p)[gap], views(n, c.g, c.s)[gap]
	x, b, cc := s.heads(vx, in.x), s.heads(vb, in.b), s.heads(vb, in.c)
	want := c.run(in)
	s.check([]result{{name: "y", n: vx.size(), at: vx.at, want: want, tol: f32Tol}}, func(d []kernels.Dst) { s.b.SSMScan(vx.of(d[0]), x, b, cc, a) })

	dy := s.normal(len(want), 1)
	dyh := s.heads(vx, dy)
	loss := func() float64 { return dot(dy, c.run(in)) }
	grad := func(name string, x []float64) result {
		return result{name: name, n: len(x), want: gradient(loss, x, s.some(len(x), 30)), tol: 2 * f32Tol, abs: 4e-6}
	}
	results := []result{grad("dx", in.x), grad("db", in.b), grad("dc", in.c), grad("ddt", in.dt), grad("dalog", in.aLog)}
	for i, v := range []view{vx, vb, vb} {
		results[i].n, results[i].at = v.size(), v.at
	}
	var bias, skip int
	if c.bias {
		bias, results = len(results), append(results, grad("ddtbias", in.bias))
	}
	if c.skip {
		skip, results = len(results), append(results, grad("dd", in.d))
	}
	s.check(results, func(d []kernels.Dst) {
		g := &kernels.SSMGrads{X: vx.of(d[0]), B: vb.of(d[1]), C: vb.of(d[2]), Dt: d[3], ALog: d[4]}
		if bias > 0 {
			g.DtBias = d[bias]
		}
		if skip > 0 {
			g.D = d[skip]
		}
		s.b.SSMScanBackward(g, dyh, x, b, cc, a)
	})
	if gap == 0 {
		s.resumedSSM(c, a, in, want)
		s.halfSSM(a, vx, vb)
	}
}

// resumedSSM runs the batch in two halves.
func (s *suite) resumedSSM(c ssmCase, a *kernels.SSMArgs, in *ssmOperands, want []float64) {
	slot, state := s.slots(len(c.seq)-1, c.h*c.p*c.s)
	dense := func(x []float64, rows []int, h, d int) kernels.Heads {
		return s.heads(views(len(rows), h, d)[0], take(x, rows, h*d))
	}
	s.resumed(c.seq, want, c.h*c.p, func(seq []int32, rows []int) kernels.Buffer {
		half := *a
		half.N, half.Seq, half.State, half.Slot, half.Dt = len(rows), s.ints(seq), state, slot, s.up(take(in.dt, rows, c.h))
		y := s.alloc(dtype.F32, len(rows)*c.h*c.p)
		s.b.SSMScan(kernels.Heads{Buffer: y, Tok: c.h * c.p, Head: c.p}, dense(in.x, rows, c.h, c.p), dense(in.b, rows, c.g, c.s), dense(in.c, rows, c.g, c.s), &half)
		return y
	})
}

// halfSSM compares operands and results of bf16 with those of float32.
func (s *suite) halfSSM(a *kernels.SSMArgs, vx, vb view) {
	x, b, c, dy, dt, aLog := s.twin(vx.size()), s.twin(vb.size()), s.twin(vb.size()), s.twin(vx.size()), s.twin(a.N*a.H), s.twin(a.ALog.Len())
	heads := func(v view, t twin, half bool) kernels.Heads { return v.of(kernels.To(t.pick(half))) }
	s.halves([]int{vx.size(), vx.size(), vb.size(), vb.size(), a.N * a.H}, func(half bool, d []kernels.Dst) {
		l := *a
		l.Dt, l.ALog = dt.pick(half), aLog.pick(half)
		xh, bh, ch := heads(vx, x, half), heads(vb, b, half), heads(vb, c, half)
		s.b.SSMScan(vx.of(d[0]), xh, bh, ch, &l)
		s.b.SSMScanBackward(&kernels.SSMGrads{X: vx.of(d[1]), B: vb.of(d[2]), C: vb.of(d[3]), Dt: d[4]}, heads(vx, dy, half), xh, bh, ch, &l)
	})
}
