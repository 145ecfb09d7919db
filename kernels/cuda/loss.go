package cuda

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// lossBytes is the most that the logits of one chunk of tokens take.
const lossBytes = 64 << 20

// lossRows is how many tokens have their logits at a time.
func lossRows(n, v int) int { return min(n, max(1, lossBytes/(4*max(v, 1)))) }

type lossArgs struct {
	logits, target, coef, logp, lse, argmax, mean driver.Ptr
	v                                             int32
	softCap, smooth                               float32
	_                                             int32
}

// LogProb makes the logits of a chunk of tokens, their log-probabilities, and in
// their place the gradients of the logits, from which those of x, W and the bias
// follow; chunks are added in order.
func (c *CUDA) LogProb(out *kernels.LogProbOut, dx, dw, dbias kernels.Dst, a *kernels.LogProbArgs) {
	v, cols := a.W.Rows, a.W.Cols
	logp, lse, argmax := f32("logprob: logp", out.LogP, a.N), f32("logprob: lse", out.LSE, a.N), i32("logprob: argmax", out.Argmax, a.N)
	mean := f32("logprob: mean", out.Mean, a.N)
	coef, target := f32("logprob: coef", a.Coef, a.N), i32("logprob: target", a.Target, a.N)
	x, w := c.rowsOf("logprob: x", a.X, a.N, cols), c.matOf("logprob: w", a.W)
	size := lossRows(a.N, v)
	logits := c.scratch(dtype.F32, size*v)
	defer c.Free(logits)
	z := elems{p: ptr(logits)}
	scale := alphaOf(a.Scale)
	if a.N == 0 {
		c.zero(dw, v*cols)
		c.zero(dbias, v)
	}
	for at := 0; at < a.N; at += size {
		n := min(size, a.N-at)
		part := x
		part.row0 = int64(at)
		c.gemm(&gemmArgs{a: part, b: w, c: dest{p: z.p}, bias: elemsOf("logprob: bias", a.Bias, v), m: int32(n), n: int32(v), k: int32(cols), tb: 1, round: rounding(a.BF16, a.F16), alpha: scale}, 1)
		off := func(p driver.Ptr) driver.Ptr {
			if p == 0 {
				return 0
			}
			return p + driver.Ptr(4*at)
		}
		rows(c, "logprob", n, v, 0, &lossArgs{logits: z.p, target: off(target), coef: off(coef), logp: off(logp), lse: off(lse), argmax: off(argmax), mean: off(mean), v: int32(v), softCap: a.SoftCap, smooth: a.Smooth})
		if a.Coef == nil {
			continue
		}
		g := mat{codes: z.p, cols: int32(v)}
		if !dx.Skip() {
			to := destOf("logprob: dx", dx, a.N*cols)
			to.p += driver.Ptr(at * cols * dx.Type().Kind.Info().Bytes)
			c.gemm(&gemmArgs{a: g, b: w, c: to, m: int32(n), n: int32(cols), k: int32(v), round: rounding(a.BF16, a.F16), alpha: scale}, 1)
		}
		if !dw.Skip() {
			to := destOf("logprob: dw", kernels.Dst{Buffer: dw.Buffer, Add: dw.Add || at > 0}, v*cols)
			c.gemm(&gemmArgs{a: g, b: part, c: to, m: int32(v), n: int32(cols), k: int32(n), ta: 1, round: rounding(a.BF16, a.F16), alpha: scale}, 1)
		}
		if !dbias.Skip() {
			c.colSums(destOf("logprob: dbias", kernels.Dst{Buffer: dbias.Buffer, Add: dbias.Add || at > 0}, v), z, elems{}, 0, 1, n, v)
		}
	}
}

// zero writes the sum of nothing.
func (c *CUDA) zero(d kernels.Dst, n int) {
	if !d.Skip() && !d.Add {
		c.Fill(c.Slice(d.Buffer, 0, n), 0)
	}
}

type statsArgs struct {
	x, ref   driver.Ptr
	kl, top1 dest
	v, _     int32
}

// LogitStats compares rows of logits.
func (c *CUDA) LogitStats(kl, top1 kernels.Dst, a *kernels.LogitStatsArgs) {
	rows(c, "logit_stats", a.N, a.V, 0, &statsArgs{x: f32("logit stats: logits", a.Logits, a.N*a.V), ref: f32("logit stats: ref", a.Ref, a.N*a.V),
		kl: destOf("logit stats: kl", kl, a.N), top1: destOf("logit stats: top1", top1, a.N), v: int32(a.V)})
}
