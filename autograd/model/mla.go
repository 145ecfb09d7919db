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
	// What picks keys; nil where a token sees all.
	iq, ik, iw *nn.Linear
	ikNorm     *nn.Norm
	seat       int // of its keys and values in a cache
	place      int // of what is picked, among what layers lend
}

func (l *loader) mla(layer int, spec *arch.MLA) *mla {
	a := &mla{spec: spec, seat: len(l.m.mixers)}
	if spec.Index.Lends && l.picks == nil { // all lend at one place
		l.picks = &a.place
		a.place = l.lent
	} else if l.picks != nil {
		a.place = *l.picks
	}
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
	if spec.Index.P > 0 && !spec.Index.Borrows {
		a.iq, a.ik, a.iw, a.ikNorm = l.linear(layer, arch.IndexQ), l.linear(layer, arch.IndexK), l.linear(layer, arch.IndexW), latent(arch.IndexNorm)
		a.ikNorm.Kind = kernels.LayerNorm
	}
	l.m.mixers = append(l.m.mixers, a)
	return a
}

// steps: the state between them is what kva made, [N, KVRank+Rot], and the latent
// of the queries or the queries with their positions; then the normed latent of
// keys and values. What picks keys comes first: its queries, keys and weights.
func (a *mla) steps() []Step {
	steps := []Step{{Linears: a.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
		if a.qa == nil {
			q := a.queries(t, in[0], s)
			return tensors{a.kva.Forward(t, in[0]), q}
		}
		y := a.qa.Forward(t, in[0])
		out := tensors{a.kva.Forward(t, in[0]), y}
		if a.ik == nil {
			return out
		}
		return join(a.indexed(t, in[0], s), out)
	}}}
	if a.qa != nil {
		steps = append(steps, a.queryStep())
	}
	var lends []int
	if a.spec.Index.Lends {
		lends = []int{a.place}
	}
	return append(steps,
		Step{Linears: []*nn.Linear{a.kvb}, lends: lends, In: func(t *autograd.Tape, in tensors) tensors {
			latent := t.Columns(in[len(in)-2], 0, a.spec.KVRank)
			normed := a.kvaNorm.Forward(t, latent)
			t.Done(latent)
			return join(in, tensors{normed})
		}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			n := len(in) - 3
			return tensors{a.attend(t, in[n+1], in[n], a.kvb.Forward(t, in[n+2]), in[:n], s)}
		}},
		leave(a.o, 0))
}

// queryStep makes queries of their latent.
func (a *mla) queryStep() Step {
	step := Step{Linears: []*nn.Linear{a.qb}, In: func(t *autograd.Tape, in tensors) tensors {
		last := len(in) - 1
		return join(in[:last], tensors{a.qaNorm.Forward(t, in[last])})
	}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
		last := len(in) - 1
		out := join(in[:last], tensors{a.queries(t, in[last], s)})
		if a.iq == nil {
			return out
		}
		return join(tensors{a.placed(t, a.iq.ForwardWide(t, in[last]), s)}, out)
	}}
	if a.iq != nil {
		step.Linears = append(step.Linears, a.iq)
	}
	return step
}

func (a *mla) readers() []*nn.Linear {
	switch {
	case a.qa == nil:
		return []*nn.Linear{a.qb, a.kva}
	case a.ik == nil:
		return []*nn.Linear{a.qa, a.kva}
	}
	return []*nn.Linear{a.qa, a.kva, a.ik, a.iw}
}

// smooth: the norms of the latents have one reader each. Values share kvb with
// keys, head by head, so that nothing moves between it and o.
func (a *mla) smooth() []Pair {
	pairs := []Pair{{Norm: a.kvaNorm, Next: []*nn.Linear{a.kvb}, Part: alone(a.kvb)}}
	if a.qa != nil {
		next := a.queryStep().Linears
		pairs = append(pairs, Pair{Norm: a.qaNorm, Next: next, Part: Part{next, func(t *autograd.Tape, x *autograd.Tensor, _ *State) *autograd.Tensor { return a.qb.ForwardWide(t, x) }}})
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
	if a.spec.Rope == arch.NoRope {
		return x
	}
	return t.Rope(x, s.Ropes[a.spec.Rope], autograd.RopeSpec{D: off + a.spec.Rot, Rot: a.spec.Rot, Off: off, Pairs: a.spec.Pairs})
}

// indexed are the key [N, D] of what picks keys, with its position, and the weights
// of its heads [N, H].
func (a *mla) indexed(t *autograd.Tape, x *autograd.Tensor, s *State) tensors {
	raw := a.ik.ForwardWide(t, x)
	k := a.ikNorm.ForwardWide(t, raw)
	t.Done(raw)
	return tensors{a.placed(t, k, s), a.iw.ForwardWide(t, x)}
}

// placed gives the heads of what picks keys their positions, in place of x.
func (a *mla) placed(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	return t.Rope(x, s.Ropes[a.spec.Rope], autograd.RopeSpec{D: a.spec.Index.D, Rot: a.spec.Rot, Pairs: a.spec.Index.Pairs})
}

// attend is attention up to the input of o, of queries q to keys and values kv
// [N, H·(Nope+V)]; kva has the part of the keys that rotates, which all heads share,
// and index what picks keys.
func (a *mla) attend(t *autograd.Tape, q, kva, kv *autograd.Tensor, index tensors, s *State) *autograd.Tensor {
	spec := a.spec
	rot := a.rotated(t, t.Columns(kva, spec.KVRank, spec.Rot), 0, s)
	nope := t.HeadColumns(kv, spec.Nope+spec.V, 0, spec.Nope)
	v := t.HeadColumns(kv, spec.Nope+spec.V, spec.Nope, spec.V)
	k := t.JoinHeads(nope, rot, spec.Nope)
	t.Done(kv, nope, rot)
	at := autograd.AttnSpec{H: spec.H, K: spec.H, Dk: spec.Nope + spec.Rot, Dv: spec.V, Seq: s.Seq, Scale: spec.Scale}
	by := autograd.PickSpec{H: spec.Index.H, D: spec.Index.D, P: spec.Index.P, Runs: s.runs}
	var o *autograd.Tensor
	if s.cache != nil {
		kept := s.cache.kept[a.seat].(*latentMemory)
		if len(index) > 0 {
			by.Keys = &kept.index.KV
			t.CacheAppend(by.Keys, index[1], nil, s.slot, s.pos)
		}
		at.Pick = a.picked(t, index, by, s)
		t.CacheAppend(&kept.KV, k, v, s.slot, s.pos)
		o = t.CacheAttention(q, &kept.KV, s.slot, s.pos, at)
	} else {
		at.Pick = a.picked(t, index, by, s)
		o = t.Attention(q, k, v, at)
	}
	if t.Done(k, v); !spec.Index.Lends && !spec.Index.Borrows {
		t.Done(at.Pick)
	}
	return o
}

// picked are the keys that tokens see, nil where they see all: of the layer's own
// indexer, or those that an earlier layer lends.
func (a *mla) picked(t *autograd.Tape, index tensors, by autograd.PickSpec, s *State) *autograd.Tensor {
	var picked *autograd.Tensor
	switch {
	case a.spec.Index.Borrows && !by.All():
		return s.lent[a.place]
	case len(index) > 0:
		picked = t.Pick(index[0], index[1], index[2], by)
	}
	if a.spec.Index.Lends {
		lent := picked
		if lent == nil { // nobody reads it
			lent = t.Upload([]int32{-1}, 1)
		}
		s.lend(a.place, lent)
	}
	return picked
}

// latentMemory are the keys and values of a cache, and the keys of what picks them;
// nil: nothing does.
type latentMemory struct {
	*keysValues
	index *keysValues
}

// remember makes the mixer's part of a cache.
func (a *mla) remember(dev kernels.Backend, slots, max int) (memory, error) {
	main, err := newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: a.spec.H, Dk: a.spec.Nope + a.spec.Rot, Dv: a.spec.V}, true)
	if err != nil || a.ik == nil {
		return &latentMemory{main, nil}, err
	}
	index, err := newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: 1, Dk: a.spec.Index.D}, false)
	if err != nil {
		main.free()
	}
	return &latentMemory{main, index}, err
}

func (l *latentMemory) grow(max int, held []int) error {
	if l.index != nil {
		if err := l.index.grow(max, held); err != nil {
			return err
		}
	}
	return l.keysValues.grow(max, held)
}

func (l *latentMemory) free() {
	l.keysValues.free()
	if l.index != nil {
		l.index.free()
	}
}
