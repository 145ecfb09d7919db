package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// LogProbs are the results of LogProb, [N] each.
type LogProbs struct {
	LogP *Tensor // f32: log p(target), 0 where there is no target
	Mean *Tensor // f32: mean of log p over the vocabulary; nil without HeadSpec.Smooth
}

// HeadSpec makes logits Scale·h·Wᵀ + Bias of hidden states h.
type HeadSpec struct {
	W       *Param  // [V, C]
	Bias    *Param  // [V] f32; nil: none
	Scale   float32 // 0: 1
	SoftCap float32 // 0: none; else a logit z becomes SoftCap·tanh(z/SoftCap)
	Smooth  float32 // of the loss: see kernels.LogProbArgs
}

// LogProb is the head and the loss in one: log-probabilities of target [N]
// int32 (-1: none) under the logits of h [N, C], without holding them. Of tokens without
// a target none are made.
//
// With coef [N] f32 the loss is Σ coef·(-log p), or what head.Smooth makes of it, and a recording tape adds its
// gradients at once: the head's to its parameters, h's to where Backward begins. coef nil: no
// gradients yet; call LogProb again with coefficients that were computed from
// the results (preference losses), before Done(h) and Backward.
func (t *Tape) LogProb(h *Tensor, head HeadSpec, target, coef *Tensor) LogProbs {
	w := head.W
	if h.Cols() != w.Cols {
		panic(fmt.Sprintf("autograd: logprob %s: h %v · wᵀ [%d %d]", w.Name, h.Shape, w.Rows, w.Cols))
	}
	n := h.Rows()
	out := LogProbs{LogP: t.New(n)}
	results := &kernels.LogProbOut{LogP: out.LogP.Data}
	if head.Smooth > 0 {
		out.Mean = t.New(n)
		results.Mean = out.Mean.Data
	}
	a := &kernels.LogProbArgs{N: n, X: t.value(h), W: w.Mat, Bias: head.Bias.buffer(), Target: target.Data,
		Scale: head.Scale, SoftCap: head.SoftCap, Smooth: head.Smooth, BF16: t.BF16, F16: t.F16}
	var dx, dw, db kernels.Dst
	if coef != nil && t.Record {
		a.Coef, dx, dw, db = coef.Data, t.grad(h), w.dst(), head.Bias.dst()
	}
	if t.err == nil {
		t.Dev.LogProb(results, dx, dw, db, a)
	}
	return out
}
