package train

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// optimizer owns the flat gradient of a list of parameters and all that their
// updates remember.
type optimizer struct {
	dev    kernels.Backend
	c      Config
	sched  *Schedule
	params []param
	n      int
	g      kernels.Buffer // [n] gradients; every param's Grad is a slice of it
	sum    kernels.Buffer // [1] Σ g², since norm
	norm2  float32        // the same, on this side
	other  kernels.Buffer // [1] likewise of what normOf looked at last

	plain  kernels.OptimArgs // of the parameters that no matrix rule takes
	spans  []*param          // of plain's spans
	matrix matrixRule        // nil: none
	taken  []*param          // by matrix
	ema    kernels.Buffer    // [n] moving averages, nil without ema_decay
	ref    kernels.Buffer    // [n] the reference, nil without sync_ref_model
	free   freeAverage
	turns  *turns // nil: all parameters learn in every step

	spill *spill           // where the state lies; nil: in memory
	state []saved          // what a checkpoint holds beside the parameters, in order
	owned []kernels.Buffer // what free gives back
}

// saved is a part of a checkpoint.
type saved struct {
	name string
	kernels.Buffer
}

// matrixRule updates single matrices by products of the waist.
type matrixRule interface {
	// takes reports whether p is one for it.
	takes(p *param) bool
	// add allocates what the updates of p remember, and what they need while they
	// run.
	add(p *param) error
	// step updates p by its gradient times clip. It may change the gradient.
	step(p *param, step int, lr float64, clip float32) error
}

// newOptimizer allocates gradients and state, starts the state and gives every
// parameter its place for a gradient. beside is a path in a folder for its files.
func newOptimizer(dev kernels.Backend, c Config, sched *Schedule, ps []param, beside string) (*optimizer, error) {
	o := &optimizer{dev: dev, c: c, sched: sched, params: ps, plain: kernels.OptimArgs{OptimRule: c.rule()}}
	if c.OffloadOptimizer == onDisk {
		o.spill = newSpill(dev, beside)
	}
	for _, p := range ps {
		o.n += p.Len()
	}
	var err error
	if o.turns, err = newTurns(&c, ps); err != nil {
		return nil, err
	}
	if err := o.setUp(); err != nil {
		o.release()
		return nil, err
	}
	return o, nil
}

func (o *optimizer) setUp() (err error) {
	f32 := dtype.Of(dtype.F32)
	if o.g, err = o.own(kernels.Gradients, f32, o.n); err != nil {
		return err
	}
	if o.sum, err = o.own(kernels.Scratch, f32, 1); err != nil {
		return err
	}
	if o.other, err = o.own(kernels.Scratch, f32, 1); err != nil {
		return err
	}
	kind := optimizers[o.c.Optimizer]
	if kind.matrix != nil {
		o.matrix = kind.matrix(o)
	}
	for i := range o.params {
		p := &o.params[i]
		p.Grad = o.dev.Slice(o.g, p.off, p.Len())
		if o.matrix == nil || !o.matrix.takes(p) {
			err = o.addPlain(p)
		} else {
			err = o.addMatrices(p)
		}
		if err != nil {
			return err
		}
	}
	if n := o.plain.Shared(); n > 0 {
		if o.plain.Common, err = o.keep("common", f32, n); err != nil {
			return err
		}
	}
	if o.c.EMADecay != nil {
		o.ema, err = o.copyOfParams("ema")
	}
	if err == nil && o.c.SyncRefModel {
		o.ref, err = o.copyOfParams("reference")
	}
	return err
}

// copyOfParams is a part of the state [n] that begins as the parameters are.
func (o *optimizer) copyOfParams(name string) (kernels.Buffer, error) {
	b, err := o.keep(name, dtype.Of(dtype.F32), o.n)
	if err != nil {
		return nil, err
	}
	return b, o.dev.Run(func() error {
		for i := range o.params {
			p := &o.params[i]
			o.copy(o.slice(b, p), p.Buffer, p.Len())
		}
		return nil
	})
}

// addPlain makes p a span of the element-wise update.
func (o *optimizer) addPlain(p *param) error {
	s := kernels.OptimSpan{P: p.Buffer, G: p.Grad, Rows: p.Rows, Cols: p.Cols, Block: p.block, Decay: p.decay}
	var err error
	if s.State, err = o.states(&o.plain.OptimRule, p, p.Buffer, p.Rows, p.Cols); err != nil {
		return err
	}
	o.plain.Spans, o.spans = append(o.plain.Spans, s), append(o.spans, p)
	return nil
}

// addMatrices gives p to the matrix rule; a stack of experts is as many matrices.
func (o *optimizer) addMatrices(p *param) error {
	if p.stack < 2 {
		o.taken = append(o.taken, p)
		return o.matrix.add(p)
	}
	rows, n := p.Rows/p.stack, p.Len()/p.stack
	for e := range p.stack {
		one := *p
		one.Param = &autograd.Param{Name: fmt.Sprintf("%s %d", p.Name, e), Mat: kernels.Mat{Buffer: o.dev.Slice(p.Buffer, e*n, n), Rows: rows, Cols: p.Cols, Of: rows}, Grad: o.dev.Slice(p.Grad, e*n, n)}
		one.off, one.stack = p.off+e*n, 0
		o.taken = append(o.taken, &one)
		if err := o.matrix.add(&one); err != nil {
			return err
		}
	}
	return nil
}

// states allocates the state of a matrix of p under a rule and starts it; values
// is what begins as the parameter is copied from.
func (o *optimizer) states(r *kernels.OptimRule, p *param, values kernels.Buffer, rows, cols int) ([]kernels.Buffer, error) {
	var out []kernels.Buffer
	for _, st := range r.State(rows, cols, p.block) {
		b, err := o.keep(st.Name+" of "+p.Name, st.Type, st.Len)
		if err != nil {
			return nil, err
		}
		if st.Copy {
			err = o.dev.Run(func() error {
				o.dev.Copy2D(kernels.To(b), &kernels.Copy2DArgs{Rows: st.Len, Cols: 1, X: values, XStride: st.Stride, YStride: 1})
				return nil
			})
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// own allocates a buffer that release gives back.
func (o *optimizer) own(purpose kernels.Purpose, t dtype.Type, n int) (kernels.Buffer, error) {
	b, err := o.dev.Alloc(purpose, t, n)
	if err == nil {
		o.owned = append(o.owned, b)
	}
	return b, err
}

// spilled is own in a file.
func (o *optimizer) spilled(t dtype.Type, n int) (kernels.Buffer, error) {
	b, err := o.spill.Take(t, n)
	if err == nil {
		o.owned = append(o.owned, b)
	}
	return b, err
}

// disown gives a buffer of own back.
func (o *optimizer) disown(b kernels.Buffer) {
	o.owned = slices.DeleteFunc(o.owned, func(x kernels.Buffer) bool { return x == b })
	o.dev.Free(b)
}

// keep allocates a buffer of zeros that checkpoints hold; that of a paged optimizer
// lies in the host's memory.
func (o *optimizer) keep(name string, t dtype.Type, n int) (b kernels.Buffer, err error) {
	switch {
	case o.spill != nil:
		b, err = o.spilled(t, n)
	case optimizers[o.c.Optimizer].paged || o.c.OffloadOptimizer == inHost:
		b, err = o.own(kernels.Host, t, n)
	default:
		b, err = o.own(kernels.Optimizer, t, n)
	}
	if err != nil {
		return nil, err
	}
	o.state = append(o.state, saved{name, b})
	return b, o.dev.Run(func() error {
		if t.Kind == dtype.F32 {
			o.dev.Fill(b, 0)
		} else {
			o.dev.Upload(b, make([]byte, n*t.Kind.Info().Bytes))
		}
		return nil
	})
}

// copy makes dst the n values of src.
func (o *optimizer) copy(dst, src kernels.Buffer, n int) {
	o.dev.Add(kernels.To(dst), &kernels.AddArgs{N: n, A: src, Alpha: 1})
}

// release gives the memory back and freezes the parameters.
func (o *optimizer) release() {
	for _, p := range o.params {
		p.Grad = nil
	}
	for _, b := range o.owned {
		o.dev.Free(b)
	}
	if o.spill != nil {
		o.spill.close()
	}
}

// clear sets all gradients to zero.
func (o *optimizer) clear() error {
	return o.dev.Run(func() error { o.dev.Fill(o.g, 0); return nil })
}

// norm is the Euclidean norm of all gradients together. Its square stays on the
// device for step.
func (o *optimizer) norm() (float64, error) {
	sum, err := o.sumSq(o.sum, o.g, o.n)
	o.norm2 = sum
	return math.Sqrt(float64(sum)), err
}

// normOf is the norm of n values.
func (o *optimizer) normOf(b kernels.Buffer, n int) (float64, error) {
	sum, err := o.sumSq(o.other, b, n)
	return math.Sqrt(float64(sum)), err
}

// sumSq leaves Σ b² in at and returns it.
func (o *optimizer) sumSq(at, b kernels.Buffer, n int) (float32, error) {
	var sum [1]float32
	err := o.dev.Run(func() error {
		o.dev.Sum(kernels.To(at), b, nil, n)
		return o.dev.Download(kernels.Bytes(sum[:]), at)
	})
	return sum[0], err
}

// bad names the first parameter whose gradient is not finite.
func (o *optimizer) bad() string {
	for _, p := range o.params {
		n, err := o.normOf(o.slice(o.g, &p), p.Len())
		if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
			return p.Name
		}
	}
	return ""
}

// step updates every parameter by the gradients that norm was called for, cut to
// max_grad_norm: step counts from 1, rate is the schedule's.
func (o *optimizer) step(step int, rate float64) error {
	a := &o.plain
	a.Step, a.SumSq, a.MaxNorm = step, o.sum, *o.c.MaxGradNorm
	lr := o.c.at(&a.OptimRule, step, rate)
	if optimizers[o.c.Optimizer].free() {
		a.Average = o.free.share(o, step, lr)
	}
	for i, p := range o.spans {
		a.Spans[i].LR = lr * p.rate
	}
	updates := []*kernels.OptimArgs{a}
	if o.turns != nil {
		updates = o.awake(step, rate)
	}
	if clip, ok := kernels.ClipFactor(o.norm2, *o.c.MaxGradNorm); ok {
		for _, p := range o.taken {
			if err := o.matrix.step(p, step, rate*p.rate, clip); err != nil {
				return err
			}
		}
	}
	if o.spill != nil {
		defer o.spill.rest()
	}
	return o.dev.Run(func() error {
		for _, a := range updates {
			if len(a.Spans) > 0 {
				o.dev.Optim(a)
			}
		}
		if o.ema != nil {
			o.lerp(o.ema, 1-*o.c.EMADecay)
		}
		return nil
	})
}

// lerp moves b [n] by a share of its distance to the parameters.
func (o *optimizer) lerp(b kernels.Buffer, share float64) {
	a := &kernels.OptimArgs{OptimRule: kernels.OptimRule{Kind: kernels.Lerp, Beta1: share}, Step: 1}
	for i := range o.params {
		p := &o.params[i]
		a.Spans = append(a.Spans, kernels.OptimSpan{P: o.slice(b, p), G: p.Buffer, Rows: p.Rows, Cols: p.Cols})
	}
	o.dev.Optim(a)
}

// averages reports whether what is evaluated and kept is not what is trained.
func (o *optimizer) averages() bool { return o.ema != nil || optimizers[o.c.Optimizer].free() }

// showAverages puts what is evaluated in the parameters' place: moving averages,
// or the points of a schedule-free rule. The parameters wait where gradients are.
func (o *optimizer) showAverages() error {
	return o.dev.Run(func() error {
		back := 0.0
		if o.ema == nil {
			back = 1 / o.c.firstBeta()
		}
		at := 0
		for i := range o.params {
			p := &o.params[i]
			o.copy(o.slice(o.g, p), p.Buffer, p.Len())
			if o.ema != nil {
				o.copy(p.Buffer, o.slice(o.ema, p), p.Len())
				continue
			}
			z := o.plain.Spans[at].State[0] // x = z + (y - z)/β₁
			at++
			o.dev.Add(kernels.To(p.Buffer), &kernels.AddArgs{N: p.Len(), A: o.slice(o.g, p), B: z, Alpha: float32(back), Beta: float32(1 - back)})
		}
		return nil
	})
}

// showParams undoes showAverages.
func (o *optimizer) showParams() error {
	return o.dev.Run(func() error {
		for i := range o.params {
			p := &o.params[i]
			o.copy(p.Buffer, o.slice(o.g, p), p.Len())
		}
		return nil
	})
}

// slice views p's part of a flat buffer.
func (o *optimizer) slice(b kernels.Buffer, p *param) kernels.Buffer {
	return o.dev.Slice(b, p.off, p.Len())
}

// parts lists all that a checkpoint holds, in its order.
func (o *optimizer) parts() []saved {
	var out []saved
	for _, p := range o.params {
		out = append(out, saved{p.Name, p.Buffer})
	}
	return append(out, o.state...)
}

// freeAverage are the weights of a schedule-free rule's steps so far.
type freeAverage struct {
	step     int
	top, sum float64
}

// share returns the share of a step's point in the average. What came before
// follows from the schedule.
func (f *freeAverage) share(o *optimizer, step int, rate float64) float64 {
	if f.step != step-1 {
		*f = freeAverage{}
		for s := 1; s < step; s++ {
			f.add(&o.c.OptimArgs, s, o.sched.LR(s-1))
		}
	}
	return f.add(&o.c.OptimArgs, step, rate)
}

func (f *freeAverage) add(a *OptimArgs, step int, rate float64) (share float64) {
	f.step, f.top = step, max(f.top, rate)
	weight := math.Pow(float64(step), value(a.R, 0)) * math.Pow(f.top, value(a.WeightLRPower, 2))
	if f.sum += weight; f.sum == 0 {
		return 0
	}
	return weight / f.sum
}
