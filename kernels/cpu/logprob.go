package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// logProbElems bounds the logits held at a time: 256 MB of them. A vocabulary of 262144 is
// then read for 256 rows at a time; of fewer, packing it takes an eighth of the whole step.
const logProbElems = 64 << 20

// logProbRows is how many rows of logits are made at a time, by shape alone:
// enough for the product to run at speed, never [N, V].
func logProbRows(n, v int) int {
	return max(1, min(n, 512, max(32, logProbElems/max(v, 1)/32*32)))
}

// LogProb counts the logits held at a time, with x and dx of their tokens where others
// are left out, and the largest of their products.
func (w working) LogProb(l kernels.LogProbShape) int64 {
	if l.Answered == 0 {
		return 0
	}
	rows := logProbRows(l.Answered, l.V)
	most, x := int64(0), l.X
	if l.Answered < l.N { // gathered
		x = dtype.F32
	}
	for _, n := range []int{rows, l.Answered % rows} {
		most = max(most, w.Product(kernels.ProductShape{M: n, N: l.V, K: l.C, TB: true, BF16: l.BF16, F16: l.F16, A: x, B: l.W}))
		if l.DX {
			most = max(most, w.Product(kernels.ProductShape{M: n, N: l.C, K: l.V, BF16: l.BF16, F16: l.F16, A: dtype.F32, B: l.W}))
		}
		if l.DW {
			most = max(most, w.Product(kernels.ProductShape{M: l.V, N: l.C, K: n, TA: true, BF16: l.BF16, F16: l.F16, A: dtype.F32, B: x}))
		}
	}
	extra := b2i(l.Answered < l.N) * roundUp(rows*l.C, 16)
	return workspaceBytes(rows*l.V+2*extra) + most
}

// logProb is one call.
type logProb struct {
	*kernels.LogProbArgs
	c           *CPU
	v, cols     int
	scale       float32
	x           plain
	bias, coef  []float32
	logp, lse   []float32
	mean        []float32
	target, arg []int32
	logits      []float32
	tokens      []int32   // the rows that count; nil: all
	xs, ds      []float32 // with tokens: their x and dx
	dx, dw      kernels.Dst
	dbias       kernels.Dst
}

// LogProb: the head and the loss, a few rows of logits at a time; with Coef
// the gradients of Σ Coef·(-log p) from the same logits. Where neither LSE nor
// Argmax is asked for, tokens without a target cost nothing.
func (c *CPU) LogProb(out *kernels.LogProbOut, dx, dw, dbias kernels.Dst, a *kernels.LogProbArgs) {
	l := &logProb{LogProbArgs: a, c: c, v: a.W.Rows, cols: a.W.Cols, scale: orOne(a.Scale)}
	if a.Coef != nil {
		l.dx, l.dw, l.dbias = dx, dw, dbias
	}
	l.check(out)
	l.x, l.bias, l.coef, l.target = plainOf(a.X), f32(a.Bias), f32(a.Coef), i32(a.Target)
	l.logp, l.lse, l.arg, l.mean = f32(out.LogP), f32(out.LSE), i32(out.Argmax), f32(out.Mean)
	n := a.N
	if l.choose() {
		n = len(l.tokens)
		l.clearOthers()
	}
	if n == 0 {
		l.nothing()
		return
	}
	rows := logProbRows(n, l.v)
	extra := b2i(l.tokens != nil) * roundUp(rows*l.cols, 16)
	s := c.workspace(rows*l.v + 2*extra)
	defer s.free()
	l.logits = s.take(rows * l.v)
	if l.tokens != nil {
		l.xs, l.ds = s.take(rows*l.cols), s.take(rows*l.cols)
	}
	for r := 0; r < n; r += rows {
		l.chunk(r, min(rows, n-r))
	}
}

// choose lists the tokens with a target, when the others need no answer.
func (l *logProb) choose() bool {
	if l.lse != nil || l.arg != nil {
		return false
	}
	var list []int32
	for i, t := range l.target[:l.N] {
		if t >= 0 {
			list = append(list, int32(i))
		}
	}
	if len(list) == l.N {
		return false
	}
	l.tokens = list
	return true
}

// clearOthers writes the results of tokens without a target.
func (l *logProb) clearOthers() {
	d := plainOf(l.dx.Buffer)
	zeros := make([]float32, l.cols)
	for i, t := range l.target[:l.N] {
		if t >= 0 {
			continue
		}
		for _, out := range [][]float32{l.logp, l.mean} {
			if out != nil {
				out[i] = 0
			}
		}
		if !l.dx.Skip() && !l.dx.Add {
			d.store(zeros, i*l.cols, false, nil)
		}
	}
}

// nothing overwrites dw and dbias with zeros when no row contributes.
func (l *logProb) nothing() {
	if !l.dw.Skip() && !l.dw.Add {
		clear(f32(l.dw.Buffer)[:l.v*l.cols])
	}
	if !l.dbias.Skip() && !l.dbias.Add {
		clear(f32(l.dbias.Buffer)[:l.v])
	}
}

// token is the token of row i of those that count.
func (l *logProb) token(i int) int {
	if l.tokens != nil {
		return int(l.tokens[i])
	}
	return i
}

func (l *logProb) check(out *kernels.LogProbOut) {
	want("logprob: x", l.X, l.N*l.cols)
	want("logprob: target", l.Target, l.N)
	want("logprob: coef", l.Coef, l.N)
	want("logprob: logp", out.LogP, l.N)
	want("logprob: lse", out.LSE, l.N)
	want("logprob: argmax", out.Argmax, l.N)
	want("logprob: mean", out.Mean, l.N)
	want("logprob: bias", l.Bias, l.v)
	want("logprob: dx", l.dx.Buffer, l.N*l.cols)
	want("logprob: dw", l.dw.Buffer, l.v*l.cols)
	want("logprob: dbias", l.dbias.Buffer, l.v)
	for i, t := range i32(l.Target)[:l.N] {
		if int(t) >= l.v {
			panic(fmt.Sprintf("cpu: logprob: target %d of token %d, vocabulary %d", t, i, l.v))
		}
	}
}

// chunk does rows [r, r+n).
func (l *logProb) chunk(r, n int) {
	xs := l.gather(r, n)
	l.c.gemm(l.logits, l.v, n, l.v, false,
		product{k: l.cols, a: xs.lines(l.cols), b: weight(l.W, false), alpha: l.scale, bf16: l.BF16, f16: l.F16})
	grads := !(l.dx.Skip() && l.dw.Skip() && l.dbias.Skip())
	par.For(n, 1, func(lo, hi int) {
		var slope []float32
		if l.SoftCap > 0 {
			slope = l.c.scratch.take(l.v)
			defer l.c.scratch.give(slope)
		}
		for i := lo; i < hi; i++ {
			z := l.logits[i*l.v:][:l.v]
			l.finish(z, slope)
			l.row(l.token(r+i), z, slope, grads)
		}
	})
	if !l.dx.Skip() {
		l.inputGrad(r, n)
	}
	if !l.dw.Skip() {
		l.c.gemm(f32(l.dw.Buffer), l.cols, l.v, l.cols, l.dw.Add || r > 0,
			product{k: n, a: colsF32(l.logits, l.v), b: xs.columns(l.cols), alpha: l.scale, bf16: l.BF16, f16: l.F16})
	}
	if !l.dbias.Skip() {
		columnSums(f32(l.dbias.Buffer), plain{f: l.logits}, n, l.v, l.dbias.Add || r > 0)
	}
}

// gather returns x of rows [r, r+n).
func (l *logProb) gather(r, n int) plain {
	if l.tokens == nil {
		return l.x.from(r * l.cols)
	}
	for i, t := range l.tokens[r : r+n] {
		l.x.copy(l.xs[i*l.cols:][:l.cols], int(t)*l.cols)
	}
	return plain{f: l.xs}
}

// inputGrad writes or adds dx of rows [r, r+n).
func (l *logProb) inputGrad(r, n int) {
	p := product{k: l.v, a: rowsF32(l.logits, l.v), b: weight(l.W, true), alpha: l.scale, bf16: l.BF16, f16: l.F16}
	if l.tokens == nil {
		dx := kernels.Dst{Buffer: l.c.Slice(l.dx.Buffer, r*l.cols, n*l.cols), Add: l.dx.Add}
		l.c.gemmTo(dx, n, l.cols, p)
		return
	}
	l.c.gemm(l.ds, l.cols, n, l.cols, false, p)
	d, tmp := plainOf(l.dx.Buffer), make([]float32, l.cols)
	for i, t := range l.tokens[r : r+n] {
		d.store(l.ds[i*l.cols:][:l.cols], int(t)*l.cols, l.dx.Add, tmp)
	}
}

// finish makes logits of products: with the bias, and squeezed, which has a slope.
func (l *logProb) finish(z, slope []float32) {
	if l.bias != nil {
		vec.Lin2(z, 1, z, 1, l.bias[:l.v])
	}
	if l.SoftCap > 0 {
		vec.MulScale(z, z, nil, 1/l.SoftCap)
		vec.Tanh.Slope(z, slope, z)
		vec.MulScale(z, z, nil, l.SoftCap)
	}
}

// row reads the logits of token i and, with grads, turns them into gradients.
func (l *logProb) row(i int, z, slope []float32, grads bool) {
	top, first := largestOf(z)
	target := int(l.target[i])
	if l.arg != nil {
		l.arg[i] = first
	}
	score := z[max(target, 0)]
	mean := 0.0
	if l.mean != nil {
		mean = vec.Sum64(z) / float64(l.v)
	}
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
	if l.mean != nil {
		l.mean[i] = 0
		if target >= 0 {
			l.mean[i] = float32(mean - float64(top) - math.Log(sum))
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
	if l.Smooth > 0 {
		each := float32(l.coef[i]*l.Smooth) / float32(l.v)
		for k := range z {
			z[k] -= each
		}
	}
	z[target] -= float32(l.coef[i] * (1 - l.Smooth))
	if l.SoftCap > 0 {
		vec.MulScale(z, z, slope, 1)
	}
}

// largestOf is the largest element of z and the lowest index that has it; 0 where
// there is none. Parts are read twice at most, the second time from the first cache.
func largestOf(z []float32) (top float32, first int32) {
	const part = 4 << 10
	top, at := float32(math.Inf(-1)), 0
	for i := 0; i < len(z); i += part {
		if v := vec.Max(z[i:min(i+part, len(z))]); v > top {
			top, at = v, i
		}
	}
	for i, v := range z[at:min(at+part, len(z))] {
		if v == top {
			return top, int32(at + i)
		}
	}
	return top, 0
}
