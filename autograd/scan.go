package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// Recurrent is the state of a recurrent mixer in a cache: each sequence begins
// with what its slot holds and leaves its state there. Evaluation only. The zero
// Recurrent is none: sequences begin at zero.
type Recurrent struct {
	State kernels.Buffer // f32, as the operation's arguments in kernels say
	Slot  *Tensor        // [S] int32: the slots of the batch's sequences
}

// buffers are the state and the slots; nil without one.
func (r Recurrent) buffers(t *Tape) (state, slot kernels.Buffer) {
	if r.State == nil {
		return nil, nil
	}
	if t.Record || t.redo {
		panic("autograd: a recurrent state has no gradient")
	}
	return r.State, r.Slot.Data
}

// ConvSpec is what a causal convolution needs beside its input.
type ConvSpec struct {
	W, Bias *Param  // [All, Taps], [All] or nil; f32
	First   int     // x's channels are C of All, from this one on
	Seq     *Tensor // [S+1] int32
	SiLU    bool
	State   Recurrent // [Slots, Taps-1, C]
}

// part are the n elements of a weight's memory from element first on, nil of nil.
func (t *Tape) part(b kernels.Buffer, first, n int) kernels.Buffer {
	if b == nil || t.err != nil {
		return nil
	}
	return t.Dev.Slice(b, first, n)
}

// partDst is where the gradient of a part is added.
func (t *Tape) partDst(p *Param, first, n int) kernels.Dst {
	d := p.dst()
	if !d.Skip() {
		d.Buffer = t.Dev.Slice(d.Buffer, first, n)
	}
	return d
}

// Conv1D convolves every channel of x [N, C] along its sequence, causally.
func (t *Tape) Conv1D(x *Tensor, s ConvSpec) *Tensor {
	n, c := x.Rows(), x.Cols()
	taps := s.W.Cols
	if s.First < 0 || s.First+c > s.W.Rows {
		panic(fmt.Sprintf("autograd: convolution %s: channels %d+%d of %d", s.W.Name, s.First, c, s.W.Rows))
	}
	args := func() *kernels.ConvArgs {
		a := &kernels.ConvArgs{N: n, C: c, Taps: taps, X: t.value(x), W: t.part(s.W.Buffer, s.First*taps, c*taps), Bias: t.part(s.Bias.buffer(), s.First, c),
			Seq: s.Seq.Data, SiLU: s.SiLU}
		a.State, a.Slot = s.State.buffers(t)
		return a
	}
	y := t.alloc(kernels.Activations, x.kind, n, c)
	y.needs, y.slope = x.needs || s.W.trains() || s.Bias.trains(), x.kind
	if a := args(); t.err == nil {
		t.Dev.Conv1D(kernels.To(y.Data), a)
	}
	t.record(y, []*Tensor{x, s.Seq}, func() {
		dx, a := t.grad(x), args()
		if t.err == nil {
			t.Dev.Conv1DBackward(dx, t.partDst(s.W, s.First*taps, c*taps), t.partDst(s.Bias, s.First, c), y.grad.buf, a)
		}
	})
	return y
}

// DeltaSpec describes the gated delta rule of kernels.DeltaArgs.
type DeltaSpec struct {
	H, K, Dk, Dv    int     // H heads of values, K of queries and keys
	Seq             *Tensor // [S+1] int32
	PerChannel      bool    // a decay for every channel of a key
	ALog, DtBias    *Param  // f32; both or neither
	Scale, KeyScale float32 // of q and k; 0: 1
	State           Recurrent
}

// DeltaScan runs the gated delta rule: q, k [N, K·Dk], v [N, H·Dv], gate [N, H]
// or with PerChannel [N, H·Dk], beta [N, H], result [N, H·Dv].
func (t *Tape) DeltaScan(q, k, v, gate, beta *Tensor, s DeltaSpec) *Tensor {
	n := q.Rows()
	args := func() *kernels.DeltaArgs {
		a := &kernels.DeltaArgs{N: n, H: s.H, K: s.K, Dk: s.Dk, Dv: s.Dv, Seq: s.Seq.Data, Gate: t.value(gate), PerChannel: s.PerChannel,
			ALog: s.ALog.buffer(), DtBias: s.DtBias.buffer(), Beta: t.value(beta), Scale: s.Scale, KeyScale: s.KeyScale}
		a.State, a.Slot = s.State.buffers(t)
		return a
	}
	in := func() (hq, hk, hv kernels.Heads) {
		return heads(t.value(q), s.K, s.Dk), heads(t.value(k), s.K, s.Dk), heads(t.value(v), s.H, s.Dv)
	}
	o := t.alloc(kernels.Activations, v.kind, n, s.H*s.Dv)
	o.slope = v.kind
	o.needs = q.needs || k.needs || v.needs || gate.needs || beta.needs || s.ALog.trains() || s.DtBias.trains()
	hq, hk, hv := in()
	if a := args(); t.err == nil {
		t.Dev.DeltaScan(heads(o.Data, s.H, s.Dv), hq, hk, hv, a)
	}
	t.record(o, []*Tensor{q, k, v, gate, beta, s.Seq}, func() {
		hq, hk, hv := in()
		a := args()
		g := &kernels.DeltaGrads{Q: t.gradHeads(q, s.K, s.Dk), K: t.gradHeads(k, s.K, s.Dk), V: t.gradHeads(v, s.H, s.Dv),
			Gate: t.grad(gate), Beta: t.grad(beta), ALog: s.ALog.dst(), DtBias: s.DtBias.dst()}
		if t.err == nil {
			t.Dev.DeltaScanBackward(g, heads(o.grad.buf, s.H, s.Dv), hq, hk, hv, a)
		}
	})
	return o
}

// SSMSpec describes the selective scan of kernels.SSMArgs.
type SSMSpec struct {
	H, P, G, S      int     // heads, their width, groups, numbers a state row has
	Seq             *Tensor // [sequences+1] int32
	PerState        bool    // ALog [H, S] instead of [H]
	ALog, DtBias, D *Param  // f32; DtBias, D [H] or nil
	DtMin, DtMax    float32 // of the time step; DtMax 0: no upper limit
	State           Recurrent
}

// SSMScan runs the selective scan: x [N, H·P], b, c [N, G·S], dt [N, H], result
// [N, H·P].
func (t *Tape) SSMScan(x, b, c, dt *Tensor, s SSMSpec) *Tensor {
	n := x.Rows()
	args := func() *kernels.SSMArgs {
		a := &kernels.SSMArgs{N: n, H: s.H, P: s.P, G: s.G, S: s.S, Seq: s.Seq.Data, Dt: t.value(dt), DtBias: s.DtBias.buffer(), DtMin: s.DtMin, DtMax: s.DtMax,
			ALog: s.ALog.buffer(), PerState: s.PerState, D: s.D.buffer()}
		a.State, a.Slot = s.State.buffers(t)
		return a
	}
	in := func() (hx, hb, hc kernels.Heads) {
		return heads(t.value(x), s.H, s.P), heads(t.value(b), s.G, s.S), heads(t.value(c), s.G, s.S)
	}
	y := t.alloc(kernels.Activations, x.kind, n, s.H*s.P)
	y.slope = x.kind
	y.needs = x.needs || b.needs || c.needs || dt.needs || s.ALog.trains() || s.DtBias.trains() || s.D.trains()
	hx, hb, hc := in()
	if a := args(); t.err == nil {
		t.Dev.SSMScan(heads(y.Data, s.H, s.P), hx, hb, hc, a)
	}
	t.record(y, []*Tensor{x, b, c, dt, s.Seq}, func() {
		hx, hb, hc := in()
		a := args()
		g := &kernels.SSMGrads{X: t.gradHeads(x, s.H, s.P), B: t.gradHeads(b, s.G, s.S), C: t.gradHeads(c, s.G, s.S),
			Dt: t.grad(dt), DtBias: s.DtBias.dst(), ALog: s.ALog.dst(), D: s.D.dst()}
		if t.err == nil {
			t.Dev.SSMScanBackward(g, heads(y.grad.buf, s.H, s.P), hx, hb, hc, a)
		}
	})
	return y
}
