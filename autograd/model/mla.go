package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// mla is multi-head latent attention. A cache keeps keys and values as they are
// attended to, a key and a value for every head.
type mla struct {
	spec        *arch.MLA
	qa, qb      *nn.Linear // qa and its norm nil: qb reads the input
	qaNorm      *nn.Norm
	kva, kvb, o *nn.Linear
	kvaNorm     *nn.Norm
	seat        int // of its keys and values in a cache
}

func (l *loader) mla(layer int, spec *arch.MLA) *mla {
	a := &mla{spec: spec, seat: len(l.m.mixers)}
	latent := func(role arch.Role) *nn.Norm {
		n := l.norm(layer, role)
		n.Eps = arch.LatentEps
		return n
	}
	if spec.QRank > 0 {
		a.qa, a.qaNorm, a.qb = l.linear(layer, arch.QA), latent(arch.QANorm), l.linear(layer, arch.QB)
	} else {
		a.qb = l.linear(layer, arch.Q)
	}
	a.kva, a.kvaNorm, a.kvb, a.o = l.linear(layer, arch.KVA), latent(arch.KVANorm), l.linear(layer, arch.KVB), l.linear(layer, arch.O)
	l.m.mixers = append(l.m.mixers, a)
	return a
}

// steps: the state between them is what kva made, [N, KVRank+Rot], and the latent
// of the queries or the queries with their positions; then the normed latent of
// keys and values.
func (a *mla) steps() []Step {
	steps := []Step{{Linears: a.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
		if a.qa != nil {
			y := a.qa.Forward(t, in[0])
			return tensors{a.kva.Forward(t, in[0]), y}
		}
		q := a.queries(t, in[0], s)
		return tensors{a.kva.Forward(t, in[0]), q}
	}}}
	if a.qa != nil {
		steps = append(steps, Step{Linears: []*nn.Linear{a.qb}, In: func(t *autograd.Tape, in tensors) tensors {
			return tensors{in[0], a.qaNorm.Forward(t, in[1])}
		}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{in[0], a.queries(t, in[1], s)}
		}})
	}
	return append(steps,
		Step{Linears: []*nn.Linear{a.kvb}, In: func(t *autograd.Tape, in tensors) tensors {
			latent := t.Columns(in[0], 0, a.spec.KVRank)
			normed := a.kvaNorm.Forward(t, latent)
			t.Done(latent)
			return tensors{in[0], in[1], normed}
		}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{a.attend(t, in[1], in[0], a.kvb.Forward(t, in[2]), s)}
		}},
		Step{Linears: []*nn.Linear{a.o}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{a.o.ForwardWide(t, in[0])}
		}})
}

func (a *mla) readers() []*nn.Linear {
	if a.qa != nil {
		return []*nn.Linear{a.qa, a.kva}
	}
	return []*nn.Linear{a.qb, a.kva}
}

// smooth: the norms of the latents have one reader each. Values share kvb with
// keys, head by head, so that nothing moves between it and o.
func (a *mla) smooth() []Pair {
	pairs := []Pair{{Norm: a.kvaNorm, Next: []*nn.Linear{a.kvb}, Part: alone(a.kvb)}}
	if a.qa != nil {
		pairs = append(pairs, Pair{Norm: a.qaNorm, Next: []*nn.Linear{a.qb}, Part: alone(a.qb)})
	}
	return pairs
}

// queries are those of x with their positions, [N, H·(Nope+Rot)].
func (a *mla) queries(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	q := a.rotated(t, a.qb.Forward(t, x), a.spec.Nope, s)
	if !a.spec.Temperature {
		return q
	}
	grown := t.Mul(q, s.Temper, kernels.ByRow)
	t.Done(q)
	return grown
}

// rotated gives each head of x the position of its token, in the elements from
// off on. It takes x over.
func (a *mla) rotated(t *autograd.Tape, x *autograd.Tensor, off int, s *State) *autograd.Tensor {
	return t.Rope(x, s.Ropes[a.spec.Rope], autograd.RopeSpec{D: off + a.spec.Rot, Rot: a.spec.Rot, Off: off, Pairs: a.spec.Pairs})
}

// attend is attention up to the input of o, of queries q to keys and values kv
// [N, H·(Nope+V)]; kva has the part of the keys that rotates, which all heads share.
func (a *mla) attend(t *autograd.Tape, q, kva, kv *autograd.Tensor, s *State) *autograd.Tensor {
	spec := a.spec
	rot := a.rotated(t, t.Columns(kva, spec.KVRank, spec.Rot), 0, s)
	nope := t.HeadColumns(kv, spec.Nope+spec.V, 0, spec.Nope)
	v := t.HeadColumns(kv, spec.Nope+spec.V, spec.Nope, spec.V)
	k := t.JoinHeads(nope, rot, spec.Nope)
	t.Done(kv, nope, rot)
	at := autograd.AttnSpec{H: spec.H, K: spec.H, Dk: spec.Nope + spec.Rot, Dv: spec.V, Seq: s.Seq, Scale: spec.Scale}
	var o *autograd.Tensor
	if s.cache != nil {
		kept := s.cache.kept[a.seat].(*keysValues)
		t.CacheAppend(&kept.KV, k, v, s.slot, s.pos)
		o = t.CacheAttention(q, &kept.KV, s.slot, s.pos, at)
	} else {
		o = t.Attention(q, k, v, at)
	}
	t.Done(k, v)
	return o
}

// remember makes the mixer's part of a cache.
func (a *mla) remember(dev kernels.Backend, slots, max int) (memory, error) {
	return newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: a.spec.H, Dk: a.spec.Nope + a.spec.Rot, Dv: a.spec.V})
}
