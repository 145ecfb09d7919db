package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
)

// What a layer makes for later ones (keys and values, or which keys are seen) is
// handed on from block to block in front of the residual stream, each tensor at a
// place of its own. So blocks can be run one by one, and gradients flow back to
// whoever made it.

// lend puts x at a place among what is handed on. x is then not the lender's to mark
// as Done.
func (s *State) lend(place int, x *autograd.Tensor) {
	for len(s.lent) <= place {
		s.lent = append(s.lent, nil)
	}
	s.lent[place] = x
}

// Lend is s for a part of a block whose input is in.
func (s *State) Lend(in []*autograd.Tensor) *State {
	c := *s
	c.lent = slices.Clone(in[:len(in)-1])
	return &c
}

// carry lets the n tensors that come in in front of the stream pass through the
// block's steps, which see them as State.lent, and returns how many come out.
func (b *Block) carry(n int) int {
	for i := range b.steps {
		own, held := b.steps[i], n
		if held == 0 && len(own.lends) == 0 {
			continue
		}
		b.steps[i].In = func(t *autograd.Tape, in tensors) tensors { return join(in[:held], own.In(t, in[held:])) }
		b.steps[i].Forward = func(t *autograd.Tape, in tensors, s *State) tensors {
			c := *s
			c.lent = slices.Clone(in[:held])
			out := own.Forward(t, in[held:], &c)
			return join(c.lent, out)
		}
		if own.Memory != nil {
			b.steps[i].Memory = func(t *autograd.Tape, in tensors, s *State) tensors {
				return join(in[:held], own.Memory(t, in[held:], s))
			}
		}
		if own.Routed != nil {
			b.steps[i].Routed = func(in tensors) *autograd.Routed { return own.Routed(in[held:]) }
		}
		for _, place := range own.lends {
			n = max(n, place+1)
		}
		b.Lends = append(b.Lends, own.lends...)
	}
	return n
}
