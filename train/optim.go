package train

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// optimizer owns the flat gradient and the moments of a list of parameters.
type optimizer struct {
	dev    kernels.Backend
	c      Config
	kind   kernels.OptimKind
	params []param
	n      int
	g      kernels.Buffer // [n] gradients; every param's Grad is a slice of it
	m, v   kernels.Buffer // [n] moments, nil where the rule has none
	sum    kernels.Buffer // [1] Σ g² of what norm looked at last
}

// newOptimizer allocates gradients and moments, clears the moments and gives
// every parameter its place for a gradient.
func newOptimizer(dev kernels.Backend, c Config, ps []param) (*optimizer, error) {
	rule := optimizers[c.Optimizer]
	o := &optimizer{dev: dev, c: c, kind: rule.kind, params: ps}
	for _, p := range ps {
		o.n += p.Len()
	}
	alloc := func(dst *kernels.Buffer, purpose kernels.Purpose, n int, want bool) error {
		if !want {
			return nil
		}
		b, err := dev.Alloc(purpose, dtype.Of(dtype.F32), n)
		if err == nil {
			*dst = b
		}
		return err
	}
	for _, a := range []struct {
		dst     *kernels.Buffer
		purpose kernels.Purpose
		n       int
		want    bool
	}{
		{&o.g, kernels.Gradients, o.n, true},
		{&o.m, kernels.Optimizer, o.n, rule.m(c)},
		{&o.v, kernels.Optimizer, o.n, rule.v(c)},
		{&o.sum, kernels.Scratch, 1, true},
	} {
		if err := alloc(a.dst, a.purpose, a.n, a.want); err != nil {
			o.free()
			return nil, err
		}
	}
	for _, p := range ps {
		p.Grad = dev.Slice(o.g, p.off, p.Len())
	}
	return o, dev.Run(func() error {
		for _, b := range []kernels.Buffer{o.m, o.v} {
			if b != nil {
				dev.Fill(b, 0)
			}
		}
		return nil
	})
}

// free gives the memory back and freezes the parameters.
func (o *optimizer) free() {
	for _, p := range o.params {
		p.Grad = nil
	}
	for _, b := range []kernels.Buffer{o.g, o.m, o.v, o.sum} {
		o.dev.Free(b)
	}
}

// clear sets all gradients to zero.
func (o *optimizer) clear() error {
	return o.dev.Run(func() error { o.dev.Fill(o.g, 0); return nil })
}

// norm is the Euclidean norm of all gradients together. Its square stays on the
// device for step.
func (o *optimizer) norm() (float64, error) { return o.normOf(o.g, o.n) }

func (o *optimizer) normOf(b kernels.Buffer, n int) (float64, error) {
	var sum [1]float32
	err := o.dev.Run(func() error {
		o.dev.Sum(kernels.To(o.sum), b, nil, n)
		return o.dev.Download(kernels.Bytes(sum[:]), o.sum)
	})
	return math.Sqrt(float64(sum[0])), err
}

// bad names the first parameter whose gradient is not finite.
func (o *optimizer) bad() string {
	for _, p := range o.params {
		n, err := o.normOf(p.Grad, p.Len())
		if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
			return p.Name
		}
	}
	return ""
}

// step updates every parameter by the gradients that norm was called for, cut to
// max_grad_norm: step counts from 1, rate is the schedule's.
func (o *optimizer) step(step int, rate float64) error {
	a := &kernels.OptimArgs{
		Kind: o.kind, G: o.g, M: o.m, V: o.v, Beta1: optimizers[o.c.Optimizer].beta1(o.c), Beta2: *o.c.AdamBeta2, Eps: *o.c.AdamEpsilon,
		Step: step, SumSq: o.sum, MaxNorm: *o.c.MaxGradNorm,
	}
	for _, p := range o.params {
		a.Spans = append(a.Spans, kernels.OptimSpan{P: p.Buffer, Off: p.off, LR: rate * p.rate, Decay: p.decay})
	}
	return o.dev.Run(func() error { o.dev.Optim(a); return nil })
}

// slice views p's part of a flat buffer; a nil interface stays one.
func (o *optimizer) slice(b kernels.Buffer, p param) kernels.Buffer {
	if b == nil {
		return nil
	}
	return o.dev.Slice(b, p.off, p.Len())
}

// moments names the buffers that a checkpoint holds beside the parameters.
func (o *optimizer) moments() []string {
	var out []string
	if o.m != nil {
		out = append(out, "m")
	}
	if o.v != nil {
		out = append(out, "v")
	}
	return out
}

// part returns p's values of one kind: p, m or v.
func (o *optimizer) part(kind string, p param) kernels.Buffer {
	switch kind {
	case "m":
		return o.slice(o.m, p)
	case "v":
		return o.slice(o.v, p)
	}
	return p.Buffer
}
