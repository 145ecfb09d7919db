package quant

import (
	"runtime"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// layer is one matrix on its way through a method.
type layer struct {
	dev        kernels.Backend
	path       string         // module path
	role       arch.Role      // what it is in the model
	w          kernels.Buffer // its own values, [rows, cols] f32; the caller's
	rows, cols int
	typ        dtype.Type // what it becomes
	in         *inputs    // what the method asked to know of its inputs; nil: nothing
	options    any        // the job's, of the method that rounds
	tops       []float32  // of NVFP4: see block.EncodeFP4
	like       dtype.Kind // that weights which are not quantized have
}

// matrixResult is a quantized matrix and what it cost.
type matrixResult struct {
	raw    block.Raw
	report LayerReport
}

// group are the layers of a block that share an input.
type group struct {
	linears []*nn.Linear
	in      *inputs
	pair    *model.Pair // where a search may move scales to; nil: nowhere
	scales  []float32   // that a search chose, a factor for each column; nil: none
	ratio   float64     // the exponent of the scales, for the report
}

// blockRun is one block of one stream.
type blockRun struct {
	*stream
	b      *model.Block
	groups []*group
	w      map[*nn.Linear]kernels.Buffer // own weights as f32, while they are needed
}

// quantize searches, moves scales, and rounds every layer of the block. The
// model is left with what was written in place of its weights; hidden states
// have moved past the block unless it is the last.
func (r *blockRun) quantize(out *blockOutput, last bool) error {
	defer r.free()
	m := r.plan.method
	if r.plan.search != nil || !m.inOrder {
		if err := r.collect(); err != nil {
			return err
		}
	}
	if s := r.plan.search; s != nil {
		for _, g := range r.groups {
			if g.pair == nil {
				continue
			}
			if err := s.search(r, g); err != nil {
				return err
			}
			g.in.tensors.free()
			runtime.GC()
		}
		if err := r.smooth(out); err != nil {
			return err
		}
	}
	if m.inOrder {
		return r.roundInOrder(out, last)
	}
	for _, g := range r.groups {
		if err := r.round(g.linears, g.in, g.ratio, out); err != nil {
			return err
		}
	}
	return nil
}

func (r *blockRun) free() {
	for _, g := range r.groups {
		g.in.free()
	}
	for l := range r.w {
		r.drop(l)
	}
}

// weights decodes a linear map's own weight, once until drop.
func (r *blockRun) weights(l *nn.Linear) (kernels.Buffer, error) {
	if w, ok := r.w[l]; ok {
		return w, nil
	}
	err := r.dev.Run(func() error {
		w, err := r.dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), l.W.Len())
		if err != nil {
			return err
		}
		r.w[l] = w
		r.dev.Dequantize(w, l.W.Mat)
		return r.layer(l, nil).check()
	})
	return r.w[l], err
}

// drop gives a decoded weight's memory back.
func (r *blockRun) drop(l *nn.Linear) {
	r.dev.Free(r.w[l])
	delete(r.w, l)
}

// layer is a linear map whose weight is decoded.
func (r *blockRun) layer(l *nn.Linear, in *inputs) *layer {
	return &layer{dev: r.dev, path: l.Path, role: r.m.TensorOf(l.W).Role, w: r.w[l], rows: l.W.Rows, cols: l.W.Cols, typ: r.plan.typeOf[l.W.Name], in: in}
}

// collect runs the float block on all passes and keeps what the search and the
// rounding ask to know of every input.
func (r *blockRun) collect() error {
	ask := needNothing
	if !r.plan.method.inOrder {
		ask = r.plan.method.needs
	}
	if r.plan.search != nil {
		ask |= r.plan.search.searches
	}
	steps := r.b.Steps()
	for _, p := range steps {
		g := &group{linears: p.Linears}
		if r.plan.search != nil {
			g.pair = r.pairOf(p.Linears[0])
		}
		own := ask
		if g.pair == nil || g.pair.Norm == nil {
			own &^= needInputs
		}
		if len(r.chosen(p)) == 0 {
			own = needNothing
		}
		var err error
		if g.in, err = r.newInputs(p.Linears[0], own); err != nil {
			return err
		}
		r.groups = append(r.groups, g)
		for _, l := range p.Linears {
			if _, err = r.weights(l); err != nil {
				return err
			}
		}
	}
	for i := range r.passes {
		err := r.pass(i, func(t *autograd.Tape, state *model.State) error {
			in := r.states.load(i, t)
			for k, p := range steps {
				in = p.Enter(t, in, state)
				if t.Err() != nil {
					return t.Err()
				}
				if err := r.groups[k].in.observe(i, t, &p, in); err != nil {
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

// pairOf finds where scales of the columns that l reads can move to: all linear
// maps of the pair must be quantized.
func (r *blockRun) pairOf(l *nn.Linear) *model.Pair {
	pairs := r.b.Smooth()
	for i := range pairs {
		p := &pairs[i]
		ok := p.Next[0] == l && (p.Prev == nil || r.plan.quantize[p.Prev.W.Name])
		for _, n := range p.Next {
			ok = ok && r.plan.quantize[n.W.Name]
		}
		if ok {
			return p
		}
	}
	return nil
}

// round quantizes the linear maps of a group.
func (r *blockRun) round(linears []*nn.Linear, in *inputs, ratio float64, out *blockOutput) error {
	for _, l := range linears {
		if !r.plan.quantize[l.W.Name] {
			continue
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if _, err := r.weights(l); err != nil {
			return err
		}
		var res *matrixResult
		whole := r.layer(l, in)
		err := r.dev.Run(func() (err error) {
			if in.experts == nil {
				res, err = r.plan.round(whole)
			} else {
				res, err = roundExperts(whole, r.plan.round)
			}
			return err
		})
		if err != nil {
			return err
		}
		r.drop(l)
		res.report.Ratio = ratio
		if err := r.add(out, l, res); err != nil {
			return err
		}
	}
	return nil
}

// roundInOrder takes the groups of linear maps that share an input one after
// another: what is known of their inputs comes from the states as the groups
// before them, already quantized, leave them; then the states past them.
func (r *blockRun) roundInOrder(out *blockOutput, last bool) error {
	steps := r.b.Steps()
	from := 0
	for k, step := range steps {
		if err := r.roundStep(steps, from, k, out); err != nil {
			return err
		}
		runtime.GC() // a step's matrices are short-lived and large: the heap would double before it is collected
		end := k == len(steps)-1
		if end && last || !end && (steps[k+1].Routed != nil || !r.storable(steps[k+1].Linears[0].W.Cols)) {
			continue
		}
		for i := range r.passes {
			err := r.pass(i, func(t *autograd.Tape, st *model.State) error {
				out := step.Forward(t, r.replay(i, t, st, steps, from, k), st)
				if t.Err() != nil {
					return t.Err()
				}
				return r.states.keep(i, out)
			})
			if err != nil {
				return err
			}
		}
		from = k + 1
	}
	return nil
}

// storable reports whether the residual stream and a tensor of cols columns
// may be kept for all tokens.
func (r *blockRun) storable(cols int) bool {
	return int64(r.tokens)*int64(r.m.Spec.Width()+cols)*4 <= storeLimit
}

// chosen are the linear maps of a step that are to be quantized.
func (r *blockRun) chosen(p model.Step) []*nn.Linear {
	var out []*nn.Linear
	for _, l := range p.Linears {
		if r.plan.quantize[l.W.Name] {
			out = append(out, l)
		}
	}
	return out
}

// roundStep quantizes the linear maps of step k.
func (r *blockRun) roundStep(steps []model.Step, from, k int, out *blockOutput) error {
	todo := r.chosen(steps[k])
	if len(todo) == 0 {
		return nil
	}
	known, err := r.newInputs(todo[0], r.plan.method.needs)
	if err != nil {
		return err
	}
	defer known.free()
	for i := range r.passes {
		err := r.pass(i, func(t *autograd.Tape, st *model.State) error {
			in := r.replay(i, t, st, steps, from, k)
			if t.Err() != nil {
				return t.Err()
			}
			return known.observe(i, t, &steps[k], in)
		})
		if err != nil {
			return err
		}
	}
	ratio := 0.0
	if r.groups != nil {
		ratio = r.groups[k].ratio
	}
	return r.round(todo, known, ratio, out)
}
