package quant

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
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
	wMean, err := a.weightMeans(g.linears, cols)
	if err != nil {
		return err
	}
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

// weightMeans is the mean over all rows of linear maps of |w| relative to the
// largest of its group, [cols]; the rows are read a few at a time.
func (a *awqSearch) weightMeans(linears []*nn.Linear, cols int) ([]float32, error) {
	m := newMeans(cols)
	step := arch.ChunkRows(cols)
	for _, l := range linears {
		group := int(a.plan.typeOf[l.W.Name].Group)
		for r := 0; r < l.W.Rows; r += step {
			n := min(step, l.W.Rows-r)
			w := make([]float32, n*cols)
			if err := down(a.dev, w, a.dev.Slice(a.w[l], r*cols, n*cols)); err != nil {
				return nil, err
			}
			m.add(w, group)
		}
	}
	return m.values(), nil
}

// hessianLosses leaves +Inf for exponents that do not come into question. Where
// the linear maps have many rows, some of them say which those are: the error of
// a row does not depend on the others, and a look at all costs rows·cols² a try.
func (a *awqSearch) hessianLosses(g *group, scales [][]float32, loss []float64) (err error) {
	some := false
	for _, l := range g.linears {
		some = some || l.W.Rows >= 2*awqRows
	}
	for i, s := range scales {
		if loss[i], err = a.hessianLoss(g, s, !some); err != nil {
			return err
		}
	}
	if !some {
		return nil
	}
	return finalists(loss, func(i int) (err error) {
		loss[i], err = a.hessianLoss(g, scales[i], true)
		return err
	})
}

// finalists calls full for the awqFinal least losses, and leaves +Inf for the others.
func finalists(loss []float64, full func(i int) error) error {
	order := make([]int, len(loss))
	for i := range loss {
		order[i] = i
		if math.IsNaN(loss[i]) {
			loss[i] = math.Inf(1)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(loss[i], loss[j]) })
	for n, i := range order {
		if n >= awqFinal {
			loss[i] = math.Inf(1)
		} else if err := full(i); err != nil {
			return err
		}
	}
	return nil
}

// awqFinal exponents, the best at the first look, are tried on all passes and rows.
const awqFinal = 4

// partLosses leaves +Inf for exponents that do not come into question.
func (a *awqSearch) partLosses(g *group, scales [][]float32, loss []float64) error {
	want, err := a.outputs(g)
	if err != nil {
		return err
	}
	defer want.free()
	for i, s := range scales {
		if loss[i], err = a.partLoss(g, s, want, 0, 1); err != nil {
			return err
		}
	}
	return finalists(loss, func(i int) error {
		rest, err := a.partLoss(g, scales[i], want, 1, len(a.passes))
		loss[i] += rest
		return err
	})
}

// awqRows rows of a linear map, in awqBands bands spread over it, are what the
// first look takes of one with at least twice as many.
const awqRows, awqBands = 512, 8

// bands are the first rows and the number of rows of what is looked at.
func bands(rows int, all bool) (first []int, n int) {
	if all || rows < 2*awqRows {
		return []int{0}, rows
	}
	for i := range awqBands {
		first = append(first, i*rows/awqBands)
	}
	return first, awqRows / awqBands
}

// hessianLoss is the squared output error of the step's linear maps, of all rows
// or of some.
func (a *awqSearch) hessianLoss(g *group, by []float32, all bool) (float64, error) {
	sum := 0.0
	err := a.dev.Run(func() error {
		s := scratch{dev: a.dev}
		defer s.free()
		scale, largest := s.up(by), 0
		for _, l := range g.linears {
			first, n := bands(l.W.Rows, all)
			largest = max(largest, len(first)*n*l.W.Cols)
		}
		d := s.alloc(dtype.F32, largest)
		if s.err != nil {
			return s.err
		}
		for _, l := range g.linears {
			first, n := bands(l.W.Rows, all)
			size := n * l.W.Cols
			for i, row := range first {
				band, w := a.dev.Slice(d, i*size, size), a.dev.Slice(a.w[l], row*l.W.Cols, size)
				a.fake(band, l, w, n, scale)
				subtract(a.dev, band, w, size)
			}
			e, err := g.in.h.energy(d, len(first)*n)
			if err != nil {
				return err
			}
			sum += e * float64(l.W.Rows) / float64(len(first)*n) // maps of other heights count as they do with all rows
		}
		return nil
	})
	return sum, err
}

// fake writes what rows of a linear map's weight become by being scaled and rounded.
func (a *awqSearch) fake(dst kernels.Buffer, l *nn.Linear, w kernels.Buffer, rows int, scale kernels.Buffer) {
	a.dev.FakeQuant(kernels.To(dst), &kernels.FakeQuantArgs{Type: a.plan.typeOf[l.W.Name], Rows: rows, Cols: l.W.Cols, X: w, ColScale: scale})
}

// outputs runs the pair's part on every pass with the weights that are in place.
func (a *awqSearch) outputs(g *group) (*store, error) {
	out := a.newStore()
	for i := range a.passes {
		err := a.part(i, g, func(y *autograd.Tensor) error { return out.keep(i, []*autograd.Tensor{y}) })
		if err != nil {
			out.free()
			return nil, err
		}
	}
	return out, nil
}

// part runs the pair's part on the input of pass i.
func (a *awqSearch) part(i int, g *group, f func(y *autograd.Tensor) error) error {
	return a.pass(i, func(t *autograd.Tape, state *model.State) error {
		y := g.pair.Part.Forward(t, g.in.tensors.load(i, t)[0], state.Lend(a.states.load(i, t)))
		if t.Err() != nil {
			return t.Err()
		}
		return f(y)
	})
}

// place puts the weights of a group, scaled and rounded, in the model.
func (a *awqSearch) place(g *group, by []float32) error {
	return a.dev.Run(func() error {
		s := scratch{dev: a.dev}
		defer s.free()
		scale := s.up(by)
		if s.err != nil {
			return s.err
		}
		for _, l := range g.linears {
			w, err := a.dev.Load(kernels.Weights, dtype.Of(dtype.F32), l.W.Rows, l.W.Cols, nil, kernels.Copy)
			if err != nil {
				return err
			}
			a.fake(w.Buffer, l, a.w[l], l.W.Rows, scale)
			a.put(l.W, w)
		}
		return nil
	})
}

// partLoss is the squared error of the part's output on passes from … to-1 with
// rounded weights.
func (a *awqSearch) partLoss(g *group, by []float32, want *store, from, to int) (float64, error) {
	if from >= to {
		return 0, nil
	}
	saved := a.set
	a.set = nil
	defer func() { a.restore(); a.set = saved }()
	if err := a.place(g, by); err != nil {
		return 0, err
	}
	sum := 0.0
	for i := from; i < to; i++ {
		err := a.part(i, g, func(y *autograd.Tensor) error {
			s := scratch{dev: a.dev}
			defer s.free()
			w, e := want.buffer(i, &s), s.alloc(dtype.F32, 1)
			if s.err != nil {
				return s.err
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
