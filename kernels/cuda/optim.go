package cuda

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// sumPart is how many elements a block of sum_parts and whole_sum adds.
const sumPart = 16384

type sumArgs struct {
	x, y, parts driver.Ptr
	out         dest
	n           int64
}

// Sum: out = Σ(a-b)², b nil Σa², in float64 with a fixed tree.
func (c *CUDA) Sum(out kernels.Dst, a, b kernels.Buffer, n int) {
	if out.Skip() {
		return
	}
	blocks := (n + sumPart - 1) / sumPart
	parts := c.scratch(dtype.F64, max(blocks, 1))
	defer c.Free(parts)
	s := &sumArgs{x: f32("sum: a", a, n), y: f32("sum: b", b, n), parts: ptr(parts), out: destOf("sum: out", out, 1), n: int64(n)}
	launch(c, "sum_parts", driver.Dim{X: uint32(blocks), Y: 1, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, s)
	s.n = int64(blocks)
	launch(c, "sum_fold", driver.Dim{X: 1, Y: 1, Z: 1}, driver.Dim{X: 1, Y: 1, Z: 1}, 0, s)
}

// moment is Moment of optim.cu.
type moment struct{ v, codes, absmax, book driver.Ptr }

// optimArgs is OptimArgs of optim.cu.
type optimArgs struct {
	p, g, sumSq                                             driver.Ptr
	m                                                       [4]moment
	maxNorm                                                 float64
	n                                                       int64
	kind, states, first, late, nesterov, centered           int32
	keep, decay, lr, size, size2, eps                       float32
	b1, r1, b2, r2, b3, r3, root, alpha, limit, share, take float32
	_                                                       int32
}

// unbias is 1 - βᵗ.
func unbias(beta float64, step int) float64 { return 1 - math.Pow(beta, float64(step)) }

// Optim updates all spans as kernels/optim does, every operation rounded to float32
// and sums in float64.
func (c *CUDA) Optim(o *kernels.OptimArgs) {
	sumSq := f32("optim: sum", o.SumSq, 1)
	if o.Kind == kernels.Prodigy {
		c.prodigy(o, sumSq)
		return
	}
	for i := range o.Spans {
		s := &o.Spans[i]
		if o.Kind.ElementWise() {
			a := elementArgs(o, s)
			a.m, a.states = c.moments(o, s)
			a.p, a.g, a.sumSq = f32("optim: p", s.P, s.Rows*s.Cols), f32("optim: g", s.G, s.Rows*s.Cols), sumSq
			each(c, "optim", int(a.n), a)
		} else {
			c.whole(o, s, sumSq)
		}
	}
}

// moments are the states of a span, as they are numbered.
func (c *CUDA) moments(o *kernels.OptimArgs, s *kernels.OptimSpan) (out [4]moment, n int32) {
	states := o.State(s.Rows, s.Cols, s.Block)
	if len(states) != len(s.State) {
		panic("cuda: optim: a span has another number of states than its rule")
	}
	for k := 0; k < len(states); k++ {
		st, m := states[k], &out[n]
		n++
		if st.Type.Kind == dtype.F32 {
			m.v = f32("optim: "+st.Name, s.State[k], st.Len)
			continue
		}
		book := block.Unsigned
		if st.Signed {
			book = block.Signed
		}
		want("optim: "+st.Name, s.State[k], st.Len)
		m.codes, m.book = typed(s.State[k], dtype.U8), c.table(book, kernels.Bytes(book.Values[:]))
		k++ // its scales
		m.absmax = f32("optim: "+states[k].Name, s.State[k], states[k].Len)
	}
	return out, n
}

// elementArgs are the numbers of a rule that looks at elements, as
// kernels/optim/element.go makes them.
func elementArgs(o *kernels.OptimArgs, s *kernels.OptimSpan) *optimArgs {
	a := &optimArgs{maxNorm: o.MaxNorm, n: int64(s.Rows * s.Cols), kind: int32(o.Kind), first: flag(o.Step == 1), late: flag(o.Late), nesterov: flag(o.Nesterov), centered: flag(o.Centered),
		keep: float32(1 - s.LR*s.Decay), lr: float32(s.LR), eps: float32(o.Eps), alpha: float32(o.Alpha), share: float32(o.Average),
		b1: float32(o.Beta1), r1: float32(1 - o.Beta1), b2: float32(o.Beta2), r2: float32(1 - o.Beta2), b3: float32(o.Beta3), r3: float32(1 - o.Beta3),
		root: float32(math.Sqrt(unbias(o.Beta2, o.Step)))}
	switch o.Kind {
	case kernels.AdamW:
		a.size = float32(-s.LR / unbias(o.Beta1, o.Step))
	case kernels.SGD:
		a.take = float32(1 - o.Dampening)
		if o.Step == 1 {
			a.take = 1
		}
	case kernels.Adagrad:
		a.share = float32(o.Eps2)
	case kernels.AdEMAMix:
		a.take = float32(unbias(o.Beta1, o.Step))
	case kernels.ADOPT:
		a.limit = float32(math.Pow(float64(o.Step), 0.25))
	case kernels.Adan:
		a.root = float32(math.Sqrt(unbias(o.Beta3, o.Step)))
		a.size, a.size2 = float32(s.LR/unbias(o.Beta1, o.Step)), float32(s.LR*o.Beta2/unbias(o.Beta2, o.Step))
		a.keep = float32(1 + s.LR*s.Decay)
	case kernels.FreeAdamW, kernels.FreeSGD:
		a.size = float32(s.LR * (o.Beta1*(1-o.Average) - 1))
	}
	switch o.Kind {
	case kernels.AdamW, kernels.ADOPT:
		if o.L2 {
			a.keep, a.decay = 1, float32(s.Decay)
		}
	case kernels.SGD, kernels.RMSprop, kernels.Adagrad, kernels.FreeAdamW, kernels.FreeSGD:
		a.decay = float32(s.Decay)
	}
	return a
}

// What the sums of a parameter are of, as whole.cu numbers them.
const (
	sumUpdate = iota
	sumP
	meanRow
	meanRes

	sumNumerator   = 0
	sumDenominator = 1
)

// wholeArgs is WholeArgs of whole.cu.
type wholeArgs struct {
	p, g, sumSq                                                                     driver.Ptr
	m, v, row, col, resRow, resCol                                                  driver.Ptr
	p0, sum, common                                                                 driver.Ptr
	parts, totals                                                                   driver.Ptr
	maxNorm, eps, eps2, maxRMS, lr, decay                                           float64
	d0, b1, b2, b3, correct, coef, growth                                           float64
	n, block                                                                        int64
	rows, cols, kind, what, scale, matrix, hasM, slice, spans, l2, safeguard, stray int32
	keep, fb1, fr1, fb2, fr2, fb3, _, feps, size, root                              float32
}

// wholeOf describes a span under a rule that looks at whole parameters, and lists
// its states.
func wholeOf(o *kernels.OptimArgs, s *kernels.OptimSpan, sumSq driver.Ptr) (*wholeArgs, []driver.Ptr) {
	n, list := s.Rows*s.Cols, o.State(s.Rows, s.Cols, s.Block)
	if len(list) != len(s.State) {
		panic("cuda: optim: a span has another number of states than its rule")
	}
	var states []driver.Ptr
	for k, st := range list {
		states = append(states, f32("optim: "+st.Name, s.State[k], st.Len))
	}
	return &wholeArgs{p: f32("optim: p", s.P, n), g: f32("optim: g", s.G, n), sumSq: sumSq,
		maxNorm: o.MaxNorm, eps: o.Eps, eps2: o.Eps2, maxRMS: o.MaxRMS, lr: s.LR, decay: s.Decay, b1: o.Beta1, b2: o.Beta2, b3: o.Beta3,
		n: int64(n), rows: int32(s.Rows), cols: int32(s.Cols), kind: int32(o.Kind), scale: flag(o.ScaleParameter), matrix: flag(s.Rows > 1), hasM: flag(o.Beta1 > 0),
		keep: float32(1 - s.LR*s.Decay), fb1: float32(o.Beta1), fr1: float32(1 - o.Beta1), fb2: float32(o.Beta2), fr2: float32(1 - o.Beta2), fb3: float32(o.Beta3), feps: float32(o.Eps)}, states
}

// total queues the sum of count numbers of a kind.
func (c *CUDA) total(a *wholeArgs, what, count int) {
	a.what, a.block = int32(what), int64(count)
	launch(c, "whole_sum", driver.Dim{X: blocksOf(count, sumPart), Y: 1, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, a)
	launch(c, "whole_fold", driver.Dim{X: 1, Y: 1, Z: 1}, driver.Dim{X: 1, Y: 1, Z: 1}, 0, a)
}

// means queues the averages of rows and columns, and their mean.
func (c *CUDA) means(a *wholeArgs, mean int) {
	launch(c, "whole_rows", driver.Dim{X: uint32(a.rows), Y: 1, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, a)
	launch(c, "whole_cols", driver.Dim{X: blocksOf(int(a.cols), 64), Y: 1, Z: 1}, driver.Dim{X: 64, Y: 1, Z: 1}, 0, a)
	c.total(a, mean, int(a.rows))
}

// whole updates a span under a rule that looks at whole parameters.
func (c *CUDA) whole(o *kernels.OptimArgs, s *kernels.OptimSpan, sumSq driver.Ptr) {
	a, st := wholeOf(o, s, sumSq)
	n := int(a.n)
	if n == 0 {
		return
	}
	mem := scratches{c: c}
	defer mem.free()
	a.parts, a.totals = mem.take(dtype.F64, max(n, s.Rows)/sumPart+1), mem.take(dtype.F64, meanRes+1)
	second := func(st []driver.Ptr) {
		if a.matrix == 0 {
			a.v = st[0]
			each(c, "whole_moments", n, a)
			return
		}
		a.row, a.col = st[0], st[1]
		c.means(a, meanRow)
	}
	switch o.Kind {
	case kernels.StableAdamW, kernels.LAMB:
		a.m, a.v = st[0], st[1]
		if o.Kind == kernels.StableAdamW {
			a.fb1 = float32(o.Beta1 * unbias(o.Beta1, o.Step-1) / unbias(o.Beta1, o.Step))
			a.fb2 = float32(o.Beta2 * unbias(o.Beta2, o.Step-1) / unbias(o.Beta2, o.Step))
		} else {
			a.lr /= unbias(o.Beta1, o.Step)
		}
		a.fr1, a.fr2 = 1-a.fb1, 1-a.fb2
		each(c, "whole_moments", n, a)
		c.total(a, sumUpdate, n)
		if o.Kind == kernels.LAMB {
			c.total(a, sumP, n)
		}
	case kernels.AdamMini:
		a.m, a.v, a.block = st[0], st[1], int64(s.Block)
		a.root, a.size = float32(math.Sqrt(unbias(o.Beta2, o.Step))), float32(s.LR/unbias(o.Beta1, o.Step))
		launch(c, "adam_mini", driver.Dim{X: uint32(n / s.Block), Y: 1, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, a)
		return
	case kernels.Adafactor, kernels.TorchAdafactor:
		a.m = st[len(st)-1] // of Adafactor with a first moment
		if o.Kind == kernels.TorchAdafactor {
			a.feps, a.lr = 0, min(s.LR, 1/math.Sqrt(float64(o.Step)))
		}
		c.total(a, sumP, n)
		second(st)
		c.total(a, sumUpdate, n)
	case kernels.CAME:
		a.m, a.what = st[0], 0
		second(st[1:])
		c.total(a, sumUpdate, n)
		a.what = 1
		each(c, "whole_moments", n, a)
		if a.matrix != 0 {
			stray := *a
			stray.stray, stray.fb2, stray.fr2, stray.feps = 1, a.fb3, float32(1-o.Beta3), float32(o.Eps2)
			stray.resRow, stray.resCol = st[3], st[4]
			c.means(&stray, meanRes)
			a.resRow, a.resCol = st[3], st[4]
		}
	default:
		panic(fmt.Sprintf("cuda: optim: no rule %d", o.Kind))
	}
	each(c, "whole_step", n, a)
}

// prodigy updates all spans by an estimate that is made of all.
func (c *CUDA) prodigy(o *kernels.OptimArgs, sumSq driver.Ptr) {
	if len(o.Spans) == 0 {
		return
	}
	mem := scratches{c: c}
	defer mem.free()
	totals, most, rate := mem.take(dtype.F64, 2*len(o.Spans)+2), 0, 0.0
	for i := range o.Spans {
		most, rate = max(most, o.Spans[i].Rows*o.Spans[i].Cols), max(rate, o.Spans[i].LR)
	}
	parts, common := mem.take(dtype.F64, most/sumPart+1), f32("optim: common", o.Common, o.Shared())
	spans := make([]*wholeArgs, len(o.Spans))
	for i := range o.Spans {
		a, st := wholeOf(o, &o.Spans[i], sumSq)
		a.m, a.v, a.sum, a.p0 = st[0], st[1], st[2], st[3]
		a.parts, a.common, a.totals = parts, common, totals+driver.Ptr(16*i)
		a.lr, a.correct, a.d0, a.coef, a.growth = rate, 1, o.D0, o.DCoef, o.Growth
		if o.BiasCorrection {
			a.correct = math.Sqrt(unbias(o.Beta2, o.Step)) / unbias(o.Beta1, o.Step)
		}
		a.slice, a.spans, a.l2, a.safeguard = int32(o.Slice), int32(len(spans)), flag(o.L2), flag(o.Safeguard)
		spans[i] = a
		n := int(a.n)
		c.total(a, sumNumerator, n)
		each(c, "whole_moments", n, a)
		c.total(a, sumDenominator, (n+o.Slice-1)/o.Slice)
	}
	launch(c, "prodigy_next", driver.Dim{X: 1, Y: 1, Z: 1}, driver.Dim{X: 1, Y: 1, Z: 1}, 0, spans[0])
	for _, a := range spans {
		a.totals = totals + driver.Ptr(16*len(spans))
		each(c, "whole_step", int(a.n), a)
	}
}
