package autograd

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Embed returns the rows ids of the table w [V, C]: ids [N] int32, result [N, C].
func (t *Tape) Embed(w *Param, ids *Tensor) *Tensor {
	n := ids.Rows()
	y := t.New(n, w.Cols)
	y.needs = w.trains()
	if t.err != nil {
		return y
	}
	a := &kernels.GatherArgs{N: n, Table: w.Mat, Idx: ids.Data}
	t.Dev.Gather(kernels.To(y.Data), a)
	t.record(y, []*Tensor{ids}, func() { t.Dev.GatherBackward(w.dst(), kernels.Dst{}, y.grad.buf, a) })
	return y
}

// Rows returns the rows idx [M] int32 of x [N, C] as [M, C]. A row may be
// taken more than once, or never.
func (t *Tape) Rows(x, idx *Tensor) *Tensor { return t.Combine(x, idx, nil) }

// Combine returns y[m] = Σ_j weight[m,j]·x[idx[m,j]]: x [N, C], idx [M, K]
// int32, weight [M, K] or nil (1), result [M, C].
func (t *Tape) Combine(x, idx, weight *Tensor) *Tensor {
	m, saves := idx.Rows(), []*Tensor{idx}
	args := func(table kernels.Buffer) *kernels.GatherArgs {
		a := &kernels.GatherArgs{N: m, K: idx.Cols(), Table: kernels.Mat{Buffer: table, Rows: x.Rows(), Cols: x.Cols(), Of: x.Rows()}, Idx: t.value(idx)}
		if weight != nil {
			a.Weight = t.value(weight)
		}
		return a
	}
	needs := x.needs
	if weight != nil {
		sameShape("combine: idx and weight", idx, weight)
		saves, needs = append(saves, weight), needs || weight.needs
		if weight.needs {
			saves = append(saves, x)
		}
	}
	y := t.made(func(dst kernels.Buffer) {
		if a := args(t.value(x)); t.err == nil {
			t.Dev.Gather(kernels.To(dst), a)
		}
	}, append([]*Tensor{x}, saves...), dtype.F32, m, x.Cols())
	y.needs = needs
	t.record(y, saves, func() {
		dx, dw := t.grad(x), t.grad(weight)
		var table kernels.Buffer
		if !dw.Skip() {
			table = t.value(x)
		}
		if a := args(table); t.err == nil {
			t.Dev.GatherBackward(dx, dw, y.grad.buf, a)
		}
	})
	return y
}

// NormSpec is what a norm needs beside its input.
type NormSpec struct {
	Kind    kernels.NormKind
	W, Bias *Param  // [C] f32, or [Heads, C]; nil: 1 and 0
	Heads   int     // > 1: row n is of head n mod Heads
	Offset  float32 // of the weights: W is used as Offset + W
	Eps     float32
	Inner   bool // only linear maps read the result: see Tape.BF16
}

// result is the type of the normalised rows.
func (s NormSpec) result(t *Tape) dtype.Kind {
	if s.Inner {
		return t.between()
	}
	return dtype.F32
}

func (s NormSpec) args(n, c int, x kernels.Buffer) *kernels.NormArgs {
	return &kernels.NormArgs{Kind: s.Kind, N: n, C: c, Heads: s.Heads, X: x, W: s.W.buffer(), Bias: s.Bias.buffer(), Offset: s.Offset, Eps: s.Eps}
}

// Norm normalises the rows of x [N, C]. The result is cheap.
func (t *Tape) Norm(x *Tensor, s NormSpec) *Tensor {
	y, stats := t.alloc(kernels.Activations, s.result(t), x.Rows(), x.Cols()), t.New(x.Rows(), s.Kind.StatsLen())
	y.needs = x.needs || s.W.trains() || s.Bias.trains()
	if t.err == nil {
		t.Dev.Norm(kernels.To(y.Data), kernels.Dst{}, stats.Data, s.args(x.Rows(), x.Cols(), t.value(x)))
	}
	return t.normed(x, y, stats, s)
}

// AddNorm returns sum = res + alpha·x and the norm of sum, in one pass over
// memory. x, res [N, C].
func (t *Tape) AddNorm(res, x *Tensor, alpha float32, s NormSpec) (sum, y *Tensor) {
	sameShape("add", res, x)
	n, c := x.Rows(), x.Cols()
	sum, y = t.New(n, c), t.alloc(kernels.Activations, s.result(t), n, c)
	stats := t.New(n, s.Kind.StatsLen())
	sum.needs = x.needs || res.needs
	y.needs = sum.needs || s.W.trains() || s.Bias.trains()
	if t.err == nil {
		a := s.args(n, c, t.value(x))
		a.Res, a.Alpha = t.value(res), alpha
		t.Dev.Norm(kernels.To(y.Data), kernels.To(sum.Data), stats.Data, a)
	}
	t.record(sum, nil, func() { t.pass(res, sum, 1); t.pass(x, sum, alpha) })
	return sum, t.normed(sum, y, stats, s)
}

// normed records y = norm(x) with its statistics.
func (t *Tape) normed(x, y, stats *Tensor, s NormSpec) *Tensor {
	n, c := x.Rows(), x.Cols()
	t.record(y, []*Tensor{x, stats}, func() {
		dx, xv := t.grad(x), t.value(x)
		if t.err == nil {
			t.Dev.NormBackward(dx, s.W.dst(), s.Bias.dst(), y.grad.buf, stats.Data, s.args(n, c, xv))
		}
	})
	t.Done(stats)
	return t.Cheap(y, func(dst kernels.Buffer) {
		xv, again := t.value(x), t.scratch(stats.Len())
		defer t.Dev.Free(again)
		if t.err == nil {
			t.Dev.Norm(kernels.To(dst), kernels.Dst{}, again, s.args(n, c, xv))
		}
	}, x)
}

// ActSpec is an activation: its kind, how gates and ups lie, and its numbers.
type ActSpec struct {
	Kind   kernels.ActKind
	Layout kernels.ActLayout
	kernels.ActParams
}

// Act returns act(gate)·up, or act(gate) when up is nil: [N, F] each (SwiGLU:
// Shazeer 2020, arXiv:2002.05202). Where the layout has both in gate, it is
// [N, 2F]. The result is cheap.
func (t *Tape) Act(s ActSpec, gate, up *Tensor) *Tensor {
	saves := []*Tensor{gate}
	needs, held := gate.needs, gate.kind
	if up != nil {
		sameShape("act", gate, up)
		saves = append(saves, up)
		needs = needs || up.needs
		held = dtype.Wider(held, up.kind)
		up.slope = up.kind
	}
	gate.slope = gate.kind
	n, f := gate.Rows(), gate.Cols()
	if s.Layout != kernels.Separate {
		f /= 2
	}
	y := t.alloc(kernels.Activations, held, n, f)
	y.needs, y.slope = needs, held
	args := func() *kernels.ActArgs {
		a := &kernels.ActArgs{Kind: s.Kind, Layout: s.Layout, ActParams: s.ActParams, N: n, F: f, Gate: t.value(gate)}
		if up != nil {
			a.Up = t.value(up)
		}
		return a
	}
	run := func(dst kernels.Buffer) {
		if a := args(); t.err == nil {
			t.Dev.Act(kernels.To(dst), a)
		}
	}
	run(y.Data)
	t.record(y, saves, func() {
		a, dg := args(), t.grad(gate)
		du := t.grad(up)
		if t.err == nil {
			t.Dev.ActBackward(dg, du, y.grad.buf, a)
		}
	})
	return t.Cheap(y, run, saves...)
}

// Add returns alpha·a + beta·b, both [N, C].
func (t *Tape) Add(a, b *Tensor, alpha, beta float32) *Tensor {
	sameShape("add", a, b)
	y := t.made(func(dst kernels.Buffer) {
		if av, bv := t.value(a), t.value(b); t.err == nil {
			t.Dev.Add(kernels.To(dst), &kernels.AddArgs{N: a.Len(), A: av, B: bv, Alpha: alpha, Beta: beta})
		}
	}, []*Tensor{a, b}, dtype.F32, a.Shape...)
	y.needs = a.needs || b.needs
	t.record(y, nil, func() { t.pass(a, y, alpha); t.pass(b, y, beta) })
	return y
}

// Scale returns alpha·x; x itself when alpha is 1 or 0 (0: not set).
func (t *Tape) Scale(x *Tensor, alpha float32) *Tensor {
	if alpha == 0 || alpha == 1 {
		return x
	}
	y := t.New(x.Shape...)
	y.needs = x.needs
	if xv := t.value(x); t.err == nil {
		t.Dev.Add(kernels.To(y.Data), &kernels.AddArgs{N: y.Len(), A: xv, Alpha: alpha})
	}
	t.record(y, nil, func() { t.pass(x, y, alpha) })
	return y
}

// heads views a tensor [N, h·d] as h heads of d.
func heads(b kernels.Buffer, h, d int) kernels.Heads {
	return kernels.Heads{Buffer: b, Tok: h * d, Head: d}
}

// gradHeads is grad as heads.
func (t *Tape) gradHeads(x *Tensor, h, d int) kernels.Heads {
	dst := t.grad(x)
	if dst.Skip() {
		return kernels.Heads{}
	}
	v := heads(dst.Buffer, h, d)
	v.Add = dst.Add
	return v
}

// Rope rotates the first rot elements of the heads of x [N, h·d] by the angles
// whose cosines and sines are cs [N, rot/2, 2] (Su et al. 2021,
// arXiv:2104.09864). The result takes over x's memory: x must have no other
// reader.
func (t *Tape) Rope(x, cs *Tensor, d, rot int, pairs kernels.Pairs) *Tensor {
	n, h := x.Rows(), x.Cols()/d
	y := &Tensor{Shape: x.Shape, kind: x.kind, tape: t, needs: x.needs}
	if t.err != nil || x.saved > 0 || x.of != nil {
		return t.ropeError(x, y)
	}
	y.Data, x.Data = t.value(x), nil
	if t.err != nil {
		return y
	}
	t.Done(x)
	t.all = append(t.all, y)
	v := heads(y.Data, h, d)
	t.Dev.Rope(v, v, n, h, d, rot, cs.Data, pairs, false)
	t.record(y, []*Tensor{cs}, func() {
		v := heads(y.grad.buf, h, d)
		if y.grad.refs == 1 && x.grad == nil { // nobody else reads dy: rotate it back in place
			t.Dev.Rope(v, v, n, h, d, rot, cs.Data, pairs, true)
			t.pass(x, y, 1)
		} else if dx := t.gradHeads(x, h, d); t.err == nil {
			t.Dev.Rope(dx, v, n, h, d, rot, cs.Data, pairs, true)
		}
	})
	return y
}

func (t *Tape) ropeError(x, y *Tensor) *Tensor {
	if t.err == nil {
		panic(fmt.Sprintf("autograd: rope: x %v has another reader", x.Shape))
	}
	return y
}

// AttnSpec describes causal grouped-query attention.
type AttnSpec struct {
	H, K, D int
	Seq     *Tensor // [S+1] int32
	Scale   float32 // of the scores; 0: 1/√D
	Window  int     // 0: none
	SoftCap float32 // 0: none; else scaled scores become SoftCap·tanh(s/SoftCap)
}

func (s AttnSpec) scale() float32 {
	if s.Scale != 0 {
		return s.Scale
	}
	return float32(1 / math.Sqrt(float64(s.D)))
}

func (s AttnSpec) args(n int, bf16 bool) *kernels.AttnArgs {
	s.Scale = s.scale()
	return &kernels.AttnArgs{N: n, H: s.H, K: s.K, D: s.D, Seq: s.Seq.Data, Scale: s.Scale, Window: s.Window, SoftCap: s.SoftCap, BF16: bf16}
}

// Attention returns softmax(Scale·q·kᵀ)·v within each sequence: q [N, H·D],
// k, v [N, K·D], result [N, H·D].
func (t *Tape) Attention(q, k, v *Tensor, s AttnSpec) *Tensor {
	n := q.Rows()
	o := t.alloc(kernels.Activations, q.kind, n, s.H*s.D)
	o.needs, o.slope = q.needs || k.needs || v.needs, q.kind
	var lse *Tensor
	var keep kernels.Buffer
	if t.Record && o.needs {
		lse = t.New(n, s.H)
		keep = lse.Data
	}
	qkv := func() (a, b, c kernels.Heads) {
		return heads(t.value(q), s.H, s.D), heads(t.value(k), s.K, s.D), heads(t.value(v), s.K, s.D)
	}
	hq, hk, hv := qkv()
	if t.err != nil {
		return o
	}
	t.Dev.Attention(heads(o.Data, s.H, s.D), keep, hq, hk, hv, s.args(n, t.BF16))
	if keep == nil {
		return o
	}
	t.record(o, []*Tensor{q, k, v, o, lse, s.Seq}, func() {
		hq, hk, hv := qkv()
		dq, dk, dv := t.gradHeads(q, s.H, s.D), t.gradHeads(k, s.K, s.D), t.gradHeads(v, s.K, s.D)
		if t.err == nil {
			t.Dev.AttentionBackward(dq, dk, dv, heads(o.grad.buf, s.H, s.D), heads(o.Data, s.H, s.D), lse.Data, hq, hk, hv, s.args(n, t.BF16))
		}
	})
	t.Done(lse)
	return o
}

// CacheAttention stores k and v [N, K·D] of tokens at positions pos of slots
// slot ([N] int32 each) in kv and attends from q [N, H·D] to everything the
// slot then holds up to the token. Evaluation only.
func (t *Tape) CacheAttention(q, k, v *Tensor, kv *kernels.KV, slot, pos *Tensor, s AttnSpec) *Tensor {
	if t.Record {
		panic("autograd: a cache has no gradient")
	}
	n := q.Rows()
	o := t.New(n, s.H*s.D)
	if t.err == nil {
		t.Dev.KVAppend(kv, heads(k.Data, s.K, s.D), heads(v.Data, s.K, s.D), n, slot.Data, pos.Data)
		t.Dev.KVAttention(heads(o.Data, s.H, s.D), heads(q.Data, s.H, s.D), kv, n, s.H, slot.Data, pos.Data, s.scale(), s.Window, s.SoftCap)
	}
	return o
}

func sameShape(op string, a, b *Tensor) {
	if a.Rows() != b.Rows() || a.Cols() != b.Cols() {
		panic(fmt.Sprintf("autograd: %s: shapes %v and %v differ", op, a.Shape, b.Shape))
	}
}
