package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/kernels"
)

// xielu is the activation xIELU with numbers that can be trained: see arch.XIELU.
type xielu struct {
	spec     *arch.XIELU
	pos, neg *autograd.Param // [1, 1], before the softplus
}

func (l *loader) xielu(layer int, spec *arch.XIELU) *xielu {
	l.take(l.src.At(layer, arch.ActBeta)) // whose values spec has
	l.take(l.src.At(layer, arch.ActEps))
	return &xielu{spec, l.take(l.src.At(layer, arch.ActPos)), l.take(l.src.At(layer, arch.ActNeg))}
}

// forward is softplus(pos)·p + (Beta + softplus(neg))·n + Beta·x, where p is x² of
// positive x, and n is e^min(x, Eps) - 1 - x of the others.
func (a *xielu) forward(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	p := t.Act(autograd.ActSpec{Kind: kernels.ReLU2}, x, nil)
	n := t.Act(autograd.ActSpec{Kind: kernels.XIELU, ActParams: kernels.ActParams{AlphaN: 1, Eps: a.spec.Eps}}, x, nil)
	linear := t.Add(x, n, a.spec.Beta, a.spec.Beta)
	right, left := a.times(t, p, a.pos), a.times(t, n, a.neg)
	curved := t.Add(right, left, 1, 1)
	y := t.Add(curved, linear, 1, 1)
	t.Done(p, n, right, left, linear, curved)
	return y
}

// times is softplus(w)·x, where w is one number.
func (a *xielu) times(t *autograd.Tape, x *autograd.Tensor, w *autograd.Param) *autograd.Tensor {
	row := t.Upload(make([]int32, x.Cols()), x.Cols())
	raw := t.Embed(w, row) // the number for every column
	factor := t.Act(autograd.ActSpec{Kind: kernels.Softplus}, raw, nil)
	y := t.Mul(x, factor, kernels.ByCol)
	t.Done(row, raw, factor)
	return y
}
