package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
)

// Block is one decoder layer: mixers and feed-forward parts around a residual
// stream, as a list of steps.
type Block struct {
	Index  int
	Path   string            // as on the hub
	Params []*autograd.Param // every weight, in file order

	// Lends are the places, in what blocks hand on, of the tensors that this one adds
	// or puts in place of others; see Step.In.
	Lends []int

	spec  *arch.LayerSpec
	alt   *altUp // nil: there is one stream, or hyper mixes them, around each sublayer
	hyper []*hyper
	steps []Step
	pairs []Pair
}

// Step is a piece of a block between two groups of linear maps that share an
// input: Linears read the last of the tensors that In makes, and Forward runs
// them and what follows. A block's Forward is its steps, one after another.
type Step struct {
	Linears []*nn.Linear
	// Routed is set where Linears are of experts: which rows of their input, in
	// what In made, are whose. Such a step follows the one before on the same
	// tape: the state between them has more than rows of tokens in float32.
	Routed func(in []*autograd.Tensor) *autograd.Routed
	// Memory is set where Linears read what an encoder made: what Enter makes of that
	// and of what In makes.
	Memory func(t *autograd.Tape, in []*autograd.Tensor, s *State) []*autograd.Tensor
	// In maps what the step before returned (for the first, the block's input) to
	// what Forward takes. What goes in stays the caller's to mark as Done; a result
	// may be one of the inputs. Input and output of a block are the residual stream,
	// last, behind what blocks lend to later ones: nothing in most models.
	In func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor
	// Forward returns the state between this step and the next; the last step's
	// is the block's output.
	Forward func(t *autograd.Tape, in []*autograd.Tensor, s *State) []*autograd.Tensor

	lends []int // places of what Forward lends; see State.lend
}

// Enter maps what the step before returned to what Forward takes: In, then Memory where
// there is one.
func (p *Step) Enter(t *autograd.Tape, in []*autograd.Tensor, s *State) []*autograd.Tensor {
	out := p.In(t, in)
	if p.Memory != nil {
		out = p.Memory(t, out, s)
	}
	return out
}

// Part is a piece of a block that can be run alone, from the input that its
// Linears read to its output before the residual sum.
type Part struct {
	Linears []*nn.Linear
	Forward func(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor
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

// body is a mixer or a feed-forward part, made of modules.
type body interface {
	// steps are the body's own: the first takes its input [N, C] alone, the last
	// returns its output [N, C] alone, in float32.
	steps() []Step
	// readers are the linear maps that read its input; nil where something else
	// does, too, that cannot take up a change of it.
	readers() []*nn.Linear
	// smooth lists the pairs inside.
	smooth() []Pair
}

// Linears lists the linear maps in the order they run, behind those that run between
// the steps.
func (b *Block) Linears() []*nn.Linear {
	var out []*nn.Linear
	if b.alt != nil {
		out = b.alt.linears()
	}
	for i := range b.steps {
		out = append(out, b.steps[i].Linears...)
	}
	return out
}

// Steps cut the block before each group of linear maps, in the order they run.
// The slice is shared.
func (b *Block) Steps() []Step { return b.steps }

// Smooth lists the block's pairs. The slice is shared.
func (b *Block) Smooth() []Pair { return b.pairs }

// Forward maps a block's input, whose last tensor is the hidden states [N, C], to
// the next block's. What goes in stays the caller's to mark as Done, but for what
// comes out again.
func (b *Block) Forward(t *autograd.Tape, in []*autograd.Tensor, s *State) []*autograd.Tensor {
	return runSteps(t, b.steps, in, s)
}

// runSteps runs steps on in, which stays the caller's, and marks what is between
// them as Done.
func runSteps(t *autograd.Tape, steps []Step, in tensors, s *State) tensors {
	state := in
	t.Key = s.Key
	for i := range steps {
		x := steps[i].Enter(t, state, s)
		release(t, state, x, in...)
		state = steps[i].Forward(t, x, s)
		release(t, x, state, in...)
	}
	return state
}

// release marks tensors that are not kept as Done; mine stay.
func release(t *autograd.Tape, xs, kept []*autograd.Tensor, mine ...*autograd.Tensor) {
	for _, x := range xs {
		if !slices.Contains(mine, x) && !slices.Contains(kept, x) {
			t.Done(x)
		}
	}
}

// alone is a linear map as a part.
func alone(l *nn.Linear) Part {
	return Part{[]*nn.Linear{l}, func(t *autograd.Tape, x *autograd.Tensor, _ *State) *autograd.Tensor { return l.ForwardWide(t, x) }}
}

// leave is the last step of a body: the map l of what the step before left, times
// scale (0: 1).
func leave(l *nn.Linear, scale float32) Step {
	return Step{Linears: []*nn.Linear{l}, In: unchanged, Forward: func(t *autograd.Tape, in []*autograd.Tensor, _ *State) []*autograd.Tensor {
		return []*autograd.Tensor{scaled(t, l.ForwardWide(t, in[0]), scale)}
	}}
}

// scaledBy is the In of a step that reads alpha (0: 1) times what the step before
// left.
func scaledBy(alpha float32) func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor {
	return func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor {
		return []*autograd.Tensor{t.Scale(in[0], alpha)}
	}
}

// unchanged is the In of a step that reads what the step before left.
func unchanged(_ *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor { return in }
