package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// headRows reads and writes rows of heads.
type headRows struct {
	plain
	kernels.Heads
}

func rowsOfHeads(what string, v kernels.Heads, n, h, d int) headRows {
	wantHeads(what, v, n, h, d)
	return headRows{plainOf(v.Buffer), v}
}

func (r headRows) at(n, h int) int { return r.Off + n*r.Tok + h*r.Head }

// scaled returns factor times a row, in tmp.
func (r headRows) scaled(tmp []float32, n, h int, factor float32) []float32 {
	vec.MulScale(tmp, r.get(tmp, r.at(n, h)), nil, factor)
	return tmp
}

// keep writes or adds x, unless nobody wants it; tmp is as long as x.
func (r headRows) keep(x []float32, n, h int, tmp []float32) {
	if !r.Skip() {
		r.store(x, r.at(n, h), r.Add, tmp)
	}
}

// delta is one DeltaScan or its gradient.
type delta struct {
	*kernels.DeltaArgs
	q, k, v       headRows
	gate, beta    plain
	aLog, bias    []float32
	seqs          []span
	state         states
	width         int // decays of a head: 1 or Dk
	scale, scaleK float32
}

func newDelta(q, k, v kernels.Heads, a *kernels.DeltaArgs) *delta {
	if a.H < 1 || a.K < 1 || a.H%a.K != 0 {
		panic(fmt.Sprintf("cpu: delta scan: %d heads over %d key heads", a.H, a.K))
	}
	d := &delta{DeltaArgs: a, width: 1, scale: orOne(a.Scale), scaleK: orOne(a.KeyScale)}
	if a.PerChannel {
		d.width = a.Dk
	}
	d.q, d.k = rowsOfHeads("delta scan: q", q, a.N, a.K, a.Dk), rowsOfHeads("delta scan: k", k, a.N, a.K, a.Dk)
	d.v = rowsOfHeads("delta scan: v", v, a.N, a.H, a.Dv)
	want("delta scan: gate", a.Gate, a.N*a.H*d.width)
	want("delta scan: beta", a.Beta, a.N*a.H)
	want("delta scan: alog", a.ALog, a.H)
	want("delta scan: dtbias", a.DtBias, a.H*d.width)
	d.gate, d.beta, d.aLog, d.bias = plainOf(a.Gate), plainOf(a.Beta), weights(a.ALog), weights(a.DtBias)
	d.seqs = spansOf("delta scan", a.Seq, a.N)
	d.state = newStates("delta scan", a.State, a.Slot, len(d.seqs), a.H*a.Dk*a.Dv)
	return d
}

// gated is what a token's gate makes: the logs of its decays, and what their
// gradients are multiplied by to be those of the gate.
type gated struct{ log, slope []float64 }

// gates computes the decays of head h of token n.
func (d *delta) gates(decay []float32, g gated, n, h int) {
	x := d.gate.get(decay, (n*d.H+h)*d.width)
	for i, raw := range x {
		z, a := float64(raw), -1.0
		if d.aLog == nil {
			g.log[i], g.slope[i] = z, 1
		} else {
			if d.bias != nil {
				z += float64(d.bias[h*d.width+i])
			}
			a = -math.Exp(float64(d.aLog[h]))
			g.log[i], g.slope[i] = a*softplus64(z), a*sigmoid64(z)
		}
	}
	for i := range decay {
		decay[i] = float32(math.Exp(g.log[i]))
	}
}

// one is element (n, h) of an [N, H] operand.
func (p plain) one(i int) float32 {
	var tmp [1]float32
	return p.get(tmp[:], i)[0]
}

// deltaStep is a token as a head sees it.
type deltaStep struct {
	q, k   []float32 // [Dk]
	decay  []float32 // [width]
	v      []float32 // [Dv]
	mem    []float32 // [Dv] what the decayed state holds for k
	change []float32 // [Dv] Beta·(v - mem)
	out    []float32 // [Dv]
	beta   float32
	g      gated
	dk     int
}

func (d *delta) newStep(mem *[]float32) *deltaStep {
	f := make([]float64, 2*d.width)
	return &deltaStep{q: cut(mem, d.Dk), k: cut(mem, d.Dk), decay: cut(mem, d.width), v: cut(mem, d.Dv), mem: cut(mem, d.Dv), change: cut(mem, d.Dv),
		out: cut(mem, d.Dv), g: gated{f[:d.width], f[d.width:]}, dk: d.Dk}
}

// stepSize is the memory of a step.
func (d *delta) stepSize() int { return 2*d.Dk + d.width + 4*d.Dv }

// read fetches token n for head h.
func (d *delta) read(s *deltaStep, n, h int) {
	group := h / (d.H / d.K)
	d.q.scaled(s.q, n, group, d.scale)
	d.k.scaled(s.k, n, group, d.scaleK)
	d.v.copy(s.v, d.v.at(n, h))
	s.beta = d.beta.one(n*d.H + h)
	d.gates(s.decay, s.g, n, h)
}

func (s *deltaStep) decayOf(i int) float32 {
	if len(s.decay) == 1 {
		return s.decay[0]
	}
	return s.decay[i]
}

// advance makes the state after the token from that before it, which may be
// the same memory, and reads it.
func (s *deltaStep) advance(next, m []float32) {
	dv := len(s.v)
	clear(s.mem)
	clear(s.out)
	for i := range s.dk {
		vec.Axpy(s.mem, s.k[i]*s.decayOf(i), m[i*dv:][:dv])
	}
	vec.Lin2(s.change, s.beta, s.v, -s.beta, s.mem)
	for i := range s.dk {
		row := next[i*dv:][:dv]
		vec.Lin2(row, s.decayOf(i), m[i*dv:][:dv], s.k[i], s.change)
		vec.Axpy(s.out, s.q[i], row)
	}
}

// DeltaScan runs the gated delta rule, a head of a sequence in each task.
func (c *CPU) DeltaScan(o, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	d := newDelta(q, k, v, a)
	out, size := rowsOfHeads("delta scan: o", o, a.N, a.H, a.Dv), a.Dk*a.Dv
	par.For(len(d.seqs)*a.H, 1, func(lo, hi int) {
		mem := c.scratch.take(size + d.stepSize() + a.Dv)
		defer c.scratch.give(mem)
		rest := mem
		m, tmp := cut(&rest, size), cut(&rest, a.Dv)
		s := d.newStep(&rest)
		for i := lo; i < hi; i++ {
			seq, h := i/a.H, i%a.H
			m := m
			if old := d.state.of(seq); old != nil {
				m = old[h*size:][:size]
			} else {
				clear(m)
			}
			for n := d.seqs[seq].tok; n < d.seqs[seq].tok+d.seqs[seq].n; n++ {
				d.read(s, n, h)
				s.advance(m, m)
				out.keep(s.out, n, h, tmp)
			}
		}
	})
}
