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

// awqSearch is AWQ's search for scales in one block.
type awqSearch struct{ *blockRun }

// searchAWQ tries the exponents and keeps the scales with the least squared error
// of the part's output; a part that is one linear map needs no run, its error
// follows from the Hessian.
func searchAWQ(r *blockRun, g *group) error {
	a := &awqSearch{r}
	cols := g.in.cols
	xMean := make([]float32, cols)
	for c, v := range g.in.absSum {
		xMean[c] = float32(v / float64(g.in.rows))
	}
	var groups []int
	for _, l := range g.linears {
		groups = append(groups, int(a.plan.typeOf[l.W.Name].Group))
	}
	wMean := weightMeans(a.weightsOf(g.linears), cols, groups)
	scales, loss := make([][]float32, awqRatios), make([]float64, awqRatios)
	for i := range scales {
		scales[i] = awqScales(float64(i)/awqRatios, xMean, wMean)
	}
	rate := a.hessianLosses
	if g.pair.Norm != nil {
		rate = a.partLosses
	}
	if err := rate(g, scales, loss); err != nil {
		return err
	}
	best := math.Inf(1)
	for i, e := range loss {
		if e < best {
			best, g.ratio, g.scales = e, float64(i)/awqRatios, scales[i]
		}
	}
	if g.scales == nil {
		return fail.Numericf(g.linears[0].Path, "does the model compute finite values on this text?", "no scale gives a finite output")
	}
	return nil
}

func (a *awqSearch) hessianLosses(g *group, scales [][]float32, loss []float64) (err error) {
	for i, s := range scales {
		if loss[i], err = a.hessianLoss(g, s); err != nil {
			return err
		}
	}
	return nil
}

// awqFinal exponents, the best on the first pass, are tried on all passes.
const awqFinal = 4

// partLosses leaves +Inf for exponents that do not come into question.
func (a *awqSearch) partLosses(g *group, scales [][]float32, loss []float64) error {
	want, err := a.outputs(g)
	if err != nil {
		return err
	}
	first := make([]float64, len(scales))
	order := make([]int, len(scales))
	for i, s := range scales {
		if first[i], err = a.partLoss(g, s, want, 0, 1); err != nil {
			return err
		}
		if math.IsNaN(first[i]) {
			first[i] = math.Inf(1)
		}
		order[i], loss[i] = i, math.Inf(1)
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(first[i], first[j]) })
	for _, i := range order[:awqFinal] {
		rest, err := a.partLoss(g, scales[i], want, 1, len(a.passes))
		if err != nil {
			return err
		}
		loss[i] = first[i] + rest
	}
	return nil
}

// hessianLoss is the squared output error of the step's linear maps.
func (a *awqSearch) hessianLoss(g *group, s []float32) (float64, error) {
	sum := 0.0
	for _, l := range g.linears {
		w := a.w[l]
		d := make([]float32, len(w))
		fakeQuant(d, w, s, nil, len(s), a.plan.typeOf[l.W.Name])
		minus(d, w)
		err := a.dev.Run(func() error {
			e, err := g.in.h.energy(d, l.W.Rows)
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
func (a *awqSearch) outputs(g *group) ([][]float32, error) {
	var out [][]float32
	for i := range a.passes {
		err := a.part(i, g, func(y *autograd.Tensor) error {
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
func (a *awqSearch) part(i int, g *group, f func(y *autograd.Tensor) error) error {
	return a.pass(i, func(t *autograd.Tape, state *model.State) error {
		x := g.in.tensors[i]
		y := g.pair.Part.Forward(t, t.Upload(x, len(x)/g.in.cols, g.in.cols), state)
		if t.Err() != nil {
			return t.Err()
		}
		return f(y)
	})
}

// partLoss is the squared error of the part's output on passes from … to-1 with
// rounded weights.
func (a *awqSearch) partLoss(g *group, s []float32, want [][]float32, from, to int) (float64, error) {
	if from >= to {
		return 0, nil
	}
	saved := a.set
	a.set = nil
	defer func() { a.restore(); a.set = saved }()
	for _, l := range g.linears {
		d := make([]float32, l.W.Len())
		fakeQuant(d, a.w[l], s, nil, len(s), a.plan.typeOf[l.W.Name])
		if err := a.replace(l.W, block.Raw{Type: dtype.Of(dtype.F32), Rows: l.W.Rows, Cols: l.W.Cols, Data: f32Bytes(d)}); err != nil {
			return 0, err
		}
	}
	sum := 0.0
	for i := from; i < to; i++ {
		err := a.part(i, g, func(y *autograd.Tensor) error {
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
