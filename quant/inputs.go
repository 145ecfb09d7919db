package quant

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// inputs is what is known of the inputs that a group of layers shares.
type inputs struct {
	dev     kernels.Backend
	cols    int
	rows    int            // tokens seen
	h       *hessian       // XᵀX; nil: not asked for
	absSum  []float64      // Σ|x| of each column; nil: not asked for
	peaks   kernels.Buffer // max|x| of each column; nil: not asked for
	tensors *store         // the inputs themselves, one for each pass; nil: not asked for
	factor  *factored      // of h, made by the first layer that asks
	experts []*inputs      // of each expert, instead of all this; nil: the layers are for every token
}

// newInputs begins with what ask says of the inputs of l and the layers beside
// it.
func (w *walk) newInputs(l *nn.Linear, ask needs) (*inputs, error) {
	dev := w.dev
	cols := l.W.Cols
	in := &inputs{dev: dev, cols: cols}
	if ask != needNothing && l.Experts > 0 {
		for range l.Experts {
			own, err := w.newInputs(&nn.Linear{W: l.W}, ask)
			if err != nil {
				in.free()
				return nil, err
			}
			in.experts = append(in.experts, own)
		}
		return in, nil
	}
	if ask&needInputs != 0 {
		in.tensors = w.newStore()
	}
	if ask&needColumns != 0 {
		in.absSum = make([]float64, cols)
	}
	var err error
	if ask&needHessian != 0 {
		in.h, err = newHessian(dev, cols)
	}
	if ask&needPeaks != 0 && err == nil {
		in.peaks, err = dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), cols)
	}
	return in, err
}

// observe takes the inputs of a step in pass i: state is what its In made.
func (in *inputs) observe(i int, t *autograd.Tape, p *model.Step, state []*autograd.Tensor) error {
	x := state[len(state)-1]
	if in.experts == nil {
		return in.add(i, x)
	}
	at, err := t.Ints(p.Routed(state).Group)
	if err != nil {
		return err
	}
	for e, own := range in.experts {
		if n := int(at[e+1] - at[e]); n > 0 {
			if err := own.add(i, t.View(x, int(at[e]), n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// add takes the inputs x of pass i.
func (in *inputs) add(i int, x *autograd.Tensor) error {
	if in.peaks != nil {
		in.dev.ColStats(kernels.Dst{Buffer: in.peaks, Add: in.rows > 0}, &kernels.ColStatsArgs{Stat: kernels.MaxAbs, Rows: x.Rows(), Cols: x.Cols(), X: x.Data})
	}
	in.rows += x.Rows()
	if in.h != nil {
		in.h.add(x.Data, x.Rows())
	}
	if in.absSum != nil {
		if err := in.sum(x); err != nil {
			return err
		}
	}
	if in.tensors == nil {
		return nil
	}
	return in.tensors.keep(i, []*autograd.Tensor{x})
}

func (in *inputs) sum(x *autograd.Tensor) error {
	s := scratch{dev: in.dev}
	defer s.free()
	out := s.alloc(dtype.F32, in.cols)
	if s.err != nil {
		return s.err
	}
	in.dev.ColStats(kernels.To(out), &kernels.ColStatsArgs{Stat: kernels.SumAbs, Rows: x.Rows(), Cols: x.Cols(), X: x.Data})
	v := make([]float32, in.cols)
	if err := down(in.dev, v, out); err != nil {
		return err
	}
	for c, y := range v {
		in.absSum[c] += float64(y)
	}
	return nil
}

func (in *inputs) free() {
	for _, own := range in.experts {
		own.free()
	}
	if in.h != nil {
		in.h.free()
	}
	if in.factor != nil {
		in.factor.free()
	}
	in.dev.Free(in.peaks)
	in.tensors.free()
}
