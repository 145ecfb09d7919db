package quant

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// search tries the exponents and keeps the scales with the least squared error
// of the part's output; a part that is one linear map needs no run, its error
// follows from the Hessian.
func (a *awqRun) search(st *awqStep) error {
	cols := len(st.absSum)
	xMean := make([]float32, cols)
	for c, v := range st.absSum {
		xMean[c] = float32(v / float64(st.h.rows))
	}
	var ws [][]float32
	for _, l := range st.linears {
		ws = append(ws, a.w[l])
	}
	wMean := weightMeans(ws, cols, a.plan.Group)
	scales, loss := make([][]float32, awqRatios), make([]float64, awqRatios)
	for i := range scales {
		scales[i] = awqScales(float64(i)/awqRatios, xMean, wMean)
	}
	rate := a.hessianLosses
	if st.pair.Norm != nil {
		rate = a.partLosses
	}
	if err := rate(st, scales, loss); err != nil {
		return err
	}
	best := math.Inf(1)
	for i, e := range loss {
		if e < best {
			best, st.ratio, st.scales = e, float64(i)/awqRatios, scales[i]
		}
	}
	st.inputs = nil
	if st.scales == nil {
		return fail.Numericf(st.linears[0].Path, "does the model compute finite values on this text?", "no scale gives a finite output")
	}
	return nil
}

func (a *awqRun) hessianLosses(st *awqStep, scales [][]float32, loss []float64) (err error) {
	for i, s := range scales {
		if loss[i], err = a.hessianLoss(st, s); err != nil {
			return err
		}
	}
	return nil
}

// awqFinal exponents, the best on the first pass, are tried on all passes.
const awqFinal = 4

// partLosses leaves +Inf for exponents that do not come into question.
func (a *awqRun) partLosses(st *awqStep, scales [][]float32, loss []float64) error {
	want, err := a.outputs(st)
	if err != nil {
		return err
	}
	first := make([]float64, len(scales))
	order := make([]int, len(scales))
	for i, s := range scales {
		if first[i], err = a.partLoss(st, s, want, 0, 1); err != nil {
			return err
		}
		if math.IsNaN(first[i]) {
			first[i] = math.Inf(1)
		}
		order[i], loss[i] = i, math.Inf(1)
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(first[i], first[j]) })
	for _, i := range order[:awqFinal] {
		rest, err := a.partLoss(st, scales[i], want, 1, len(a.passes))
		if err != nil {
			return err
		}
		loss[i] = first[i] + rest
	}
	return nil
}

// hessianLoss is the squared output error of the step's linear maps.
func (a *awqRun) hessianLoss(st *awqStep, s []float32) (float64, error) {
	sum := 0.0
	for _, l := range st.linears {
		w := a.w[l]
		d := make([]float32, len(w))
		fakeQuant(d, w, s, nil, len(s), a.plan.Type)
		minus(d, w)
		err := a.dev.Run(func() error {
			e, err := st.h.energy(d, l.W.Rows)
			sum += e
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// outputs runs the pair's part on every pass with the weights that are in place.
func (a *awqRun) outputs(st *awqStep) ([][]float32, error) {
	var out [][]float32
	for i := range a.passes {
		err := a.part(i, st, func(y *autograd.Tensor) error {
			v := make([]float32, y.Len())
			out = append(out, v)
			return down(a.dev, v, y.Data)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// part runs the pair's part on the input of pass i.
func (a *awqRun) part(i int, st *awqStep, f func(y *autograd.Tensor) error) error {
	return a.pass(i, func(t *autograd.Tape, state *model.State) error {
		x := st.inputs[i]
		y := st.pair.Part.Forward(t, t.Upload(x, len(x)/len(st.absSum), len(st.absSum)), state)
		if t.Err() != nil {
			return t.Err()
		}
		return f(y)
	})
}

// partLoss is the squared error of the part's output on passes from … to-1 with
// rounded weights.
func (a *awqRun) partLoss(st *awqStep, s []float32, want [][]float32, from, to int) (float64, error) {
	if from >= to {
		return 0, nil
	}
	saved := a.set
	a.set = nil
	defer func() { a.restore(); a.set = saved }()
	for _, l := range st.linears {
		d := make([]float32, l.W.Len())
		fakeQuant(d, a.w[l], s, nil, len(s), a.plan.Type)
		if err := a.replace(l.W, block.Raw{Type: dtype.Of(dtype.F32), Rows: l.W.Rows, Cols: l.W.Cols, Data: f32Bytes(d)}); err != nil {
			return 0, err
		}
	}
	sum := 0.0
	for i := from; i < to; i++ {
		err := a.part(i, st, func(y *autograd.Tensor) error {
			m := scratch{dev: a.dev}
			defer m.free()
			w, e := m.up(want[i]), m.alloc(dtype.F32, 1)
			if m.err != nil {
				return m.err
			}
			a.dev.Sum(kernels.To(e), y.Data, w, y.Len())
			v := make([]float32, 1)
			err := down(a.dev, v, e)
			sum += float64(v[0])
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}
