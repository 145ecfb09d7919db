package quant

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// smooth moves the scales that a search chose: columns of the linear maps are
// multiplied by them, what makes their input is divided. A norm's weight is
// rounded to its stored type at once, and the columns take up what that leaves.
func (r *blockRun) smooth(out *blockOutput) error {
	for _, g := range r.groups {
		if g.scales == nil {
			continue
		}
		var err error
		if g.pair.Norm != nil {
			err = r.divideNorm(g, out)
		} else {
			err = r.divideRows(g, out)
		}
		if err != nil {
			return err
		}
		if err := r.dev.Run(func() error { return r.scale(g) }); err != nil {
			return err
		}
	}
	if r.plan.method.inOrder {
		return r.place()
	}
	return nil
}

// scale multiplies the columns of a group's weights, and makes its Hessian that
// of the inputs divided.
func (r *blockRun) scale(g *group) error {
	s := scratch{dev: r.dev}
	defer s.free()
	by := s.up(g.scales)
	if s.err != nil {
		return s.err
	}
	for _, l := range g.linears {
		r.dev.Mul(kernels.To(r.w[l]), &kernels.MulArgs{N: l.W.Rows, C: l.W.Cols, X: r.w[l], S: by, By: kernels.ByCol})
	}
	if g.in.h == nil {
		return nil
	}
	return g.in.h.unscale(g.scales)
}

// place puts the moved weights in the model: what is rounded in order runs the
// block between its layers.
func (r *blockRun) place() error {
	return r.dev.Run(func() error {
		for _, g := range r.groups {
			for _, l := range g.linears {
				w, err := r.dev.Load(kernels.Weights, dtype.Of(dtype.F32), l.W.Rows, l.W.Cols, nil, kernels.Copy)
				if err != nil {
					return err
				}
				copyTo(r.dev, w.Buffer, r.w[l], l.W.Len())
				r.put(l.W, w)
			}
		}
		return nil
	})
}

func (r *blockRun) divideNorm(g *group, out *blockOutput) error {
	for _, p := range []*autograd.Param{g.pair.Norm.W, g.pair.Norm.Bias} {
		if p == nil {
			continue
		}
		m, err := r.divided(p, g.scales, out)
		if err != nil {
			return err
		}
		if p == g.pair.Norm.W {
			if err := r.absorb(p, m, g.scales); err != nil {
				return err
			}
		}
		if err := r.replace(p, m); err != nil {
			return err
		}
	}
	return nil
}

// absorb makes scales what a norm's weight p was really divided by: m is it in
// its stored type.
func (r *blockRun) absorb(p *autograd.Param, m block.Raw, scales []float32) error {
	own, err := r.m.Decode(p)
	if err != nil {
		return err
	}
	now := make([]float32, p.Cols)
	block.DecodeAll(now, m)
	for c, v := range now {
		if e := own[c] / v; v != 0 && e > 0 && !math.IsInf(float64(e), 0) {
			scales[c] = e
		}
	}
	return nil
}

// divided is a vector of the block over s in its stored type.
func (r *blockRun) divided(p *autograd.Param, s []float32, out *blockOutput) (block.Raw, error) {
	v, err := r.m.Decode(p)
	if err != nil {
		return block.Raw{}, err
	}
	for c := range v {
		v[c] /= s[c]
	}
	m := block.New(r.plan.typeOf[p.Name], 1, p.Cols)
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
func (r *blockRun) divideRows(g *group, out *blockOutput) error {
	prev := g.pair.Prev
	err := r.dev.Run(func() error {
		s := scratch{dev: r.dev}
		defer s.free()
		by := s.up(g.scales)
		if s.err != nil {
			return s.err
		}
		r.dev.Divide(kernels.To(r.w[prev]), &kernels.MulArgs{N: prev.W.Rows, C: prev.W.Cols, X: r.w[prev], S: by, By: kernels.ByRow})
		return nil
	})
	if err != nil || prev.Bias == nil {
		return err
	}
	m, err := r.divided(prev.Bias, g.scales, out)
	if err != nil {
		return err
	}
	return r.replace(prev.Bias, m)
}
