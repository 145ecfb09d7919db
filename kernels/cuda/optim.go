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

type optimArgs struct {
	p, m, v, g, sumSq                            driver.Ptr
	maxNorm                                      float64
	n                                            int64
	kind                                         int32
	keep, lerp, beta2, oneBeta2, root, eps, step float32
	lr, momentum, decay                          float32
	_p                                           int32
}

// Optim updates all spans as the CPU does, every operation rounded to float32.
func (c *CUDA) Optim(o *kernels.OptimArgs) {
	t := float64(o.Step)
	if o.Kind > kernels.SGD {
		c.lacks("this optimizer")
	}
	sumSq := f32("optim: sum", o.SumSq, 1)
	for i := range o.Spans {
		s := &o.Spans[i]
		n := s.P.Len()
		at := func(b kernels.Buffer) driver.Ptr {
			if b == nil {
				return 0
			}
			return f32("optim", b, s.Off+n) + driver.Ptr(4*s.Off)
		}
		each(c, "optim", n, &optimArgs{p: f32("optim: p", s.P, n), g: at(o.G), m: at(o.M), v: at(o.V), sumSq: sumSq, maxNorm: o.MaxNorm, n: int64(n), kind: int32(o.Kind),
			keep: float32(1 - s.LR*s.Decay), lerp: float32(1 - o.Beta1), beta2: float32(o.Beta2), oneBeta2: float32(1 - o.Beta2),
			root: float32(math.Sqrt(1 - math.Pow(o.Beta2, t))), eps: float32(o.Eps), step: float32(-s.LR / (1 - math.Pow(o.Beta1, t))),
			lr: float32(s.LR), momentum: float32(o.Beta1), decay: float32(s.Decay)})
	}
}
