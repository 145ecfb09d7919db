package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
)

// sublayer adds scale·post(body(pre(x))) to the residual stream; a norm may be
// nil.
type sublayer struct {
	pre, post *nn.Norm
	body      body
}

type tensors = []*autograd.Tensor

// wiring puts one sublayer into its block. While its body runs, the state is
// held tensors of the block, then those of the body.
type wiring struct {
	held int
	// enter maps the state before the sublayer to the block's tensors and the
	// body's input.
	enter func(t *autograd.Tape, in tensors) (block tensors, x *autograd.Tensor)
	// leave maps the block's tensors and the body's output, which is then not
	// read again, to the state behind the sublayer.
	leave func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors
}

// wire makes the block's steps and pairs of its sublayers.
func (b *Block) wire(subs []sublayer) {
	scale := b.spec.Residual
	if scale == 0 {
		scale = 1
	}
	for i := range subs {
		w := sequential(subs, i, scale)
		switch {
		case b.hyper != nil:
			w = b.hyper[i].wiring(&subs[i])
		case b.alt != nil:
			w = b.alt.wiring(subs, i)
		case b.spec.Parallel:
			w = parallel(subs, i, scale)
		case b.spec.NormedStream:
			w = normedStream(&subs[i], scale)
		case b.spec.NormSum:
			w = normedSum(&subs[i], scale)
		}
		b.steps = append(b.steps, w.around(subs[i].body)...)
		b.pairs = append(b.pairs, pairsOf(subs, i, b.spec.NormedStream)...)
	}
}

// sequential is the wiring in which each sublayer reads what the one before
// left. The sum is left to the next sublayer, whose norm may make it in the same
// pass: the state between two is the stream and what is added to it.
func sequential(subs []sublayer, i int, scale float32) wiring {
	sub, last := &subs[i], i == len(subs)-1
	return wiring{
		held: 1,
		enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
			switch {
			case sub.pre != nil && i > 0:
				sum, x := sub.pre.AddForward(t, in[0], in[1], scale)
				return tensors{sum}, x
			case sub.pre != nil:
				return in, sub.pre.Forward(t, in[0])
			case i > 0:
				sum := t.Add(in[0], in[1], 1, scale)
				return tensors{sum}, sum
			}
			return in, in[0]
		},
		leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			y = sub.after(t, y)
			if !last {
				return tensors{block[0], y}
			}
			sum := t.Add(block[0], y, 1, scale)
			t.Done(y)
			return tensors{sum}
		},
	}
}

// normedSum is the wiring in which a sublayer reads the stream, and the norm of its
// sum with what the sublayer makes is the stream.
func normedSum(sub *sublayer, scale float32) wiring {
	return wiring{
		held:  1,
		enter: func(_ *autograd.Tape, in tensors) (tensors, *autograd.Tensor) { return in, in[0] },
		leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			sum := t.Add(block[0], y, 1, scale)
			t.Done(y)
			return tensors{sub.after(t, sum)}
		},
	}
}

// normedStream is the wiring in which a sublayer adds to what its norm makes of the stream.
func normedStream(sub *sublayer, scale float32) wiring {
	return wiring{
		held: 1,
		enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
			x := sub.pre.Forward(t, in[0])
			return tensors{x}, x
		},
		leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			y = sub.after(t, y)
			sum := t.Add(block[0], y, 1, scale)
			t.Done(y)
			return tensors{sum}
		},
	}
}

// parallel is the wiring in which all sublayers read the block's input: the
// state between two is that input, its norm where they share it, and what the
// sublayers before made.
func parallel(subs []sublayer, i int, scale float32) wiring {
	sub, last, shared := &subs[i], i == len(subs)-1, sharedNorm(subs)
	w := wiring{held: 1 + i}
	if shared && !last {
		w.held++
	}
	w.enter = func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
		switch {
		case shared && i == 0:
			x := sub.pre.Forward(t, in[0])
			return tensors{in[0], x}[:w.held], x
		case shared && last:
			return join(in[:1], in[2:]), in[1]
		case shared:
			return in, in[1]
		case sub.pre != nil:
			return in, sub.pre.Forward(t, in[0])
		}
		return in, in[0]
	}
	w.leave = func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
		y = sub.after(t, y)
		if !last {
			return join(block, tensors{y})
		}
		sum := block[0]
		for _, o := range join(block[1:], tensors{y}) {
			before := sum
			if sum = t.Add(sum, o, 1, scale); before != block[0] {
				t.Done(before)
			}
		}
		t.Done(y)
		return tensors{sum}
	}
	return w
}

// sharedNorm reports whether several sublayers read the same norm.
func sharedNorm(subs []sublayer) bool {
	for i := range subs {
		if subs[i].pre == nil || subs[i].pre != subs[0].pre {
			return false
		}
	}
	return len(subs) > 1
}

// after is the norm of a body's output.
func (sub *sublayer) after(t *autograd.Tape, y *autograd.Tensor) *autograd.Tensor {
	if sub.post == nil {
		return y
	}
	z := sub.post.ForwardWide(t, y)
	t.Done(y)
	return z
}

// around are the steps of a body inside its block.
func (w wiring) around(b body) []Step {
	own := b.steps()
	out := make([]Step, len(own))
	for i, step := range own {
		out[i] = Step{
			Linears: step.Linears, lends: step.lends,
			In: func(t *autograd.Tape, in tensors) tensors {
				if i > 0 {
					return join(in[:w.held], step.In(t, in[w.held:]))
				}
				block, x := w.enter(t, in)
				all := join(block, step.In(t, tensors{x}))
				release(t, tensors{x}, join(all, in))
				return all
			},
			Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
				out := step.Forward(t, in[w.held:], s)
				if i < len(own)-1 {
					return join(in[:w.held], out)
				}
				return w.leave(t, in[:w.held], out[0])
			},
		}
		if step.Memory != nil {
			out[i].Memory = func(t *autograd.Tape, in tensors, s *State) tensors {
				return join(in[:w.held], step.Memory(t, in[w.held:], s))
			}
		}
		if step.Routed != nil {
			out[i].Routed = func(in tensors) *autograd.Routed { return step.Routed(in[w.held:]) }
		}
	}
	return out
}

func join(a, b tensors) tensors { return append(a[:len(a):len(a)], b...) }

// pairsOf are the pairs of sublayer i: its norm, if nothing else reads it, as the stream
// does, and its weights can be scaled as they are stored, and those inside.
func pairsOf(subs []sublayer, i int, stream bool) []Pair {
	sub := &subs[i]
	var pairs []Pair
	shared := stream || sharedNorm(subs)
	if next := sub.body.readers(); sub.pre != nil && sub.pre.W != nil && sub.pre.Offset == 0 && !shared && next != nil {
		steps := sub.body.steps()
		pairs = append(pairs, Pair{Norm: sub.pre, Next: next, Part: Part{next, func(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
			return runSteps(t, steps, tensors{x}, s)[0]
		}}})
	}
	return append(pairs, sub.body.smooth()...)
}
