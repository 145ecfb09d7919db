package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/optim"
)

// Optim updates all spans. AdamW runs on the vector kernels, with the bits of its
// plain form; the other rules are plain Go.
func (c *CPU) Optim(o *kernels.OptimArgs) {
	clip, ok := clipOf(o)
	if !ok {
		return
	}
	a := &optim.Args[float32]{OptimRule: o.OptimRule, Spans: make([]optim.Span[float32], len(o.Spans)), Common: f32(o.Common), Step: o.Step, Clip: clip}
	want("optim: common", o.Common, o.Shared())
	for i := range o.Spans {
		a.Spans[i] = optimSpan(&o.OptimRule, &o.Spans[i])
	}
	var element func(*optim.Span[float32]) optim.Element[float32]
	if o.Kind == kernels.AdamW && !o.L2 && !o.AMSGrad && !o.Late {
		element = func(s *optim.Span[float32]) optim.Element[float32] { return adamW(a, s) }
	}
	optim.Update(a, element)
}

// optimSpan is the memory of s.
func optimSpan(r *kernels.OptimRule, s *kernels.OptimSpan) optim.Span[float32] {
	n := s.Rows * s.Cols
	want("optim: p", s.P, n)
	want("optim: g", s.G, n)
	out := optim.Span[float32]{P: f32(s.P)[:n], G: f32(s.G)[:n], Rows: s.Rows, Cols: s.Cols, Block: s.Block, LR: s.LR, Decay: s.Decay}
	states := r.State(s.Rows, s.Cols, s.Block)
	if len(states) != len(s.State) {
		panic("cpu: optim: a span has another number of states than its rule")
	}
	for i, st := range states {
		want("optim: "+st.Name, s.State[i], st.Len)
	}
	for i := 0; i < len(states); i++ {
		st := states[i]
		if st.Type.Kind == dtype.F32 {
			out.State = append(out.State, optim.Moment[float32]{V: f32(s.State[i])[:st.Len]})
			continue
		}
		m := optim.Moment[float32]{Codes: u8(s.State[i])[:st.Len], AbsMax: f32(s.State[i+1]), Book: block.Unsigned}
		if st.Signed {
			m.Book = block.Signed
		}
		out.State = append(out.State, m)
		i++ // its scales
	}
	return out
}

// clipOf is the factor of the gradients; false: they are not finite.
func clipOf(o *kernels.OptimArgs) (float32, bool) {
	if o.SumSq == nil {
		return 1, true
	}
	return kernels.ClipFactor(f32(o.SumSq)[0], o.MaxNorm)
}

func adamW(a *optim.Args[float32], s *optim.Span[float32]) optim.Element[float32] {
	t := float64(a.Step)
	v := &vec.Adam{
		Clip:     a.Clip,
		Keep:     float32(1 - s.LR*s.Decay),
		Lerp:     float32(1 - a.Beta1),
		Beta2:    float32(a.Beta2),
		OneBeta2: float32(1 - a.Beta2),
		Root:     float32(math.Sqrt(1 - math.Pow(a.Beta2, t))),
		Eps:      float32(a.Eps),
		StepSize: float32(-s.LR / (1 - math.Pow(a.Beta1, t))),
	}
	if m := s.State; m[0].Codes != nil && m[1].Codes != nil {
		k := [8]float32{v.Clip, v.Keep, v.Lerp, v.Beta2, v.OneBeta2, v.Root, v.Eps, v.StepSize}
		s.Coded = func(lo, hi int) int {
			at, end := lo*kernels.OptimBlock, min(hi*kernels.OptimBlock, len(s.P))
			return lo + block.AdamW(s.P[at:end], s.G[at:end], m[0].Codes[at:end], m[1].Codes[at:end], m[0].AbsMax[lo:hi], m[1].AbsMax[lo:hi], &k)
		}
	}
	return func(p, g []float32, m [][]float32) { vec.AdamW(p, g, m[0], m[1], v) }
}
