package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Optim updates one flat range of parameters. AdamW is torch.optim.AdamW's
// single-tensor form (Loshchilov, Hutter 2019, arXiv:1711.05101): the same
// operations in the same order, each rounded to float32. SGD is
// torch.optim.SGD with dampening 0; its decay is added to the gradient.
func (c *CPU) Optim(kind kernels.OptimKind, o *kernels.OptimArgs) {
	for _, b := range []kernels.Buffer{o.P, o.G, o.M, o.V} {
		want("optim", b, o.N)
	}
	clip := float32(1)
	if o.Clip != nil {
		clip = f32(o.Clip)[0]
	}
	if v := float64(clip); math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	switch kind {
	case kernels.AdamW:
		adamW(o, clip)
	case kernels.SGD:
		sgd(o, clip)
	default:
		panic(fmt.Sprintf("cpu: optim: no rule %d", kind))
	}
}

func adamW(o *kernels.OptimArgs, clip float32) {
	t := float64(o.Step)
	a := &vec.Adam{
		Clip:     clip,
		Keep:     float32(1 - o.LR*o.Decay),
		Lerp:     float32(1 - o.Beta1),
		Beta2:    float32(o.Beta2),
		OneBeta2: float32(1 - o.Beta2),
		Root:     float32(math.Sqrt(1 - math.Pow(o.Beta2, t))),
		Eps:      float32(o.Eps),
		StepSize: float32(-o.LR / (1 - math.Pow(o.Beta1, t))),
	}
	p, g, m, v := f32(o.P), f32(o.G), f32(o.M), f32(o.V)
	par.For(o.N, elemGrain, func(lo, hi int) {
		vec.AdamW(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi], a)
	})
}

func sgd(o *kernels.OptimArgs, clip float32) {
	p, g, m := f32(o.P), f32(o.G), f32(o.M)
	lr, mu, decay := float32(o.LR), float32(o.Beta1), float32(o.Decay)
	par.For(o.N, elemGrain, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			d := float32(g[i]*clip) + float32(decay*p[i])
			if m != nil {
				m[i] = float32(mu*m[i]) + d
				d = m[i]
			}
			p[i] -= float32(lr * d)
		}
	})
}
