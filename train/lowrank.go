package train

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// lowRank holds what GaLore and APOLLO share: a projection of each gradient to a
// few rows or columns, and the state of an update rule there.
type lowRank struct {
	*optimizer
	rule    kernels.OptimRule
	random  bool // projections are random numbers, not singular vectors
	m       map[*param]*projected
	scratch workspace
	// replaced is called with each new projection: tests put another one in its place.
	replaced func(p *param, step int)
}

// projected is the state of one matrix. Low values are [Rows, r] where the
// projection [r, Cols] is of the right side, else [r, Cols] with [Rows, r].
type projected struct {
	proj       kernels.Buffer
	right      bool
	r          int
	rows, cols int // of low values
	state      []kernels.Buffer
	limit      kernels.Buffer // [1] APOLLO: norm of the last update; 0: none yet
}

func (l *lowRank) takes(p *param) bool { return p.matrix }

func (l *lowRank) add(p *param) (err error) {
	s := &projected{right: l.side(p), r: min(value(l.c.OptimArgs.Rank, l.rank()), p.Rows, p.Cols)}
	l.m[p] = s
	d, other := p.Rows, p.Cols
	s.rows, s.cols = s.r, p.Cols
	if s.right {
		d, other = p.Cols, p.Rows
		s.rows, s.cols = p.Rows, s.r
	}
	if s.proj, err = l.keep("projection of "+p.Name, dtype.Of(dtype.F32), s.r*d); err != nil {
		return err
	}
	if s.state, err = l.states(&l.rule, p, p.Buffer, s.rows, s.cols); err != nil {
		return err
	}
	n, k := s.rows*s.cols, 0
	if !l.random {
		k = s.tried(p)
	}
	return l.scratch.want(l.optimizer, n, n, max(p.Rows, p.Cols), k*d, k*other, k*k)
}

// rank is the usual one.
func (l *lowRank) rank() int {
	if l.c.Optimizer == "apollo_mini" {
		return 1
	}
	return 128
}

// side reports whether p's projection is of its right side: the columns.
func (l *lowRank) side(p *param) bool {
	tall := p.Rows >= p.Cols
	switch l.c.OptimArgs.ProjType {
	case "left":
		return false
	case "right":
		return true
	case "reverse_std":
		return !tall
	}
	return tall
}

// update makes p's step in the low space and returns its result, -rate·direction
// [rows, cols], and the low gradient, both in scratch.
func (l *lowRank) update(p *param, s *projected, step int, rate float64, clip float32) (move, low kernels.Buffer, err error) {
	n := s.rows * s.cols
	move, low = l.dev.Slice(l.scratch[0], 0, n), l.dev.Slice(l.scratch[1], 0, n)
	if (step-1)%value(l.c.OptimArgs.UpdateProjGap, 200) == 0 {
		if err := l.project(p, s, step); err != nil {
			return nil, nil, err
		}
	}
	r := l.rule
	lr := l.c.at(&r, step, rate)
	return move, low, l.dev.Run(func() error {
		if s.right {
			l.dev.Gemm(kernels.To(low), &kernels.GemmArgs{A: p.Grad, B: s.proj, TB: true, M: p.Rows, N: s.r, K: p.Cols, Alpha: clip})
		} else {
			l.dev.Gemm(kernels.To(low), &kernels.GemmArgs{A: s.proj, B: p.Grad, TA: true, M: s.r, N: p.Cols, K: p.Rows, Alpha: clip})
		}
		l.dev.Fill(move, 0)
		span := kernels.OptimSpan{P: move, G: low, State: s.state, Rows: s.rows, Cols: s.cols, Block: p.block, LR: lr}
		l.dev.Optim(&kernels.OptimArgs{OptimRule: r, Spans: []kernels.OptimSpan{span}, Step: step})
		return nil
	})
}

// decay takes weight decay off p: after AdamW's update, before Adafactor's.
func (l *lowRank) decay(p *param, lr float64) {
	if p.decay > 0 {
		l.dev.Add(kernels.To(p.Buffer), &kernels.AddArgs{N: p.Len(), A: p.Buffer, Alpha: float32(1 - lr*p.decay)})
	}
}

// galore trains whole matrices with the state of low-rank ones (Zhao et al. 2024,
// arXiv:2403.03507): moments stay in the old basis when the projection changes.
type galore struct{ lowRank }

func newGaLore(o *optimizer) matrixRule {
	return &galore{lowRank{optimizer: o, rule: o.plain.OptimRule, m: map[*param]*projected{}}}
}

func (l *galore) step(p *param, step int, lr float64, clip float32) error {
	s := l.m[p]
	move, _, err := l.update(p, s, step, lr, clip)
	if err != nil {
		return err
	}
	return l.dev.Run(func() error {
		scale := float32(value(l.c.OptimArgs.Scale, 0.25))
		if l.rule.Kind == kernels.Adafactor {
			l.decay(p, lr)
		}
		if s.right {
			l.dev.Gemm(kernels.Into(p.Buffer), &kernels.GemmArgs{A: move, B: s.proj, M: p.Rows, N: p.Cols, K: s.r, Alpha: scale})
		} else {
			l.dev.Gemm(kernels.Into(p.Buffer), &kernels.GemmArgs{A: s.proj, B: move, M: p.Rows, N: p.Cols, K: s.r, Alpha: scale})
		}
		if l.rule.Kind == kernels.AdamW {
			l.decay(p, lr)
		}
		return nil
	})
}

// apollo scales the gradient's channels, or all of it, as AdamW on a low-rank
// image of it would (Zhu et al. 2024, arXiv:2412.05270). Updates may grow by one
// part in a hundred a step (Chen et al. 2024, arXiv:2410.01623).
type apollo struct{ lowRank }

func newAPOLLO(o *optimizer) matrixRule {
	return &apollo{lowRank{optimizer: o, rule: o.plain.OptimRule, random: o.c.OptimArgs.Proj != "svd", m: map[*param]*projected{}}}
}

func (l *apollo) add(p *param) error {
	err := l.lowRank.add(p)
	if s := l.m[p]; err == nil {
		s.limit, err = l.keep("limit of "+p.Name, dtype.Of(dtype.F32), 1)
	}
	return err
}

const (
	growth = 1.01 // of the norm of updates from step to step
	tiny   = 1e-8
)

func (l *apollo) step(p *param, step int, lr float64, clip float32) error {
	s := l.m[p]
	move, low, err := l.update(p, s, step, 1, clip) // move is the direction, turned round
	if err != nil {
		return err
	}
	b1, b2, t := l.rule.Beta1, l.rule.Beta2, float64(step)
	bias := math.Sqrt(1-math.Pow(b2, t)) / (1 - math.Pow(b1, t)) // is part of their step size, and of our direction
	if err := l.channels(p, s, move, low, clip/float32(bias)); err != nil {
		return err
	}
	a := &l.c.OptimArgs
	scale := value(a.Scale, 1)
	if l.c.Optimizer == "apollo_mini" {
		scale = value(a.Scale, 128)
	}
	front := 1.0
	if value(a.ScaleFront, false) {
		front = math.Sqrt(scale)
	}
	norm, err := l.normOf(p.Grad, p.Len())
	if err != nil {
		return err
	}
	factor, err := l.limited(s, norm*front)
	if err != nil {
		return err
	}
	factor *= math.Sqrt(scale)
	return l.dev.Run(func() error {
		l.dev.Add(kernels.To(p.Buffer), &kernels.AddArgs{N: p.Len(), A: p.Buffer, B: p.Grad, Alpha: 1, Beta: float32(-lr * bias * factor)})
		l.decay(p, lr)
		return nil
	})
}

// channels multiplies the gradient by the norms of move over those of low, of each
// channel on the side that was not projected or of the whole, times extra.
func (l *apollo) channels(p *param, s *projected, move, low kernels.Buffer, extra float32) error {
	n := s.cols
	if s.right {
		n = s.rows
	}
	norms := func(x kernels.Buffer) ([]float32, error) {
		out, v := l.dev.Slice(l.scratch[2], 0, n), make([]float32, n)
		err := l.dev.Run(func() error {
			if s.right {
				l.dev.RowStats(kernels.To(out), &kernels.RowStatsArgs{Stat: kernels.SumSq, Rows: s.rows, Cols: s.cols, X: x})
			} else {
				l.dev.ColStats(kernels.To(out), &kernels.ColStatsArgs{Stat: kernels.SumSq, Rows: s.rows, Cols: s.cols, X: x})
			}
			return l.dev.Download(kernels.Bytes(v), out)
		})
		return v, err
	}
	factor, err := norms(move)
	if err != nil {
		return err
	}
	of, err := norms(low)
	if err != nil {
		return err
	}
	if word(l.c.OptimArgs.ScaleType, l.scaleType()) == "tensor" {
		var a, b float64
		for i := range factor {
			a, b = a+float64(factor[i]), b+float64(of[i])
		}
		for i := range factor {
			factor[i], of[i] = float32(a), float32(b)
		}
	}
	for i := range factor {
		factor[i] = extra * float32(math.Sqrt(float64(factor[i]))/(math.Sqrt(float64(of[i]))+tiny))
	}
	return l.dev.Run(func() error {
		f := l.dev.Slice(l.scratch[2], 0, n)
		l.dev.Upload(f, kernels.Bytes(factor))
		by := kernels.ByCol
		if s.right {
			by = kernels.ByRow
		}
		l.dev.Mul(kernels.To(p.Grad), &kernels.MulArgs{N: p.Rows, C: p.Cols, X: p.Grad, S: f, By: by})
		return nil
	})
}

func (l *apollo) scaleType() string {
	if l.c.Optimizer == "apollo_mini" {
		return "tensor"
	}
	return "channel"
}

// limited returns what an update of some norm is multiplied by so that it grows
// slowly, and remembers the norm it then has: 0 before the first that moved
// anything, below 0 after one that moved nothing.
func (l *apollo) limited(s *projected, norm float64) (float64, error) {
	if value(l.c.OptimArgs.DisableNL, false) {
		return 1, nil
	}
	var last [1]float32
	if err := l.dev.Run(func() error { return l.dev.Download(kernels.Bytes(last[:]), s.limit) }); err != nil {
		return 0, err
	}
	factor := 1.0
	if last[0] != 0 {
		factor = growth / max(norm/(float64(max(last[0], 0))+tiny), growth)
		last[0] = -1
	}
	if norm > 0 {
		last[0] = float32(norm * factor)
	}
	return factor, l.dev.Run(func() error { l.dev.Upload(s.limit, kernels.Bytes(last[:])); return nil })
}
