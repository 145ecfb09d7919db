package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/optim"
)

// rules are the update rules with numbers that use every part of them.
func rules() []kernels.OptimRule {
	base := kernels.OptimRule{Beta1: 0.9, Beta2: 0.99, Beta3: 0.995, Eps: 1e-8}
	with := func(kind kernels.OptimKind, f func(*kernels.OptimRule)) kernels.OptimRule {
		r := base
		r.Kind = kind
		if f != nil {
			f(&r)
		}
		return r
	}
	factor := func(r *kernels.OptimRule) { r.Eps, r.Eps2, r.MaxRMS, r.ScaleParameter = 1e-30, 1e-3, 1, true }
	distance := func(r *kernels.OptimRule) { r.D0, r.DCoef, r.Slice = 1e-3, 1, 1 }
	return []kernels.OptimRule{
		with(kernels.AdamW, nil), with(kernels.AdamW, func(r *kernels.OptimRule) { r.AMSGrad, r.L2 = true, true }),
		with(kernels.AdamW, func(r *kernels.OptimRule) { r.Late = true }),
		with(kernels.SGD, func(r *kernels.OptimRule) { r.Beta1 = 0 }), with(kernels.SGD, func(r *kernels.OptimRule) { r.Dampening = 0.3 }),
		with(kernels.SGD, func(r *kernels.OptimRule) { r.Nesterov = true }),
		with(kernels.RMSprop, func(r *kernels.OptimRule) { r.Beta1 = 0 }), with(kernels.RMSprop, func(r *kernels.OptimRule) { r.Centered, r.Eps = true, 1e-3 }),
		with(kernels.Adagrad, func(r *kernels.OptimRule) { r.Eps2 = 0.1 }), with(kernels.Lion, nil),
		with(kernels.AdEMAMix, func(r *kernels.OptimRule) { r.Alpha = 5 }), with(kernels.ADOPT, func(r *kernels.OptimRule) { r.Eps = 1e-6 }), with(kernels.ADOPT, func(r *kernels.OptimRule) { r.Eps, r.L2 = 1e-6, true }), with(kernels.Adan, nil),
		with(kernels.FreeAdamW, func(r *kernels.OptimRule) { r.Average = 0.25 }), with(kernels.FreeSGD, func(r *kernels.OptimRule) { r.Average = 0.5 }),
		with(kernels.Lerp, nil), with(kernels.StableAdamW, nil), with(kernels.LAMB, func(r *kernels.OptimRule) { r.Eps = 1e-6 }), with(kernels.AdamMini, nil),
		with(kernels.Adafactor, factor), with(kernels.Adafactor, func(r *kernels.OptimRule) { r.Beta1 = 0; factor(r) }),
		with(kernels.TorchAdafactor, func(r *kernels.OptimRule) { r.Beta1 = 0; factor(r); r.Eps = 1e-7 }),
		with(kernels.CAME, func(r *kernels.OptimRule) { r.Eps, r.Eps2, r.MaxRMS = 1e-30, 1e-16, 1 }),
		with(kernels.Prodigy, distance), with(kernels.Prodigy, func(r *kernels.OptimRule) {
			distance(r)
			r.Slice, r.L2, r.Safeguard, r.BiasCorrection, r.Growth = 11, true, true, true, 1.5
		}),
	}
}

// testOptim makes steps under every rule, with the same arithmetic in float64
// beside it: how the rules are right is for tests against other programs.
func testOptim(s *suite) {
	for _, rule := range rules() {
		for _, maxNorm := range []float64{0, 0.25} {
			s.in(fmt.Sprintf("%+v norm %v", rule, maxNorm), func(s *suite) { s.optim(rule, maxNorm, [][2]int{{1, 1}, {1, 37}, {200, 100}, {9, 700}, {3, 1}}) })
		}
		if rule.Kind.ElementWise() {
			rule.Bits8, rule.MinBits8 = true, 256
			s.in(fmt.Sprintf("%+v", rule), func(s *suite) { s.optim8(rule) })
		}
	}
	s.in("not finite", func(s *suite) {
		x := s.normal(9, 1)
		b := s.up(x)
		for _, bad := range []float64{math.NaN(), math.Inf(1)} {
			span := kernels.OptimSpan{P: b, G: b, State: []kernels.Buffer{b, b}, Rows: 1, Cols: 9, LR: 1}
			s.b.Optim(&kernels.OptimArgs{Spans: []kernels.OptimSpan{span}, Step: 1, SumSq: s.up([]float64{bad})})
		}
		s.close("parameters", s.get(b), x, 0)
	})
}

// optimPair is the same update for the backend and for its reference.
type optimPair[F optim.Float] struct {
	b    kernels.OptimArgs
	want optim.Args[F]
}

// optimStart makes parameters of the shapes and their states, as both begin.
func optimStart[F optim.Float](s *suite, rule kernels.OptimRule, shapes [][2]int) *optimPair[F] {
	p := &optimPair[F]{b: kernels.OptimArgs{OptimRule: rule}, want: optim.Args[F]{OptimRule: rule, Common: make([]F, 4)}}
	p.b.Common = s.up(make([]float64, 4))
	for i, shape := range shapes {
		n, blk := shape[0]*shape[1], shape[1]
		x := s.normal(n, 1)
		bs := kernels.OptimSpan{P: s.up(x), Rows: shape[0], Cols: shape[1], Block: blk, LR: 1e-2, Decay: 0.1 * float64(i%2)}
		ws := optim.Span[F]{P: convert[F](x), Rows: shape[0], Cols: shape[1], Block: blk, LR: bs.LR, Decay: bs.Decay}
		states := rule.State(shape[0], shape[1], blk)
		for k := 0; k < len(states); k++ {
			st := states[k]
			if st.Type.Kind == dtype.U8 {
				codes := s.alloc(dtype.U8, st.Len)
				s.b.Upload(codes, make([]byte, st.Len))
				k++
				bs.State = append(bs.State, codes, s.up(make([]float64, states[k].Len)))
				book := block.Unsigned
				if st.Signed {
					book = block.Signed
				}
				ws.State = append(ws.State, optim.Moment[F]{Codes: make([]byte, st.Len), AbsMax: make([]F, states[k].Len), Book: book})
				continue
			}
			v := make([]float64, st.Len)
			for j := range v {
				if st.Copy {
					v[j] = x[j*st.Stride]
				}
			}
			bs.State = append(bs.State, s.up(v))
			ws.State = append(ws.State, optim.Moment[F]{V: convert[F](v)})
		}
		p.b.Spans, p.want.Spans = append(p.b.Spans, bs), append(p.want.Spans, ws)
	}
	return p
}

func convert[F optim.Float](x []float64) []F {
	out := make([]F, len(x))
	for i, v := range x {
		out[i] = F(v)
	}
	return out
}

// step gives both new gradients and runs both.
func (p *optimPair[F]) step(s *suite, maxNorm float64) {
	var sum float64
	for i := range p.b.Spans {
		g := s.normal(len(p.want.Spans[i].P), 1)
		p.b.Spans[i].G, p.want.Spans[i].G = s.up(g), convert[F](g)
		sum += dot(g, g)
	}
	p.b.Step++
	p.b.SumSq, p.b.MaxNorm, p.want.Step, p.want.Clip = s.up([]float64{sum}), maxNorm, p.b.Step, 1
	if maxNorm > 0 {
		p.want.Clip = F(math.Min(1, maxNorm/(math.Sqrt(sum)+1e-6)))
	}
	s.b.Optim(&p.b)
	optim.Update(&p.want, nil)
}

// optim makes five steps and compares values and states.
func (s *suite) optim(rule kernels.OptimRule, maxNorm float64, shapes [][2]int) {
	p := optimStart[float64](s, rule, shapes)
	for range 5 {
		p.step(s, maxNorm)
	}
	for i := range p.want.Spans {
		s.close(fmt.Sprintf("p %d", i), s.get(p.b.Spans[i].P), p.want.Spans[i].P, 1e-5)
		for k, st := range p.want.Spans[i].State {
			s.close(fmt.Sprintf("state %d of %d", k, i), s.get(p.b.Spans[i].State[k]), st.V, 1e-5)
		}
	}
	if n := rule.Shared(); n > 0 {
		s.close("common", s.get(p.b.Common)[:n], p.want.Common[:n], 1e-5)
	}
}

// optim8 makes three steps on states in 8 bits, of which float32 gives the same
// codes but where a value lies between two.
func (s *suite) optim8(rule kernels.OptimRule) {
	p := optimStart[float32](s, rule, [][2]int{{1, 100}, {5, 300}})
	for range 3 {
		p.step(s, 0)
	}
	for i := range p.want.Spans {
		for k, st := range p.want.Spans[i].State {
			if st.Codes == nil {
				continue
			}
			got := make([]byte, len(st.Codes))
			if err := s.b.Download(got, p.b.Spans[i].State[2*k]); err != nil {
				s.Fatal(err)
			}
			off := 0
			for j := range got {
				if got[j] != st.Codes[j] {
					off++
				}
			}
			if off > len(got)/100 {
				s.Errorf("state %d of %d: %d of %d codes differ", k, i, off, len(got))
			}
			s.close("scales", s.get(p.b.Spans[i].State[2*k+1]), toFloat64(st.AbsMax), 1e-4)
		}
	}
}

func toFloat64(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
