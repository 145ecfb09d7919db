package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// attention is grouped-query attention.
type attention struct {
	spec         *arch.Attention
	q, k, v      *nn.Linear // nil: qkv makes all three, or of k and v owner does
	qkv          *nn.Linear
	gate         *nn.Linear // nil: none
	o            *nn.Linear
	qNorm, kNorm *nn.Norm // nil: none
	sinks        *autograd.Param
	near         *nn.Embedding // what scores get by distance; nil: the model's, or nothing
	vNorm        *nn.Norm      // without weights; nil: none
	seat         int           // of its keys and values in a cache
	// owner is the attention of another layer whose keys and values it sees; nil: its
	// own. place is where it lends them to later ones.
	owner *attention
	place int
}

func (l *loader) attention(layer int, spec *arch.Attention) *attention {
	a := &attention{spec: spec, seat: len(l.m.mixers), place: l.lent}
	switch {
	case spec.Borrows > 0:
		a.owner, a.q = l.lenders[spec.Borrows-1], l.linear(layer, arch.Q)
	case !spec.Fused:
		a.q, a.k = l.linear(layer, arch.Q), l.linear(layer, arch.K)
		if !spec.KeyValue {
			a.v = l.linear(layer, arch.V)
		}
	default:
		a.qkv = l.linear(layer, arch.QKV)
	}
	a.o = l.linear(layer, arch.O)
	if spec.Gate {
		a.gate = l.linear(layer, arch.AttnGate)
	}
	if spec.QKNorm != arch.NoQKNorm {
		a.qNorm, a.kNorm = l.norm(layer, arch.QNorm), l.norm(layer, arch.KNorm)
	}
	if spec.Lends {
		l.lenders = append(l.lenders, a)
	}
	if spec.OwnDistances {
		t := l.src.At(layer, arch.Near)
		a.near = &nn.Embedding{Path: t.Path(), W: l.take(t)}
	}
	if spec.Sinks {
		a.sinks = l.take(l.src.At(layer, arch.Sinks))
	}
	if spec.VNorm {
		norm := l.m.Spec.Norm
		a.vNorm = &nn.Norm{Kind: norm.Kind, Eps: norm.Eps, Width: spec.D}
	}
	switch spec.QKNorm {
	case arch.OwnPerHead:
		a.qNorm.Heads, a.kNorm.Heads = spec.H, spec.K
	case arch.Bare:
		a.qNorm.Width, a.kNorm.Width = spec.D, spec.D
	}
	if a.owner == nil { // else it remembers nothing
		l.m.mixers = append(l.m.mixers, a)
	}
	return a
}

func (a *attention) steps() []Step {
	if a.spec.Memory {
		return a.jointSteps()
	}
	var lends []int
	if a.spec.Lends {
		lends = []int{a.place, a.place + 1}
	}
	return []Step{
		{Linears: a.readers(), lends: lends, In: scaledBy(a.spec.InScale), Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{a.attend(t, in[0], s)}
		}},
		leave(a.o, a.spec.OutScale),
	}
}

func (a *attention) readers() []*nn.Linear {
	if a.spec.Memory { // k and v also read what an encoder made
		return nil
	}
	var list []*nn.Linear
	for _, l := range []*nn.Linear{a.q, a.k, a.v, a.qkv, a.gate} {
		if l != nil {
			list = append(list, l)
		}
	}
	return list
}

// smooth: scales between v and o exist only where v is a map by itself that is
// not cut off and every query head has a value head of its own.
func (a *attention) smooth() []Pair {
	if a.v == nil || a.spec.H != a.spec.K || a.spec.Clip > 0 || a.spec.VNorm {
		return nil
	}
	return []Pair{{Prev: a.v, Next: []*nn.Linear{a.o}, Part: alone(a.o)}}
}

// attend is attention up to the input of o.
func (a *attention) attend(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	q, k, v := a.project(t, x)
	var gate *autograd.Tensor
	if d := a.spec.D; a.spec.QGate {
		both := q
		q, gate = t.HeadColumns(both, 2*d, 0, d), t.HeadColumns(both, 2*d, d, d)
		t.Done(both)
	}
	if a.gate != nil {
		gate = a.gate.Forward(t, x)
	}
	q = a.placed(t, q, a.qNorm, s)
	from := a // whose keys and values these are
	if a.owner != nil {
		from = a.owner
		k, v = s.lent[from.place], s.lent[from.place+1]
	} else {
		k, v = a.seen(t, k, v, s)
	}
	if a.spec.Temperature {
		even := q
		q = t.Mul(even, s.Temper, kernels.ByRow)
		t.Done(even)
	}
	at := autograd.AttnSpec{H: a.spec.H, K: a.spec.K, Dk: a.spec.D, Seq: s.Seq, Scale: a.spec.Scale, SoftCap: a.spec.SoftCap, Full: a.spec.Full, Ahead: a.spec.Ahead, Window: a.spec.Window, Chunk: a.spec.Chunk, Sinks: a.sinks}
	if a.spec.ALiBi || a.spec.Distances {
		at.Rel, at.RelZero = s.Rel, s.relZero
	}
	if a.near != nil {
		at.Rel, at.RelZero = a.near.Forward(t, s.near), s.relZero
		defer t.Done(at.Rel)
	}
	var o *autograd.Tensor
	if s.cache != nil {
		kv := s.cache.kept[from.seat].(*keysValues)
		if a.owner == nil {
			t.CacheAppend(&kv.KV, k, v, s.slot, s.pos)
		}
		o = t.CacheAttention(q, &kv.KV, s.slot, s.pos, at)
	} else {
		o = t.Attention(q, k, v, at)
	}
	t.Done(q)
	switch {
	case a.spec.Lends:
		s.lend(a.place, k)
		s.lend(a.place+1, v)
	case a.owner == nil:
		t.Done(k, v)
	}
	if gate != nil {
		all := o
		o = t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, gate, all)
		t.Done(all, gate)
	}
	return o
}

// seen makes what queries meet of projected keys and values.
func (a *attention) seen(t *autograd.Tape, k, v *autograd.Tensor, s *State) (keys, values *autograd.Tensor) {
	if a.spec.KeyValue {
		v = k
	}
	if a.vNorm != nil {
		raw := v
		if v = a.vNorm.Forward(t, raw); raw != k {
			t.Done(raw)
		}
	}
	return a.placed(t, scaled(t, k, a.spec.KeyScale), a.kNorm, s), v
}

// project makes queries, keys and values of x; the last two nil where they are
// another's.
func (a *attention) project(t *autograd.Tape, x *autograd.Tensor) (q, k, v *autograd.Tensor) {
	if a.owner != nil {
		return a.clipped(t, a.q.Forward(t, x)), nil, nil
	}
	if a.spec.KeyValue {
		return a.q.Forward(t, x), a.k.Forward(t, x), nil
	}
	if a.qkv == nil {
		if a.qNorm != nil { // behind which queries and keys are cut off
			return a.q.Forward(t, x), a.k.Forward(t, x), a.clipped(t, a.v.Forward(t, x))
		}
		return a.clipped(t, a.q.Forward(t, x)), a.clipped(t, a.k.Forward(t, x)), a.clipped(t, a.v.Forward(t, x))
	}
	runs := 1 // of queries, keys and values
	if a.spec.ByKey {
		runs = a.spec.K
	}
	of, kv := a.spec.H/runs*a.spec.D, a.spec.K/runs*a.spec.D
	all := a.clipped(t, a.qkv.Forward(t, x))
	q = t.HeadColumns(all, of+2*kv, 0, of)
	k, v = t.HeadColumns(all, of+2*kv, of, kv), t.HeadColumns(all, of+2*kv, of+kv, kv)
	t.Done(all)
	return q, k, v
}

// clipped is x within ±Clip, in place of x.
func (a *attention) clipped(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	if a.spec.Clip == 0 {
		return x
	}
	y := t.Act(autograd.ActSpec{Kind: kernels.Clip, ActParams: kernels.ActParams{Limit: a.spec.Clip}}, x, nil)
	t.Done(x)
	return y
}

// placed is a query or key with its norm and its position.
func (a *attention) placed(t *autograd.Tape, x *autograd.Tensor, norm *nn.Norm, s *State) *autograd.Tensor {
	if !a.spec.NormLast && norm != nil {
		x = a.clipped(t, normed(t, x, norm))
	}
	if a.spec.Rope != arch.NoRope {
		table := s.Ropes[a.spec.Rope]
		x = t.Rope(x, table, autograd.RopeSpec{D: a.spec.D, Rot: 2 * table.Shape[1], Pairs: a.spec.Pairs})
	}
	if a.spec.NormLast {
		x = normed(t, x, norm)
	}
	return x
}

// normed is the norm of x in place of x; nil: x.
func normed(t *autograd.Tape, x *autograd.Tensor, norm *nn.Norm) *autograd.Tensor {
	if norm == nil {
		return x
	}
	y := norm.Forward(t, x)
	t.Done(x)
	return y
}

// keysValues are the keys and values of a cache.
type keysValues struct {
	kernels.KV
	dev kernels.Backend
}

// remember makes the mixer's part of a cache: keys and values in float32.
func (a *attention) remember(dev kernels.Backend, slots, max int) (memory, error) {
	of := kernels.KV{Slots: slots, Max: max, K: a.spec.K, Dk: a.spec.D}
	if a.spec.Memory {
		return newJointKeys(dev, of)
	}
	return newKeysValues(dev, of, true)
}

// newKeysValues makes room for keys, and for values where there are any.
func newKeysValues(dev kernels.Backend, of kernels.KV, values bool) (*keysValues, error) {
	kv := &keysValues{of, dev}
	kv.Keys, kv.Values = nil, nil
	var err error
	rows := of.Slots * of.Max * of.K
	if kv.Keys, err = dev.Alloc(kernels.Activations, dtype.Of(dtype.F32), rows*of.Dk); err != nil {
		return nil, err
	}
	if !values {
		return kv, nil
	}
	if kv.Values, err = dev.Alloc(kernels.Activations, dtype.Of(dtype.F32), rows*of.ValueSize()); err != nil {
		dev.Free(kv.Keys)
		return nil, err
	}
	return kv, nil
}

func (kv *keysValues) begin(int) {}

func (kv *keysValues) shortens() bool { return true }

func (kv *keysValues) grow(max int, held []int) error {
	if max <= kv.Max { // grown when another mixer could not
		return nil
	}
	of := kv.KV
	of.Max = max
	wide, err := newKeysValues(kv.dev, of, kv.Values != nil)
	if err != nil {
		return err
	}
	for slot, n := range held {
		kv.copyTo(wide, slot, slot, n)
	}
	kv.free()
	*kv = *wide
	return nil
}

// copyTo copies the first n tokens of a slot to another, of a cache with the same heads.
func (kv *keysValues) copyTo(dst *keysValues, from, to, n int) {
	move := func(y, x kernels.Buffer, row int) {
		kv.dev.Copy2D(kernels.To(y), &kernels.Copy2DArgs{Rows: n, Cols: row, X: x, XOff: from * kv.Max * row, XStride: row, YOff: to * dst.Max * row, YStride: row})
	}
	move(dst.Keys, kv.Keys, kv.K*kv.Dk)
	if kv.Values != nil {
		move(dst.Values, kv.Values, kv.K*kv.ValueSize())
	}
}

func (kv *keysValues) free() {
	kv.dev.Free(kv.Keys)
	kv.dev.Free(kv.Values)
}
