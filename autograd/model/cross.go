package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// cross is attention of the tokens to what the encoder made.
type cross struct {
	spec       *arch.Cross
	q, k, v, o *nn.Linear
	seat       int // of its keys and values in a cache
}

func (l *loader) cross(layer int, spec *arch.Cross) *cross {
	c := &cross{spec: spec, seat: len(l.m.mixers), q: l.linear(layer, arch.CrossQ), k: l.linear(layer, arch.CrossK), v: l.linear(layer, arch.CrossV), o: l.linear(layer, arch.CrossO)}
	l.m.mixers = append(l.m.mixers, c)
	return c
}

// steps: the state between them is the queries, then what attention makes.
func (c *cross) steps() []Step {
	return []Step{
		{Linears: []*nn.Linear{c.q}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{c.q.Forward(t, in[0])}
		}},
		{Linears: []*nn.Linear{c.k, c.v}, Memory: func(_ *autograd.Tape, in tensors, s *State) tensors { return join(in, tensors{s.Memory}) }, In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{c.attend(t, in[0], in[1], s)}
		}},
		leave(c.o, 0),
	}
}

func (c *cross) readers() []*nn.Linear { return []*nn.Linear{c.q} }

func (c *cross) smooth() []Pair {
	if c.spec.H != c.spec.K {
		return nil
	}
	return []Pair{{Prev: c.v, Next: []*nn.Linear{c.o}, Part: alone(c.o)}}
}

// attend is attention of queries q [N, H·D] to memory [M, C]. With a cache, memory are
// the texts that have just been encoded, and those before lie there as keys and values.
func (c *cross) attend(t *autograd.Tape, q, memory *autograd.Tensor, s *State) *autograd.Tensor {
	at := autograd.AttnSpec{H: c.spec.H, K: c.spec.K, Dk: c.spec.D, Scale: c.spec.Scale, SoftCap: c.spec.SoftCap, Full: true, Seq: s.Seq, SeqKV: s.memorySeq}
	var k, v *autograd.Tensor
	if memory.Rows() > 0 {
		own := t.Key
		t.Key = s.memoryKey
		k, v = c.k.Forward(t, memory), c.v.Forward(t, memory)
		t.Key = own
	}
	if s.cache == nil {
		o := t.Attention(q, k, v, at)
		t.Done(k, v)
		return o
	}
	kept := &s.cache.kept[c.seat].(*crossKeys).KV
	if k != nil {
		t.CacheAppend(kept, k, v, s.memorySlot, s.memoryPos)
		t.Done(k, v)
	}
	return t.CacheAttention(q, kept, s.slot, s.memoryLast, at)
}

// crossKeys are the keys and values of what the encoder made of each slot's text.
type crossKeys struct{ *keysValues }

func (c *cross) remember(dev kernels.Backend, slots, max int) (memory, error) {
	kv, err := newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: c.spec.K, Dk: c.spec.D}, true)
	if err != nil {
		return nil, err
	}
	return &crossKeys{kv}, nil
}
