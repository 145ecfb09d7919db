package quant

import (
	"fmt"
	"math"
	"runtime"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// awqStep is what AWQ learns of one group of linear maps that share an input.
type awqStep struct {
	linears []*nn.Linear
	h       *hessian
	absSum  []float64
	inputs  [][]float32 // by pass: the input, where a whole part judges the scales
	pair    *model.Pair // where scales can move to; nil: nowhere
	scales  []float32   // nil: none
	ratio   float64
}

// awqRun is one block.
type awqRun struct {
	*stream
	b     *model.Block
	steps []*awqStep
	w     map[*nn.Linear][]float32 // own weights
}

// awqBlock searches scales for the block's pairs on its float weights, moves
// them, clips and rounds every linear map.
func (s *stream) awqBlock(b *model.Block, out *blockOutput) error {
	a := &awqRun{stream: s, b: b, w: map[*nn.Linear][]float32{}}
	defer a.free()
	if err := a.collect(); err != nil {
		return err
	}
	for _, st := range a.steps {
		if st.pair == nil {
			continue
		}
		if err := a.search(st); err != nil {
			return err
		}
		runtime.GC()
	}
	if err := a.smooth(out); err != nil {
		return err
	}
	for _, st := range a.steps {
		if err := a.round(st, out); err != nil {
			return err
		}
	}
	return nil
}

func (a *awqRun) free() {
	for _, st := range a.steps {
		if st.h != nil {
			st.h.free()
		}
	}
}

// collect runs the block on all passes and keeps the statistics of every input.
func (a *awqRun) collect() error {
	steps := a.b.Steps()
	pairs := a.b.Smooth()
	for _, p := range steps {
		st := &awqStep{linears: p.Linears, absSum: make([]float64, p.Linears[0].W.Cols)}
		var err error
		if st.h, err = newHessian(a.dev, len(st.absSum)); err != nil {
			return err
		}
		for i := range pairs {
			if pairs[i].Next[0] == p.Linears[0] && a.movable(&pairs[i]) {
				st.pair = &pairs[i]
			}
		}
		for _, l := range p.Linears {
			if a.w[l], err = a.weights(l); err != nil {
				return err
			}
		}
		a.steps = append(a.steps, st)
	}
	for i := range a.passes {
		err := a.pass(i, func(t *autograd.Tape, state *model.State) error {
			in := a.load(i, t)
			for k, p := range steps {
				in = p.In(t, in)
				if t.Err() != nil {
					return t.Err()
				}
				if err := a.steps[k].observe(a.dev, in[len(in)-1]); err != nil {
					return err
				}
				if k < len(steps)-1 {
					in = p.Forward(t, in, state)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// movable reports whether all linear maps of a pair are quantized.
func (a *awqRun) movable(p *model.Pair) bool {
	ok := p.Prev == nil || a.plan.quantize[p.Prev.W.Name]
	for _, l := range p.Next {
		ok = ok && a.plan.quantize[l.W.Name]
	}
	return ok
}

// observe adds the input x of one pass.
func (st *awqStep) observe(dev kernels.Backend, x *autograd.Tensor) error {
	st.h.add(x.Data, x.Rows())
	s := scratch{dev: dev}
	defer s.free()
	out := s.alloc(dtype.F32, x.Cols())
	if s.err != nil {
		return s.err
	}
	dev.ColStats(kernels.To(out), &kernels.ColStatsArgs{Stat: kernels.SumAbs, Rows: x.Rows(), Cols: x.Cols(), X: x.Data})
	v := make([]float32, x.Cols())
	if err := down(dev, v, out); err != nil {
		return err
	}
	for c, y := range v {
		st.absSum[c] += float64(y)
	}
	if st.pair != nil && st.pair.Norm != nil {
		in := make([]float32, x.Len())
		st.inputs = append(st.inputs, in)
		return down(dev, in, x.Data)
	}
	return nil
}

// smooth moves the scales: columns of the linear maps are multiplied by them,
// what makes their input is divided. A norm's weight is rounded to its stored
// type at once, and the columns take up what that leaves.
func (a *awqRun) smooth(out *blockOutput) error {
	for _, st := range a.steps {
		if st.scales == nil {
			continue
		}
		var err error
		if st.pair.Norm != nil {
			err = a.divideNorm(st, out)
		} else {
			err = a.divideRows(st, out)
		}
		if err != nil {
			return err
		}
		for _, l := range st.linears {
			w := a.w[l]
			for i := range w {
				w[i] *= st.scales[i%len(st.scales)]
			}
		}
		if err := a.dev.Run(func() error { return st.h.unscale(st.scales) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *awqRun) divideNorm(st *awqStep, out *blockOutput) error {
	for _, p := range []*autograd.Param{st.pair.Norm.W, st.pair.Norm.Bias} {
		if p == nil {
			continue
		}
		m, err := a.divided(p, st.scales, out)
		if err != nil {
			return err
		}
		if p != st.pair.Norm.W {
			continue
		}
		own, err := a.m.Decode(p)
		if err != nil {
			return err
		}
		now := make([]float32, p.Cols)
		block.DecodeAll(now, m)
		for c, v := range now {
			if e := own[c] / v; v != 0 && e > 0 && !math.IsInf(float64(e), 0) {
				st.scales[c] = e
			}
		}
		if err := a.replace(p, m); err != nil {
			return err
		}
	}
	return nil
}

// divided is a vector of the block over s in its stored type.
func (a *awqRun) divided(p *autograd.Param, s []float32, out *blockOutput) (block.Raw, error) {
	v, err := a.m.Decode(p)
	if err != nil {
		return block.Raw{}, err
	}
	for c := range v {
		v[c] /= s[c]
	}
	m := block.New(a.plan.typeOf[p.Name], 1, p.Cols)
	if err := block.Encode(m, v, nil); err != nil {
		return m, err
	}
	if err := formats.CheckFinite(p.Name, v, 0, p.Cols); err != nil {
		return m, fmt.Errorf("scaled: %w", err)
	}
	out.raws[p.Name] = m
	return m, nil
}

// divideRows divides the output of the linear map before by the scales.
func (a *awqRun) divideRows(st *awqStep, out *blockOutput) error {
	prev := st.pair.Prev
	w := a.w[prev]
	for i := range w {
		w[i] /= st.scales[i/prev.W.Cols]
	}
	if prev.Bias == nil {
		return nil
	}
	m, err := a.divided(prev.Bias, st.scales, out)
	if err != nil {
		return err
	}
	return a.replace(prev.Bias, m)
}

// round clips and quantizes the linear maps of a step. Queries and keys are not
// clipped: their product is what matters (AutoAWQ).
func (a *awqRun) round(st *awqStep, out *blockOutput) error {
	var gram []float32
	err := a.dev.Run(func() (err error) { gram, err = st.h.host(); return err })
	if err != nil {
		return err
	}
	for _, l := range st.linears {
		if !a.plan.quantize[l.W.Name] {
			continue
		}
		if err := a.ctx.Err(); err != nil {
			return err
		}
		var r *matrixResult
		err := a.dev.Run(func() (err error) { r, err = a.roundLayer(st, l, gram); return err })
		if err != nil {
			return err
		}
		r.report.Method, r.report.Ratio = "awq", st.ratio
		if err := a.add(out, l, r); err != nil {
			return err
		}
	}
	return nil
}

func (a *awqRun) roundLayer(st *awqStep, l *nn.Linear, gram []float32) (*matrixResult, error) {
	w, cols := a.w[l], l.W.Cols
	v, cut := w, 0
	if role := a.m.TensorOf(l.W).Role; role != arch.Q && role != arch.K {
		clip, n, err := clipRanges(a.dev, w, gram, cols, a.plan.Type)
		if err != nil {
			return nil, err
		}
		v, cut = append([]float32(nil), w...), n
		size := len(v) / len(clip)
		for g, limit := range clip {
			clamp(v[g*size:(g+1)*size], limit)
		}
	}
	m := block.New(a.plan.Type, l.W.Rows, cols)
	if err := block.Encode(m, v, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", l.W.Name, err)
	}
	rep, err := measure(st.h, w, m)
	rep.Clipped = cut
	return &matrixResult{m, rep}, err
}
