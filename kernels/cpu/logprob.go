package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// logProbElems bounds the logits held at a time: 128 MB of them.
const logProbElems = 32 << 20

// logProbRows is how many rows of logits are made at a time, by shape alone:
// enough for the product to run at speed, never [N, V].
func logProbRows(n, v int) int {
	return max(1, min(n, 512, max(32, logProbElems/max(v, 1)/32*32)))
}

// logProb is one call.
type logProb struct {
	*kernels.LogProbArgs
	c           *CPU
	v, cols     int
	scale       float32
	x, coef     []float32
	logp, lse   []float32
	target, arg []int32
	logits      []float32
}

// LogProb: the head and the loss, a few rows of logits at a time; with Coef
// the gradients of Σ Coef·(-log p) from the same logits.
func (c *CPU) LogProb(out *kernels.LogProbOut, dx, dw kernels.Dst, a *kernels.LogProbArgs) {
	if a.N == 0 {
		c.logProbEmpty(dw, a)
		return
	}
	l := &logProb{LogProbArgs: a, c: c, v: a.W.Rows, cols: a.W.Cols, scale: orOne(a.Scale)}
	l.check(out, dx, dw)
	l.x, l.coef, l.target = f32(a.X), f32(a.Coef), i32(a.Target)
	l.logp, l.lse, l.arg = f32(out.LogP), f32(out.LSE), i32(out.Argmax)
	rows := logProbRows(a.N, l.v)
	s := c.workspace(rows * l.v)
	defer s.free()
	l.logits = s.take(rows * l.v)
	for r := 0; r < a.N; r += rows {
		l.chunk(r, min(rows, a.N-r), dx, dw)
	}
}

// logProbEmpty overwrites dw with zeros when there are no rows.
func (c *CPU) logProbEmpty(dw kernels.Dst, a *kernels.LogProbArgs) {
	if !dw.Skip() && !dw.Add && a.Coef != nil {
		clear(f32(dw.Buffer)[:a.W.Rows*a.W.Cols])
	}
}

func (l *logProb) check(out *kernels.LogProbOut, dx, dw kernels.Dst) {
	want("logprob: x", l.X, l.N*l.cols)
	want("logprob: target", l.Target, l.N)
	want("logprob: coef", l.Coef, l.N)
	want("logprob: logp", out.LogP, l.N)
	want("logprob: lse", out.LSE, l.N)
	want("logprob: argmax", out.Argmax, l.N)
	if !dx.Skip() {
		want("logprob: dx", dx.Buffer, l.N*l.cols)
	}
	if !dw.Skip() {
		want("logprob: dw", dw.Buffer, l.v*l.cols)
	}
	for i, t := range i32(l.Target)[:l.N] {
		if int(t) >= l.v {
			panic(fmt.Sprintf("cpu: logprob: target %d of token %d, vocabulary %d", t, i, l.v))
		}
	}
}

// chunk does rows [r, r+n).
func (l *logProb) chunk(r, n int, dx, dw kernels.Dst) {
	x := rowsF32(l.x[r*l.cols:], l.cols)
	l.c.gemm(l.logits, l.v, n, l.v, false,
		product{k: l.cols, a: x, b: weight(l.W, false), alpha: l.scale, bf16: l.BF16})
	grads := l.coef != nil && !(dx.Skip() && dw.Skip())
	par.For(n, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			l.row(r+i, l.logits[i*l.v:][:l.v], grads)
		}
	})
	if !grads {
		return
	}
	if !dx.Skip() {
		l.c.gemm(f32(dx.Buffer)[r*l.cols:], l.cols, n, l.cols, dx.Add,
			product{k: l.v, a: rowsF32(l.logits, l.v), b: weight(l.W, true), alpha: l.scale, bf16: l.BF16})
	}
	if !dw.Skip() {
		x.across = true
		l.c.gemm(f32(dw.Buffer), l.cols, l.v, l.cols, dw.Add || r > 0,
			product{k: n, a: colsF32(l.logits, l.v), b: x, alpha: l.scale, bf16: l.BF16})
	}
}

// row reads the logits of token i and, with grads, turns them into gradients.
func (l *logProb) row(i int, z []float32, grads bool) {
	top, target := vec.Max(z), int(l.target[i])
	if l.arg != nil {
		l.arg[i] = firstOf(z, top)
	}
	score := z[max(target, 0)]
	sum := float64(vec.ExpSum(z, z, 1, top))
	if l.lse != nil {
		l.lse[i] = float32(float64(top) + math.Log(sum))
	}
	if l.logp != nil {
		l.logp[i] = 0
		if target >= 0 {
			l.logp[i] = float32(float64(score-top) - math.Log(sum))
		}
	}
	if !grads {
		return
	}
	if target < 0 || l.coef[i] == 0 {
		clear(z)
		return
	}
	vec.Lin2(z, float32(float64(l.coef[i])/sum), z, 0, nil)
	z[target] -= l.coef[i]
}

// firstOf is the lowest index at which z has the value v; 0 when it has none.
func firstOf(z []float32, v float32) int32 {
	for i, x := range z {
		if x == v {
			return int32(i)
		}
	}
	return 0
}
