package autograd

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LowRank is a LoRA adapter of one linear map (Hu et al. 2021,
// arXiv:2106.09685, section 4.1): y += Scale·B·A·drop(x).
type LowRank struct {
	A, B    *Param  // [R, in], [out, R], float32; of E experts: [E·R, in], [E·out, R]
	Scale   float32 // alpha/r, or alpha/√r (rsLoRA)
	Dropout float32 // probability that an input element is dropped while training
	Site    uint32  // tells this adapter's dropout from others'
	Turns   int     // of LoftQ, which left the weight what A and B belong on; 0 and 1: as it is held
}

// R is the rank.
func (a *LowRank) R() int { return a.B.Cols }

func (a *LowRank) trains() bool { return a.A.trains() || a.B.trains() }

// Linear returns x·wᵀ + bias + Σ Scale·drop(x)·Aᵀ·Bᵀ over the adapters: x
// [N, in], w [out, in] of any storage type, bias [out] or nil, result [N, out].
func (t *Tape) Linear(x *Tensor, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, nil, w, bias, t.between(), ads)
}

// LinearWide is Linear whose result is float32 always: what is added to a
// residual stream, or what a loss or a choice is made of. See Tape.BF16.
func (t *Tape) LinearWide(x *Tensor, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, nil, w, bias, dtype.F32, ads)
}

// ExpertLinear is Linear over the rows of experts: row i of x [N·K, in] meets
// the part of w [E·out, in] and bias [E·out] (or nil), and of each adapter,
// that belongs to the expert of sorted row i of r. Result [N·K, out].
func (t *Tape) ExpertLinear(x *Tensor, r *Routed, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, r, w, bias, t.between(), ads)
}

// ExpertLinearWide is ExpertLinear as LinearWide is Linear.
func (t *Tape) ExpertLinearWide(x *Tensor, r *Routed, w, bias *Param, ads ...*LowRank) *Tensor {
	return t.linear(x, r, w, bias, dtype.F32, ads)
}

func (t *Tape) linear(x *Tensor, r *Routed, w, bias *Param, k dtype.Kind, ads []*LowRank) *Tensor {
	if x.Cols() != w.Cols {
		panic(fmt.Sprintf("autograd: linear %s: x %v · wᵀ [%d %d]: inner dims %d != %d", w.Name, x.Shape, w.Rows, w.Cols, x.Cols(), w.Cols))
	}
	if t.Tap != nil && !t.Record && t.err == nil {
		t.Tap(w, x, r)
	}
	if t.Base {
		ads = nil
	}
	if slices.ContainsFunc(ads, isOff) { // to a backend, factor 0 is none given
		ads = slices.DeleteFunc(slices.Clone(ads), isOff)
	}
	l := &t.once
	if t.Record {
		l = &linear{}
	}
	*l = linear{t: t, x: x, r: r, w: w, bias: bias, ads: ads, key: t.Key}
	return l.forward(k)
}

// isOff reports whether an adapter adds nothing, as with alpha 0 or weight 0.
func isOff(a *LowRank) bool { return a.Scale == 0 }

// linear is one Linear: what its gradient needs of the forward pass.
type linear struct {
	t       *Tape
	x, y    *Tensor
	r       *Routed // nil: one weight for all rows
	w, bias *Param
	ads     []*LowRank
	key     *Tensor            // of the rows of x
	u       []*Tensor          // u[i] = Scale·drop(x)·Aᵀ of adapter i, [N, R]
	product kernels.LinearArgs // of the forward pass, one after another
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
	if n, out := l.x.Rows(), l.w.Rows/l.r.Experts(); t.lazy {
		deps := append(append([]*Tensor{l.x}, l.u...), l.r.reads()...)
		l.y = t.made(l.run, deps, k, n, out)
	} else if l.y = t.alloc(kernels.Activations, k, n, out); t.err == nil {
		l.run(l.y.Data)
	}
	l.y.needs = needs
	if t.Record {
		t.record(l.y, append(l.saves(), l.r.reads()...), l.back)
	}
	t.Done(l.u...)
	return l.y
}

// args are the operands of a product of x with w.
func (l *linear) args(x kernels.Buffer, w *Param) *kernels.LinearArgs {
	a := &kernels.LinearArgs{}
	l.set(a, x, w)
	return a
}

func (l *linear) set(a *kernels.LinearArgs, x kernels.Buffer, w *Param) {
	*a = kernels.LinearArgs{N: l.x.Rows(), X: x, W: w.Mat, BF16: l.t.BF16, F16: l.t.F16}
	if l.r != nil {
		a.Group, a.Experts = l.r.Group.Data, l.r.Experts()
	}
}

// run makes y from x and u.
func (l *linear) run(dst kernels.Buffer) {
	t := l.t
	args := &l.product
	l.set(args, t.value(l.x), l.w)
	args.Bias, args.Fast = l.bias.buffer(), t.Fast
	if t.err != nil {
		return
	}
	if len(l.ads) > 0 {
		args.U, args.B = l.u[0].Data, l.ads[0].B.Mat
	}
	t.Dev.Linear(kernels.To(dst), args)
	for i, a := range l.ads {
		if i > 0 {
			t.Dev.Linear(kernels.Into(dst), l.args(l.u[i].Data, a.B))
		}
	}
}

// down are the operands of u = Scale·drop(x)·Aᵀ.
func (l *linear) down(a *LowRank) *kernels.LinearArgs {
	args := l.args(l.t.value(l.x), a.A)
	args.Alpha, args.Drop = a.Scale, l.drops(a)
	return args
}

// drops is the dropout of a, nil outside training. What is dropped of the rows
// of experts depends on their tokens.
func (l *linear) drops(a *LowRank) *kernels.Drop {
	t := l.t
	if a.Dropout == 0 || t.Still || !(t.Record || t.redo) {
		return nil
	}
	if l.key == nil {
		panic("autograd: an adapter with dropout needs Tape.Key")
	}
	d := &kernels.Drop{P: a.Dropout, Seed: t.Seed, Step: t.Step, Site: a.Site, Key: l.key.Data}
	if l.r != nil {
		d.Rows = l.r.Token.Data
	}
	return d
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
		if a.Dropout > 0 {
			s = append(s, l.key)
		}
	}
	if needX {
		s = append(s, l.x)
	}
	return s
}

func (l *linear) back() {
	t, dy := l.t, l.y.grad.buf
	du := make([]kernels.Buffer, len(l.ads))
	for i, a := range l.ads {
		du[i] = l.backAdapter(i, a, dy)
		defer t.Dev.Free(du[i])
	}
	dx := t.grad(l.x)
	if t.err != nil {
		return
	}
	args := l.args(nil, l.w)
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
			args := l.args(nil, a.A)
			args.Drop = l.drops(a)
			t.Dev.LinearBackward(kernels.Into(dx.Buffer), kernels.Dst{}, kernels.Dst{}, du[i], args)
		}
	}
}

// backAdapter adds the gradients of one adapter's A and B and returns
// du = Scale·dy·B [N, R], which the caller frees; nil when nobody needs it.
func (l *linear) backAdapter(i int, a *LowRank, dy kernels.Buffer) kernels.Buffer {
	t, none := l.t, kernels.Dst{}
	if a.B.trains() {
		t.Dev.LinearBackward(none, a.B.dst(), none, dy, l.args(l.u[i].Data, a.B))
	}
	if !a.A.trains() && !l.x.needs {
		return nil
	}
	du := t.scratch(l.x.Rows() * a.R())
	x := kernels.Buffer(nil)
	if a.A.trains() {
		x = t.value(l.x)
	}
	if t.err != nil {
		return du
	}
	up := l.args(nil, a.B)
	up.Alpha = a.Scale
	t.Dev.LinearBackward(kernels.To(du), none, none, dy, up)
	if a.A.trains() {
		down := l.args(x, a.A)
		down.Drop = l.drops(a)
		t.Dev.LinearBackward(none, a.A.dst(), none, du, down)
	}
	return du
}
