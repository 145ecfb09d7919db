package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// hyper mixes the streams that a row of the residual stream holds, n of C one after
// another: into one that a sublayer reads, and what that makes into all.
type hyper struct {
	spec            *arch.Hyper
	fn, base, scale *autograd.Param // [size, n·C], [size], and [3] or, before the head, [1]
	norm            *nn.Norm        // of all streams together, without weights
}

func (l *loader) hyper(layer int, spec *arch.Hyper, fn, base, scale arch.Role) *hyper {
	take := func(role arch.Role) *autograd.Param { return l.take(l.src.At(layer, role)) }
	norm := l.m.Spec.Norm
	return &hyper{spec, take(fn), take(base), take(scale), &nn.Norm{Kind: norm.Kind, Eps: norm.Eps, Width: spec.N * l.m.Spec.C}}
}

// spread makes the streams of x [N, C], each the same, in place of x.
func (h *hyper) spread(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	ones := t.Upload(slicesOf(x.Rows(), h.spec.N, func(int) float32 { return 1 }), x.Rows(), h.spec.N)
	y := t.Mix(x, ones, 1)
	t.Done(x, ones)
	return y
}

// coefficients are those of x [N, n·C] before what keeps them in bounds, [N, size]:
// of each run of columns in runs times a scale of its own.
func (h *hyper) coefficients(t *autograd.Tape, x *autograd.Tensor, runs ...int) *autograd.Tensor {
	var of []int32
	for i, n := range runs {
		for range n {
			of = append(of, int32(i))
		}
	}
	flat := h.norm.ForwardWide(t, x)
	raw := t.LinearWide(flat, h.fn, nil)
	p := h.scale
	where := t.Upload(of, len(of))
	by := t.Embed(&autograd.Param{Name: p.Name, Mat: kernels.Mat{Buffer: p.Buffer, Rows: p.Cols, Cols: 1, Of: p.Cols}, Grad: p.Grad}, where)
	sized := t.Mul(raw, by, kernels.ByCol)
	y := t.MulColumns(sized, constant(t, "ones", 1, len(of), 1), h.base)
	t.Done(flat, raw, where, by, sized)
	return y
}

// reading are the weights of the streams in what a sublayer or the head reads, [N, n],
// of the first coefficients.
func (h *hyper) reading(t *autograd.Tape, all *autograd.Tensor) *autograd.Tensor {
	n := h.spec.N
	raw := t.Columns(all, 0, n)
	open := t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, raw, nil)
	least := t.Upload(slicesOf(raw.Rows(), n, func(int) float32 { return h.spec.Eps }), raw.Rows(), n)
	y := t.Add(open, least, 1, 1)
	t.Done(raw, open, least)
	return y
}

// end is the one stream [N, C] before the final norm of x [N, n·C], which stays the
// caller's to mark as Done.
func (h *hyper) end(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	all := h.coefficients(t, x, h.spec.N)
	by := h.reading(t, all)
	y := t.Mix(x, by, h.spec.N)
	t.Done(all, by)
	return y
}

// wiring is that of a sublayer between streams. While it runs, the state is the
// streams, and how what it makes and they themselves go into the new ones.
func (h *hyper) wiring(sub *sublayer) wiring {
	n := h.spec.N
	return wiring{held: 3, enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
		all := h.coefficients(t, in[0], n, n, n*n)
		by := h.reading(t, all)
		raw := t.Columns(all, n, n)
		open := t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, raw, nil)
		out := scaled(t, open, 2)
		logits := t.Columns(all, 2*n, n*n)
		mix := t.Sinkhorn(logits, n, h.spec.Iters, h.spec.Eps)
		x := t.Mix(in[0], by, n)
		y := sub.pre.Forward(t, x)
		t.Done(all, by, raw, logits, x)
		return tensors{in[0], out, mix}, y
	}, leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
		each, old := t.Mix(y, block[1], 1), t.Mix(block[0], block[2], n)
		sum := t.Add(each, old, 1, 1)
		t.Done(y, each, old)
		return tensors{sum}
	}}
}
