package train

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// muon is torch.optim.Muon (Jordan et al. 2024): a momentum whose singular values
// become about 1 by five steps of Newton and Schulz, here in float32 where torch
// rounds to bfloat16. What is no matrix of a linear map has AdamW.
type muon struct {
	*optimizer
	m       map[*param]kernels.Buffer // momenta
	scratch workspace
}

func newMuon(o *optimizer) matrixRule { return &muon{optimizer: o, m: map[*param]kernels.Buffer{}} }

func (u *muon) takes(p *param) bool { return p.matrix }

func (u *muon) add(p *param) (err error) {
	u.m[p], err = u.keep("m of "+p.Name, dtype.Of(dtype.F32), p.Len())
	short := min(p.Rows, p.Cols)
	if err == nil {
		err = u.scratch.want(u.optimizer, p.Len(), p.Len(), short*short, short*short)
	}
	return err
}

// Coefficients of a step of Newton and Schulz, and the least norm divided by.
var newtonSchulz = [3]float32{3.4445, -4.7750, 2.0315}

const leastNorm = 1e-7

func (u *muon) step(p *param, _ int, lr float64, clip float32) error {
	a, mu := &u.c.OptimArgs, float32(*u.c.Momentum)
	n, rows, cols, m := p.Len(), p.Rows, p.Cols, u.m[p]
	x, y, gram, poly := u.scratch[0], u.scratch[1], u.scratch[2], u.scratch[3]
	err := u.dev.Run(func() error {
		u.dev.Add(kernels.To(m), &kernels.AddArgs{N: n, A: m, B: p.Grad, Alpha: mu, Beta: (1 - mu) * clip})
		if value(a.Nesterov, true) {
			u.dev.Add(kernels.To(x), &kernels.AddArgs{N: n, A: p.Grad, B: m, Alpha: (1 - mu) * clip, Beta: mu})
		} else {
			u.copy(x, m, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	norm, err := u.normOf(x, n)
	if err != nil {
		return err
	}
	return u.dev.Run(func() error {
		u.dev.Add(kernels.To(x), &kernels.AddArgs{N: n, A: x, Alpha: float32(1 / max(norm, leastNorm))})
		short, tall := min(rows, cols), rows > cols
		for range value(a.NSSteps, 5) {
			// gram = X·Xᵀ over the shorter side, poly = b·gram + c·gram², X = a·X + poly·X
			u.dev.Gemm(kernels.To(gram), &kernels.GemmArgs{A: x, B: x, TA: tall, TB: !tall, M: short, N: short, K: n / short, Alpha: 1})
			u.dev.Add(kernels.To(poly), &kernels.AddArgs{N: short * short, A: gram, Alpha: newtonSchulz[1]})
			u.dev.Gemm(kernels.Into(poly), &kernels.GemmArgs{A: gram, B: gram, M: short, N: short, K: short, Alpha: newtonSchulz[2]})
			u.dev.Add(kernels.To(y), &kernels.AddArgs{N: n, A: x, Alpha: newtonSchulz[0]})
			if tall {
				u.dev.Gemm(kernels.Into(y), &kernels.GemmArgs{A: x, B: poly, M: rows, N: cols, K: cols, Alpha: 1})
			} else {
				u.dev.Gemm(kernels.Into(y), &kernels.GemmArgs{A: poly, B: x, M: rows, N: cols, K: rows, Alpha: 1})
			}
			x, y = y, x
		}
		size := lr * math.Sqrt(max(1, float64(rows)/float64(cols)))
		if a.AdjustLRFn == "match_rms_adamw" {
			size = lr * 0.2 * math.Sqrt(float64(max(rows, cols)))
		}
		u.dev.Add(kernels.To(p.Buffer), &kernels.AddArgs{N: n, A: p.Buffer, B: x, Alpha: float32(1 - lr*p.decay), Beta: float32(-size)})
		return nil
	})
}

// workspace are buffers that the updates of single matrices use in turn.
type workspace []kernels.Buffer

// want makes buffer i at least as long as lens[i].
func (w *workspace) want(o *optimizer, lens ...int) error {
	for i, n := range lens {
		if i == len(*w) {
			*w = append(*w, nil)
		}
		if b := (*w)[i]; b != nil && b.Len() >= n {
			continue
		}
		if b := (*w)[i]; b != nil {
			o.disown(b)
		}
		b, err := o.own(kernels.Scratch, dtype.Of(dtype.F32), n)
		if err != nil {
			return err
		}
		(*w)[i] = b
	}
	return nil
}
