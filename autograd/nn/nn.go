// Package nn holds the layers a model is made of: parameters with a place
// where adapters attach. A layer knows no file and no architecture.
package nn

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LoRA is a low-rank adapter of a Linear.
type LoRA = autograd.LowRank

// Around is an adapter that changes what a Linear reads or what becomes of its
// result. Forward gets the input and the map itself, which may be called more than
// once; the input stays its owner's to mark as Done.
type Around interface {
	Forward(t *autograd.Tape, x *autograd.Tensor, linear func(x *autograd.Tensor) *autograd.Tensor) *autograd.Tensor
}

// Linear is y = x·Wᵀ + Bias, plus its adapters.
type Linear struct {
	Path     string          // module path as on the hub: model.layers.0.self_attn.q_proj
	W        *autograd.Param // [out, in], any storage type; of experts one below another
	Bias     *autograd.Param // [out] f32 or nil
	Experts  int             // that W holds; 0: it is one map for all tokens
	Adapters []*LoRA         // summed; left out while Tape.Base is set
	Around   Around          // nil: none; left out while Tape.Base is set
	Act      dtype.Type      // what the input is rounded to, row by row, before the product; the zero Type: not at all
	Grid     kernels.Grid    // on which Act rounds; the zero Grid: each row's own
	Scale    *autograd.Param // [1, out] f32: a factor of each output before its bias (DoRA); nil: none; left out while Tape.Base is set
	Shift    *autograd.Param // [1, out] f32: Bias with those of adapters in it, in its place; nil: Bias; left out while Tape.Base is set
}

// BiasOf is the bias that a tape adds: [out] f32 or nil.
func (l *Linear) BiasOf(t *autograd.Tape) *autograd.Param {
	if l.Shift == nil || t.Base {
		return l.Bias
	}
	return l.Shift
}

// Forward maps x [N, in] to [N, out], for what lies between linear maps: see
// autograd.Tape.Linear.
func (l *Linear) Forward(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return l.forward(t, x, t.Linear)
}

// ForwardWide is Forward with a float32 result: see autograd.Tape.LinearWide.
func (l *Linear) ForwardWide(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return l.forward(t, x, t.LinearWide)
}

// product is a product of a tape.
type product func(x *autograd.Tensor, w, bias *autograd.Param, adapters ...*LoRA) *autograd.Tensor

func (l *Linear) forward(t *autograd.Tape, x *autograd.Tensor, linear product) *autograd.Tensor {
	if l.Around == nil || t.Base {
		return l.plain(t, x, linear)
	}
	return l.Around.Forward(t, x, func(x *autograd.Tensor) *autograd.Tensor { return l.plain(t, x, linear) })
}

// plain is forward without Around.
func (l *Linear) plain(t *autograd.Tape, x *autograd.Tensor, linear product) *autograd.Tensor {
	if l.Act != (dtype.Type{}) {
		x = t.FakeQuant(x, l.Act, l.Grid)
		defer t.Done(x)
	}
	if l.Scale == nil || t.Base {
		return linear(x, l.W, l.BiasOf(t), l.Adapters...)
	}
	raw := t.LinearWide(x, l.W, nil, l.Adapters...)
	y := t.MulColumns(raw, l.Scale, l.BiasOf(t))
	t.Done(raw)
	return y
}

// ForwardExperts maps each row of x [N·K, in], sorted as r says, by the map of
// its expert to [N·K, out]; with adapters that have a part for each expert, and
// without Scale.
func (l *Linear) ForwardExperts(t *autograd.Tape, x *autograd.Tensor, r *autograd.Routed) *autograd.Tensor {
	return l.forward(t, x, func(x *autograd.Tensor, w, bias *autograd.Param, adapters ...*LoRA) *autograd.Tensor {
		return t.ExpertLinear(x, r, w, bias, adapters...)
	})
}

// ForwardExpertsWide is ForwardExperts with a float32 result.
func (l *Linear) ForwardExpertsWide(t *autograd.Tape, x *autograd.Tensor, r *autograd.Routed) *autograd.Tensor {
	return l.forward(t, x, func(x *autograd.Tensor, w, bias *autograd.Param, adapters ...*LoRA) *autograd.Tensor {
		return t.ExpertLinearWide(x, r, w, bias, adapters...)
	})
}

// In is the number of inputs.
func (l *Linear) In() int { return l.W.Cols }

// Out is the number of outputs.
func (l *Linear) Out() int { return l.W.Rows / max(l.Experts, 1) }

// Embedding is a table of vectors.
type Embedding struct {
	Path string
	W    *autograd.Param // [V, C], any storage type
	// Adapters are summed, and left out while Tape.Base is set: row v gets
	// Scale·B·A[v] with A [V, R], transposed to a LoRA's, and B [C, R].
	Adapters []*LoRA
}

// Forward returns the vectors of ids [N] int32 as [N, C].
func (e *Embedding) Forward(t *autograd.Tape, ids *autograd.Tensor) *autograd.Tensor {
	y := t.Embed(e.W, ids)
	if t.Base {
		return y
	}
	for _, a := range e.Adapters {
		down := t.Embed(a.A, ids)
		up := t.LinearWide(down, a.B, nil)
		sum := t.Add(y, up, 1, a.Scale)
		t.Done(down, up, y)
		y = sum
	}
	return y
}

// Norm is a normalisation with weights.
type Norm struct {
	Path    string
	Kind    kernels.NormKind
	W, Bias *autograd.Param // [C] f32, or [Heads, C]; nil: 1 and 0
	Heads   int             // > 1: row n is of head n mod Heads
	Width   int             // C where there is no W; 0: a row of the input
	Eps     float32
	Offset  float32 // of the weights: W is used as Offset + W
}

func (n *Norm) spec() autograd.NormSpec {
	return autograd.NormSpec{Kind: n.Kind, W: n.W, Bias: n.Bias, Heads: n.Heads, Width: n.Width, Eps: n.Eps, Offset: n.Offset}
}

// Forward normalises the rows of x, or the heads of C elements in them, for
// what lies between linear maps: see autograd.Tape.Norm.
func (n *Norm) Forward(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return t.Norm(x, n.spec())
}

// ForwardWide is Forward with a float32 result: see autograd.Tape.NormWide.
func (n *Norm) ForwardWide(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return t.NormWide(x, n.spec())
}

// AddForward returns sum = res + alpha·x and the norm of sum.
func (n *Norm) AddForward(t *autograd.Tape, res, x *autograd.Tensor, alpha float32) (sum, y *autograd.Tensor) {
	return t.AddNorm(res, x, alpha, n.spec())
}

// Port is a place where an adapter can attach: Linear or Embed is set.
type Port struct {
	Path   string // of the module
	Linear *Linear
	Embed  *Embedding
	Head   bool // Linear is the output layer
	// Param is set where Linear's weight is a parameter of the module by itself,
	// as those of experts and routers are: its name there.
	Param string
}
