package autograd

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

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

// RopeSpec says which elements of a head rotate: Rot of them from Off on.
type RopeSpec struct {
	D, Rot, Off int
	Pairs       kernels.Pairs
	Back        bool // by the negative angles
}

// Rope rotates elements of the heads of x [N, h·D] by the angles whose cosines
// and sines are cs [N, Rot/2, 2] (Su et al. 2021, arXiv:2104.09864). The result
// takes over x's memory: x must have no other reader.
func (t *Tape) Rope(x, cs *Tensor, s RopeSpec) *Tensor {
	n, h := x.Rows(), x.Cols()/s.D
	y := t.tensor(x.kind, x.Shape)
	y.needs, y.own = x.needs, x.own
	if t.err != nil || x.saved > 0 || x.of != nil {
		return t.ropeError(x, y)
	}
	y.Data, x.Data = t.value(x), nil
	if t.err != nil {
		return y
	}
	t.Done(x)
	t.all = append(t.all, y)
	v := heads(y.Data, h, s.D)
	t.Dev.Rope(v, v, s.args(n, h, cs, s.Back))
	if t.Record {
		t.ropeGradient(x, y, cs, s)
	}
	return y
}

func (s RopeSpec) args(n, h int, cs *Tensor, inverse bool) *kernels.RopeArgs {
	return &kernels.RopeArgs{N: n, H: h, D: s.D, Rot: s.Rot, Off: s.Off, CS: cs.Data, Pairs: s.Pairs, Inverse: inverse}
}

// ropeGradient records y = Rope(x).
func (t *Tape) ropeGradient(x, y, cs *Tensor, s RopeSpec) {
	n, h := y.Rows(), y.Cols()/s.D
	t.record(y, []*Tensor{cs}, func() {
		v := heads(y.grad.buf, h, s.D)
		if y.grad.refs == 1 && x.grad == nil { // nobody else reads dy: rotate it back in place
			t.Dev.Rope(v, v, s.args(n, h, cs, !s.Back))
			t.pass(x, y, 1)
		} else if dx := t.gradHeads(x, h, s.D); t.err == nil {
			t.Dev.Rope(dx, v, s.args(n, h, cs, !s.Back))
		}
	})
}

func (t *Tape) ropeError(x, y *Tensor) *Tensor {
	if t.err == nil {
		panic(fmt.Sprintf("autograd: rope: x %v has another reader", x.Shape))
	}
	return y
}

// AttnSpec describes grouped-query attention; kernels.AttnArgs says what its
// fields mean.
type AttnSpec struct {
	H, K   int
	Dk, Dv int     // size of a query and a key, and of a value; Dv 0: Dk
	Seq    *Tensor // [S+1] int32; not for a cache
	SeqKV  *Tensor // [S+1] int32; nil: Seq

	Scale   float32 // of the scores; 0: 1/√Dk
	SoftCap float32 // 0: none
	Rel     *Tensor // [Span, H] f32, with a gradient if it needs one; nil: none
	RelZero int     // row of a token's own position
	Sinks   *Param  // [H] f32; nil: none

	Full   bool
	Window int     // 0: none
	Ahead  int     // 0: all that Full shows
	Chunk  int     // 0: none
	Pick   *Tensor // [N, P] int32; nil: no choice
}

// Values is the size of a value.
func (s AttnSpec) Values() int {
	if s.Dv == 0 {
		return s.Dk
	}
	return s.Dv
}

func (s AttnSpec) scale() float32 {
	if s.Scale != 0 {
		return s.Scale
	}
	return float32(1 / math.Sqrt(float64(s.Dk)))
}

// inputs are the tensors beside q, k and v that attention and its gradient read.
func (s AttnSpec) inputs() []*Tensor {
	return compact([]*Tensor{s.Seq, s.SeqKV, s.Rel, s.Pick})
}

// args are the arguments for n queries and keys keys.
func (s AttnSpec) args(t *Tape, n, keys int) *kernels.AttnArgs {
	a := &kernels.AttnArgs{N: n, NKV: keys, H: s.H, K: s.K, Dk: s.Dk, Dv: s.Dv, Scale: s.scale(), SoftCap: s.SoftCap,
		RelZero: s.RelZero, Sinks: s.Sinks.buffer(), Full: s.Full, Window: s.Window, Ahead: s.Ahead, Chunk: s.Chunk, BF16: t.BF16}
	if s.Seq != nil {
		a.Seq = t.value(s.Seq)
	}
	if s.SeqKV != nil {
		a.SeqKV = t.value(s.SeqKV)
	}
	if s.Rel != nil {
		a.Rel, a.Span = t.value(s.Rel), s.Rel.Rows()
	}
	if s.Pick != nil {
		a.Pick, a.P = t.value(s.Pick), s.Pick.Cols()
	}
	return a
}

// Attention returns softmax(scores)·v within each sequence: q [N, H·Dk],
// k [M, K·Dk], v [M, K·Dv], result [N, H·Dv]. M is N unless SeqKV is set.
func (t *Tape) Attention(q, k, v *Tensor, s AttnSpec) *Tensor {
	n, dv := q.Rows(), s.Values()
	o := t.alloc(kernels.Activations, q.kind, n, s.H*dv)
	o.needs, o.slope = q.needs || k.needs || v.needs || s.Sinks.trains() || s.Rel != nil && s.Rel.needs, q.kind
	var lse *Tensor
	var keep kernels.Buffer
	if t.Record && o.needs {
		lse = t.New(n, s.H)
		keep = lse.Data
	}
	qkv := func() (a, b, c kernels.Heads) {
		return heads(t.value(q), s.H, s.Dk), heads(t.value(k), s.K, s.Dk), heads(t.value(v), s.K, dv)
	}
	hq, hk, hv := qkv()
	if a := s.args(t, n, k.Rows()); t.err == nil {
		t.Dev.Attention(heads(o.Data, s.H, dv), keep, hq, hk, hv, a)
	}
	if keep == nil {
		return o
	}
	t.record(o, append(s.inputs(), q, k, v, o, lse), func() {
		hq, hk, hv := qkv()
		g := &kernels.AttnGrads{Q: t.gradHeads(q, s.H, s.Dk), K: t.gradHeads(k, s.K, s.Dk), V: t.gradHeads(v, s.K, dv), Sinks: s.Sinks.dst(), Rel: t.grad(s.Rel)}
		if a := s.args(t, n, k.Rows()); t.err == nil {
			t.Dev.AttentionBackward(g, heads(o.grad.buf, s.H, dv), heads(o.Data, s.H, dv), lse.Data, hq, hk, hv, a)
		}
	})
	t.Done(lse)
	return o
}

// CacheAppend stores k [N, K·Dk] and v [N, K·Dv] (nil where the cache keeps no
// values of their own) of tokens at positions pos of slots slot, [N] int32 each.
func (t *Tape) CacheAppend(kv *kernels.KV, k, v, slot, pos *Tensor) {
	a := &kernels.KVAppendArgs{N: k.Rows(), K: heads(t.value(k), kv.K, kv.Dk), Slot: slot.Data, Pos: pos.Data}
	if v != nil {
		a.V = heads(t.value(v), kv.K, kv.ValueSize())
	}
	if t.err == nil {
		t.Dev.KVAppend(kv, a)
	}
}

// CacheAttention attends from q [N, H·Dk] to what slots slot of kv hold up to
// positions pos, [N] int32 each; result [N, H·Dv]. Of s it reads the heads, the
// scores and the limits that look back. Evaluation only.
func (t *Tape) CacheAttention(q *Tensor, kv *kernels.KV, slot, pos *Tensor, s AttnSpec) *Tensor {
	if t.Record {
		panic("autograd: a cache has no gradient")
	}
	n := q.Rows()
	o := t.alloc(kernels.Activations, dtype.F32, n, s.H*s.Values())
	hq, a := heads(t.value(q), s.H, s.Dk), s.args(t, n, 0)
	if t.err == nil {
		t.Dev.KVAttention(heads(o.Data, s.H, s.Values()), hq, kv, &kernels.KVAttnArgs{N: n, H: s.H, Slot: slot.Data, Pos: pos.Data,
			Scale: a.Scale, SoftCap: a.SoftCap, Rel: a.Rel, Span: a.Span, RelZero: a.RelZero, Sinks: a.Sinks,
			Window: a.Window, Chunk: a.Chunk, Pick: a.Pick, P: a.P})
	}
	return o
}
