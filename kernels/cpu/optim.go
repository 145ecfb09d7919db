package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Optim updates all spans. AdamW is torch.optim.AdamW's single-tensor form
// (Loshchilov, Hutter 2019, arXiv:1711.05101): the same operations in the same
// order, each rounded to float32. SGD is torch.optim.SGD with dampening 0; its
// decay is added to the gradient.
func (c *CPU) Optim(o *kernels.OptimArgs) {
	clip, ok := clipOf(o)
	if !ok {
		return
	}
	update := map[kernels.OptimKind]func(*kernels.OptimArgs, *kernels.OptimSpan, float32) updater{kernels.AdamW: adamW, kernels.SGD: sgd}[o.Kind]
	if update == nil {
		panic(fmt.Sprintf("cpu: optim: no rule %d", o.Kind))
	}
	ends, updates, n := make([]int, len(o.Spans)), make([]updater, len(o.Spans)), 0
	for i := range o.Spans {
		s := &o.Spans[i]
		for _, b := range []kernels.Buffer{o.G, o.M, o.V} {
			want("optim", b, s.Off+s.P.Len())
		}
		n += s.P.Len()
		ends[i], updates[i] = n, update(o, s, clip)
	}
	par.For(n, elemGrain, func(lo, hi int) {
		i, _ := slices.BinarySearch(ends, lo+1) // the span that holds element lo
		for ; lo < hi; i++ {
			begin := ends[i] - o.Spans[i].P.Len()
			end := min(ends[i], hi)
			updates[i](lo-begin, end-begin)
			lo = end
		}
	})
}

// updater updates elements lo … hi of one span, each by itself.
type updater func(lo, hi int)

// clipOf is the factor of the gradients; false: they are not finite.
func clipOf(o *kernels.OptimArgs) (float32, bool) {
	if o.SumSq == nil {
		return 1, true
	}
	norm := math.Sqrt(float64(f32(o.SumSq)[0]))
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return 0, false
	}
	if o.MaxNorm == 0 {
		return 1, true
	}
	return min(1, float32(o.MaxNorm/(norm+1e-6))), true
}

// flat is the part of a flat buffer that belongs to a span, nil of nil.
func flat(b kernels.Buffer, s *kernels.OptimSpan) []float32 {
	return part(f32(b), s.Off, s.Off+s.P.Len())
}

func adamW(o *kernels.OptimArgs, s *kernels.OptimSpan, clip float32) updater {
	t := float64(o.Step)
	a := &vec.Adam{
		Clip:     clip,
		Keep:     float32(1 - s.LR*s.Decay),
		Lerp:     float32(1 - o.Beta1),
		Beta2:    float32(o.Beta2),
		OneBeta2: float32(1 - o.Beta2),
		Root:     float32(math.Sqrt(1 - math.Pow(o.Beta2, t))),
		Eps:      float32(o.Eps),
		StepSize: float32(-s.LR / (1 - math.Pow(o.Beta1, t))),
	}
	p, g, m, v := f32(s.P), flat(o.G, s), flat(o.M, s), flat(o.V, s)
	return func(lo, hi int) { vec.AdamW(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi], a) }
}

func sgd(o *kernels.OptimArgs, s *kernels.OptimSpan, clip float32) updater {
	p, g, m := f32(s.P), flat(o.G, s), flat(o.M, s)
	lr, mu, decay := float32(s.LR), float32(o.Beta1), float32(s.Decay)
	return func(lo, hi int) {
		for i := lo; i < hi; i++ {
			d := float32(g[i]*clip) + float32(decay*p[i])
			if m != nil {
				m[i] = float32(mu*m[i]) + d
				d = m[i]
			}
			p[i] -= float32(lr * d)
		}
	}
}
