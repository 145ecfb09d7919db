package cuda

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// sumPart is how many elements a block of sum_parts adds.
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

// optimArgs is OptimArgs of optim.cu.
type optimArgs struct {
	p, m, v, most, g, sumSq                      driver.Ptr
	maxNorm                                      float64
	n                                            int64
	kind, late, nesterov                         int32
	keep, l2, lerp, beta2, rest, root, eps, step float32
	lr, momentum, take                           float32
}

// hasRule says whether an update rule is there: AdamW and SGD with all they have,
// with states of 32 bits.
func hasRule(r *kernels.OptimRule) bool {
	return (r.Kind == kernels.AdamW || r.Kind == kernels.SGD) && !r.Bits8
}

// Optim updates all spans as the CPU does, every operation rounded to float32.
func (c *CUDA) Optim(o *kernels.OptimArgs) {
	if !hasRule(&o.OptimRule) {
		c.lacks("this optimizer (adamw and sgd are there, without 8-bit states)")
	}
	t, sumSq := float64(o.Step), f32("optim: sum", o.SumSq, 1)
	for i := range o.Spans {
		s := &o.Spans[i]
		n := s.Rows * s.Cols
		states := o.State(s.Rows, s.Cols, s.Block)
		if len(states) != len(s.State) {
			panic("cuda: optim: a span has another number of states than its rule")
		}
		var at [3]driver.Ptr
		for k, st := range states {
			at[k] = f32("optim: "+st.Name, s.State[k], st.Len)
		}
		a := &optimArgs{p: f32("optim: p", s.P, n), g: f32("optim: g", s.G, n), m: at[0], v: at[1], most: at[2], sumSq: sumSq, maxNorm: o.MaxNorm, n: int64(n),
			kind: int32(o.Kind), late: flag(o.Late), nesterov: flag(o.Nesterov),
			keep: float32(1 - s.LR*s.Decay), lerp: float32(1 - o.Beta1), beta2: float32(o.Beta2), rest: float32(1 - o.Beta2),
			root: float32(math.Sqrt(1 - math.Pow(o.Beta2, t))), eps: float32(o.Eps), step: float32(-s.LR / (1 - math.Pow(o.Beta1, t))),
			lr: float32(s.LR), momentum: float32(o.Beta1), take: float32(1 - o.Dampening)}
		if o.L2 {
			a.keep, a.l2 = 1, float32(s.Decay)
		}
		if o.Kind == kernels.SGD {
			if a.l2 = float32(s.Decay); o.Step == 1 {
				a.take = 1
			}
		}
		each(c, "optim", n, a)
	}
}
