package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
)

// beside is bodies that read one input, and whose outputs are summed.
type beside struct{ bodies []body }

func (l *loader) beside(layer int, spec *arch.Beside) *beside {
	b := &beside{}
	for _, s := range spec.Bodies {
		b.bodies = append(b.bodies, l.body(layer, s))
	}
	return b
}

// steps are those of one body after another. While one runs, the state is the
// input, if bodies follow, then the sum of those before, if there are any, then
// the body's own.
func (b *beside) steps() []Step {
	var out []Step
	for i, part := range b.bodies {
		first, last := i == 0, i == len(b.bodies)-1
		held := 0
		if !last {
			held++
		}
		if !first {
			held++
		}
		own := part.steps()
		for j, step := range own {
			s := Step{
				Linears: step.Linears, lends: step.lends,
				In: func(t *autograd.Tape, in tensors) tensors {
					if j > 0 {
						return join(in[:held], step.In(t, in[held:]))
					}
					kept := in // the input, and a sum
					if last {
						kept = in[1:]
					}
					return join(kept, step.In(t, in[:1]))
				},
				Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
					y := step.Forward(t, in[held:], s)
					if j < len(own)-1 {
						return join(in[:held], y)
					}
					sum := y[0]
					if !first {
						sum = t.Add(in[held-1], y[0], 1, 1)
						t.Done(y[0])
					}
					if last {
						return tensors{sum}
					}
					return tensors{in[0], sum}
				},
			}
			if step.Routed != nil {
				s.Routed = func(in tensors) *autograd.Routed { return step.Routed(in[held:]) }
			}
			out = append(out, s)
		}
	}
	return out
}

// normedBody is a body with norms of its own; each may be nil.
type normedBody struct {
	pre, post *nn.Norm
	body
}

func (l *loader) normed(layer int, spec *arch.Normed) *normedBody {
	return &normedBody{l.normOrNone(layer, spec.Pre), l.normOrNone(layer, spec.Post), l.body(layer, spec.Body)}
}

func (n *normedBody) steps() []Step {
	steps := slices.Clone(n.body.steps())
	first, last := steps[0].In, steps[len(steps)-1].Forward
	if n.pre != nil {
		steps[0].In = func(t *autograd.Tape, in tensors) tensors {
			x := n.pre.Forward(t, in[0])
			out := first(t, tensors{x})
			release(t, tensors{x}, out)
			return out
		}
	}
	if n.post != nil {
		steps[len(steps)-1].Forward = func(t *autograd.Tape, in tensors, s *State) tensors {
			y := last(t, in, s)[0]
			z := n.post.ForwardWide(t, y)
			t.Done(y)
			return tensors{z}
		}
	}
	return steps
}

// readers: none where a norm stands before them.
func (n *normedBody) readers() []*nn.Linear {
	if n.pre != nil {
		return nil
	}
	return n.body.readers()
}

// readers: none, for they are in several steps, and a pair is of one.
func (b *beside) readers() []*nn.Linear { return nil }

func (b *beside) smooth() []Pair {
	var out []Pair
	for _, part := range b.bodies {
		out = append(out, part.smooth()...)
	}
	return out
}
