package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
)

// Block is one decoder layer: attention and a gated feed-forward part, each on
// the normed input and added to it.
type Block struct {
	Index             int
	Path              string            // as on the hub
	Params            []*autograd.Param // every weight, in file order
	AttnNorm, MLPNorm *nn.Norm
	Q, K, V, O        *nn.Linear
	Gate, Up, Down    *nn.Linear

	spec   *arch.Spec
	window int
}

// Linears lists the linear maps in the order they run.
func (b *Block) Linears() []*nn.Linear {
	return []*nn.Linear{b.Q, b.K, b.V, b.O, b.Gate, b.Up, b.Down}
}

// Forward maps the hidden states x [N, C] to the next block's. x stays the
// caller's to mark as Done.
func (b *Block) Forward(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	scale := b.spec.ResidualScale
	if scale == 0 {
		scale = 1
	}
	xn := b.AttnNorm.Forward(t, x)
	a := b.attention(t, xn, s)
	t.Done(xn)
	h, hn := b.MLPNorm.AddForward(t, x, a, scale)
	t.Done(a)
	f := b.mlp(t, hn, s)
	t.Done(hn)
	y := t.Add(h, f, 1, scale)
	t.Done(h, f)
	return y
}

func (b *Block) attention(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	o := b.attend(t, x, s)
	y := b.O.Forward(t, o)
	t.Done(o)
	return y
}

// attend is attention up to the input of O.
func (b *Block) attend(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	sp := b.spec
	rope := autograd.RopeSpec{D: sp.D, Rot: sp.Rot, Pairs: sp.Pairs}
	q := t.Rope(b.Q.Forward(t, x), s.Rope, rope)
	k := t.Rope(b.K.Forward(t, x), s.Rope, rope)
	v := b.V.Forward(t, x)
	at := autograd.AttnSpec{H: sp.H, K: sp.K, Dk: sp.D, Seq: s.Seq, Scale: sp.ScoreScale(), Window: b.window}
	var o *autograd.Tensor
	if s.cache != nil {
		kv := &s.cache.layers[b.Index]
		t.CacheAppend(kv, k, v, s.slot, s.pos)
		o = t.CacheAttention(q, kv, s.slot, s.pos, at)
	} else {
		o = t.Attention(q, k, v, at)
	}
	t.Done(q, k, v)
	return o
}

func (b *Block) mlp(t *autograd.Tape, x *autograd.Tensor, _ *State) *autograd.Tensor {
	a := b.gated(t, x)
	y := b.Down.Forward(t, a)
	t.Done(a)
	return y
}

// gated is the feed-forward part up to the input of Down.
func (b *Block) gated(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	g, u := b.Gate.Forward(t, x), b.Up.Forward(t, x)
	a := t.Act(b.spec.Act, g, u)
	t.Done(g, u)
	return a
}

// Step is a piece of a block between two groups of linear maps that share an
// input: Linears read the last of the tensors that In makes, and Forward runs
// them and what follows. A block's steps, one after another, are its Forward.
type Step struct {
	Linears []*nn.Linear
	// In maps what the step before returned (for the first, the block's input
	// alone) to what Forward takes. What goes in stays the caller's to mark as
	// Done; a result may be one of the inputs.
	In func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor
	// Forward returns the state between this step and the next; the last step's
	// is the block's output alone.
	Forward func(t *autograd.Tape, in []*autograd.Tensor, s *State) []*autograd.Tensor
}

// Steps cut the block before each group of linear maps, in the order they run.
// All states but the last are the residual stream and one more tensor.
func (b *Block) Steps() []Step {
	type tensors = []*autograd.Tensor
	same := func(_ *autograd.Tape, in tensors) tensors { return in }
	scale := b.spec.ResidualScale
	if scale == 0 {
		scale = 1
	}
	return []Step{
		{[]*nn.Linear{b.Q, b.K, b.V},
			func(t *autograd.Tape, in tensors) tensors { return tensors{in[0], b.AttnNorm.Forward(t, in[0])} },
			func(t *autograd.Tape, in tensors, s *State) tensors { return tensors{in[0], b.attend(t, in[1], s)} }},
		{[]*nn.Linear{b.O}, same,
			func(t *autograd.Tape, in tensors, _ *State) tensors { return tensors{in[0], b.O.Forward(t, in[1])} }},
		{[]*nn.Linear{b.Gate, b.Up},
			func(t *autograd.Tape, in tensors) tensors {
				h, hn := b.MLPNorm.AddForward(t, in[0], in[1], scale)
				return tensors{h, hn}
			},
			func(t *autograd.Tape, in tensors, _ *State) tensors { return tensors{in[0], b.gated(t, in[1])} }},
		{[]*nn.Linear{b.Down}, same,
			func(t *autograd.Tape, in tensors, _ *State) tensors {
				f := b.Down.Forward(t, in[1])
				y := t.Add(in[0], f, 1, scale)
				t.Done(f)
				return tensors{y}
			}},
	}
}

// Part is a piece of a block that can be run alone, from the input that its
// Linears read to its output before the residual sum.
type Part struct {
	Linears []*nn.Linear
	Forward func(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor
}

// parts are the block's attention and feed-forward parts.
func (b *Block) parts() []Part {
	return []Part{
		{[]*nn.Linear{b.Q, b.K, b.V}, b.attention},
		{[]*nn.Linear{b.Gate, b.Up}, b.mlp},
	}
}

// Pair is a place where scales can move between what makes an activation and
// the linear maps that read it, without changing the function: the columns of
// Next are multiplied by s and the weight of Norm, or the rows (and bias) of
// Prev, divided by it (Lin et al. 2023, arXiv:2306.00978, section 3.2).
type Pair struct {
	Norm *nn.Norm   // set, or
	Prev *nn.Linear // this
	Next []*nn.Linear
	Part Part // reads the activation; its output judges the scales
}

// Smooth lists the block's pairs. Scales between v and o exist only where every
// query head has a value head of its own.
func (b *Block) Smooth() []Pair {
	parts := b.parts()
	pairs := []Pair{{Norm: b.AttnNorm, Next: parts[0].Linears, Part: parts[0]}}
	if b.spec.H == b.spec.K {
		pairs = append(pairs, Pair{Prev: b.V, Next: []*nn.Linear{b.O}, Part: alone(b.O)})
	}
	return append(pairs,
		Pair{Norm: b.MLPNorm, Next: parts[1].Linears, Part: parts[1]},
		Pair{Prev: b.Up, Next: []*nn.Linear{b.Down}, Part: alone(b.Down)})
}

// alone is a linear map as a part.
func alone(l *nn.Linear) Part {
	return Part{[]*nn.Linear{l}, func(t *autograd.Tape, x *autograd.Tensor, _ *State) *autograd.Tensor { return l.Forward(t, x) }}
}
