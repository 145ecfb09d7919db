package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LowRank is a LoRA adapter of one linear map (Hu et al. 2021,
// arXiv:2106.09685, section 4.1): y += Scale·B·A·drop(x).
type LowRank struct {
	A, B    *Param  // [R, in], [out, R], float32
	Scale   float32 // alpha/r, or alpha/√r (rsLoRA)
	Dropout float32 // probability that an input element is dropped while training
	Site    uint32  // tells this adapter's dropout from others'
}

// R is the rank.
func (a *LowRank) R() int { return a.A.Rows }

func (a *LowRank) trains() bool { return a.A.trains() || a.B.trains() }

// Linear returns x·wᵀ + bias + Σ Scale·drop(x)·Aᵀ·Bᵀ over the adapters: x
// [N, in], w [out, in] of any storage type, bias [out] or nil, result [N, out].
func (t *Tape) Linear(x *Tensor, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, w, bias, dtype.F32, ads)
}

// Inner is Linear whose result only activations, rotations and attention read:
// see Tape.BF16.
func (t *Tape) Inner(x *Tensor, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, w, bias, t.between(), ads)
}

func (t *Tape) linear(x *Tensor, w, bias *Param, k dtype.Kind, ads []*LowRank) *Tensor {
	if x.Cols() != w.Cols {
		panic(fmt.Sprintf("autograd: linear %s: x %v · wᵀ [%d %d]: inner dims %d != %d", w.Name, x.Shape, w.Rows, w.Cols, x.Cols(), w.Cols))
	}
	if t.Tap != nil && !t.Record && t.err == nil {
		t.Tap(w, x)
	}
	if t.Base {
		ads = nil
	}
	l := &linear{t: t, x: x, w: w, bias: bias, ads: ads}
	return l.forward(k)
}

// linear is one Linear: what its gradient needs of the forward pass.
type linear struct {
	t       *Tape
	x, y    *Tensor
	w, bias *Param
	ads     []*LowRank
	u       []*Tensor // u[i] = Scale·drop(x)·Aᵀ of adapter i, [N, R]
}

func (l *linear) forward(k dtype.Kind) *Tensor {
	t := l.t
	needs := l.x.needs || l.w.trains() || l.bias.trains()
	for _, a := range l.ads {
		needs = needs || a.trains()
		u := t.alloc(kernels.Activations, t.between(), l.x.Rows(), a.R())
		l.u = append(l.u, u)
		if down := l.down(a); t.err == nil {
			t.Dev.Linear(kernels.To(u.Data), down)
		}
	}
	var deps []*Tensor
	if t.lazy { // nobody else asks for them
		deps = append([]*Tensor{l.x}, l.u...)
	}
	l.y = t.made(l.run, deps, k, l.x.Rows(), l.w.Rows)
	l.y.needs = needs
	if t.Record {
		t.record(l.y, l.saves(), l.back)
	}
	t.Done(l.u...)
	return l.y
}

// run makes y from x and u.
func (l *linear) run(dst kernels.Buffer) {
	t, n := l.t, l.x.Rows()
	args := &kernels.LinearArgs{N: n, X: t.value(l.x), W: l.w.Mat, Bias: l.bias.buffer(), BF16: t.BF16, Fast: t.Fast}
	if t.err != nil {
		return
	}
	if len(l.ads) > 0 {
		args.U, args.B = l.u[0].Data, l.ads[0].B.Mat
	}
	t.Dev.Linear(kernels.To(dst), args)
	for i, a := range l.ads {
		if i > 0 {
			t.Dev.Linear(kernels.Into(dst), &kernels.LinearArgs{N: n, X: l.u[i].Data, W: a.B.Mat, BF16: t.BF16})
		}
	}
}

// down are the operands of u = Scale·drop(x)·Aᵀ.
func (l *linear) down(a *LowRank) *kernels.LinearArgs {
	return &kernels.LinearArgs{N: l.x.Rows(), X: l.t.value(l.x), W: a.A.Mat, Alpha: a.Scale, BF16: l.t.BF16, Drop: l.t.drops(a)}
}

// drops is the dropout of a, nil outside training.
func (t *Tape) drops(a *LowRank) *kernels.Drop {
	if a.Dropout == 0 || !(t.Record || t.redo) {
		return nil
	}
	if t.Key == nil {
		panic("autograd: an adapter with dropout needs Tape.Key")
	}
	return &kernels.Drop{P: a.Dropout, Seed: t.Seed, Step: t.Step, Site: a.Site, Key: t.Key.Data}
}

// saves lists what the gradient reads: x where a product with it makes a
// weight's gradient, u where B trains.
func (l *linear) saves() []*Tensor {
	var s []*Tensor
	needX := l.w.trains()
	for i, a := range l.ads {
		needX = needX || a.A.trains()
		if a.B.trains() {
			s = append(s, l.u[i])
		}
	}
	if needX {
		s = append(s, l.x)
	}
	return s
}

func (l *linear) back() {
	t, n, dy := l.t, l.x.Rows(), l.y.grad.buf
	du := make([]kernels.Buffer, len(l.ads))
	for i, a := range l.ads {
		du[i] = l.backAdapter(i, a, dy)
		defer t.Dev.Free(du[i])
	}
	dx := t.grad(l.x)
	if t.err != nil {
		return
	}
	args := &kernels.LinearArgs{N: n, W: l.w.Mat, BF16: t.BF16}
	if l.w.trains() {
		args.X = t.value(l.x)
	}
	fused := len(l.ads) > 0 && l.ads[0].Dropout == 0 && !dx.Skip()
	if fused {
		args.U, args.B = du[0], l.ads[0].A.Mat
	}
	if t.err == nil {
		t.Dev.LinearBackward(dx, l.w.dst(), l.bias.dst(), dy, args)
	}
	if dx.Skip() || t.err != nil {
		return
	}
	for i, a := range l.ads {
		if i > 0 || !fused {
			t.Dev.LinearBackward(kernels.Into(dx.Buffer), kernels.Dst{}, kernels.Dst{}, du[i],
				&kernels.LinearArgs{N: n, W: a.A.Mat, BF16: t.BF16, Drop: t.drops(a)})
		}
	}
}

// backAdapter adds the gradients of one adapter's A and B and returns
// du = Scale·dy·B [N, R], which the caller frees; nil when nobody needs it.
func (l *linear) backAdapter(i int, a *LowRank, dy kernels.Buffer) kernels.Buffer {
	t, n := l.t, l.x.Rows()
	none := kernels.Dst{}
	if a.B.trains() {
		t.Dev.LinearBackward(none, a.B.dst(), none, dy, &kernels.LinearArgs{N: n, X: l.u[i].Data, W: a.B.Mat, BF16: t.BF16})
	}
	if !a.A.trains() && !l.x.needs {
		return nil
	}
	du := t.scratch(n * a.R())
	x := kernels.Buffer(nil)
	if a.A.trains() {
		x = t.value(l.x)
	}
	if t.err != nil {
		return du
	}
	t.Dev.LinearBackward(kernels.To(du), none, none, dy, &kernels.LinearArgs{N: n, W: a.B.Mat, Alpha: a.Scale, BF16: t.BF16})
	if a.A.trains() {
		t.Dev.LinearBackward(none, a.A.dst(), none, du, &kernels.LinearArgs{N: n, X: x, W: a.A.Mat, BF16: t.BF16, Drop: t.drops(a)})
	}
	return du
}
