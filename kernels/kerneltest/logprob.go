package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// logProbCase is one head and loss.
type logProbCase struct {
	n, c, v int
	t       dtype.Type
	scale   float32
	bf16    bool
	f16     bool
	bias    bool
	softCap float32
	smooth  float32
}

func testLogProb(s *suite) {
	for _, c := range []logProbCase{
		{n: 1, c: 3, v: 5},
		{n: 7, c: 16, v: 33, scale: 0.5},
		{n: 40, c: 24, v: 1000},
		{n: 30, c: 32, v: 200, t: dtype.Of(dtype.BF16), scale: 1, bf16: true},
		{n: 30, c: 32, v: 200, scale: 1, f16: true},
		{n: 30, c: 64, v: 200, t: dtype.NF4Double},
		{n: 20, c: 16, v: 70, bias: true, scale: 0.5},
		{n: 20, c: 16, v: 70, softCap: 3},
		{n: 530, c: 8, v: 40, bias: true, softCap: 10},
		{n: 20, c: 16, v: 70, bias: true, scale: 0.5, smooth: 0.1},
		{n: 20, c: 16, v: 70, softCap: 3, smooth: 0.5},
	} {
		if s.large(c.n * c.c * c.v) {
			continue
		}
		s.in(fmt.Sprintf("%+v", c), func(s *suite) { s.logProb(c) })
	}
}

// logp64 are the log-probabilities of the targets, the log-sum-exps and the
// first largest logits of each row.
func logp64(logits []float64, target []int32, v int) (logp, lse []float64, arg []int32) {
	for i, t := range target {
		row := logits[i*v : (i+1)*v]
		top := 0
		for j, x := range row {
			if x > row[top] {
				top = j
			}
		}
		var sum float64
		for _, x := range row {
			sum += math.Exp(x - row[top])
		}
		l := row[top] + math.Log(sum)
		p := 0.0
		if t >= 0 {
			p = row[t] - l
		}
		logp, lse, arg = append(logp, p), append(lse, l), append(arg, int32(top))
	}
	return logp, lse, arg
}

// mean64 are the means of log-probabilities over the vocabulary, 0 where there is no target.
func mean64(logits, lse []float64, target []int32, v int) []float64 {
	out := make([]float64, len(target))
	for i, t := range target {
		if t < 0 {
			continue
		}
		for _, x := range logits[i*v : (i+1)*v] {
			out[i] += (x - lse[i]) / float64(v)
		}
	}
	return out
}

// logits64 is scale·x·wᵀ + bias, squeezed where softCap is set, with the slopes.
func logits64(x, w, bias []float64, c *logProbCase, scale float64) (z, slope []float64) {
	z, slope = scaled(matmul64(x, w, false, true, c.n, c.v, c.c), scale), make([]float64, c.n*c.v)
	cap := float64(c.softCap)
	for i := range z {
		slope[i] = 1
		if bias != nil {
			z[i] += bias[i%c.v]
		}
		if cap > 0 {
			t := math.Tanh(z[i] / cap)
			z[i], slope[i] = cap*t, 1-t*t
		}
	}
	return z, slope
}

func (s *suite) logProb(c logProbCase) {
	w, wx := s.weights(c.t, c.v, c.c, 1)
	x, coef := s.normal(c.n*c.c, 1), s.normal(c.n, 1)
	target := make([]int32, c.n)
	for i := range target {
		target[i] = int32(s.rng.IntN(c.v+1)) - 1
	}
	target[0] = int32(c.v - 1)
	a := &kernels.LogProbArgs{N: c.n, X: s.up(x), W: w, Target: s.ints(target), Scale: c.scale, SoftCap: c.softCap, BF16: c.bf16, F16: c.f16, Smooth: c.smooth}
	var bias []float64
	if c.bias {
		bias = s.normal(c.v, 1)
		a.Bias = s.up(bias)
	}
	// Logits of size 10 carry an absolute error of 1e-6, which exp makes relative.
	scale, tol, round := float64(c.scale), 3*f32Tol, func(x []float64) []float64 { return x }
	if scale == 0 {
		scale = 1
	}
	switch {
	case c.bf16:
		tol, round = 5e-3, roundBF16
	case c.f16:
		tol, round = 1e-3, roundF16
	}
	logits, slope := logits64(round(x), round(wx), bias, &c, scale)
	logp, lse, arg := logp64(logits, target, c.v)
	mean := mean64(logits, lse, target, c.v)
	out := &kernels.LogProbOut{LogP: s.alloc(dtype.F32, c.n), Mean: s.alloc(dtype.F32, c.n), LSE: s.alloc(dtype.F32, c.n), Argmax: s.alloc(dtype.I32, c.n)}
	s.b.LogProb(out, kernels.Dst{}, kernels.Dst{}, kernels.Dst{}, a)
	s.close("logp", s.get(out.LogP), logp, tol)
	s.close("lse", s.get(out.LSE), lse, tol)
	s.close("mean", s.get(out.Mean), mean, tol)
	for i, v := range s.getInts(out.Argmax) {
		if v != arg[i] && !c.bf16 && !c.f16 {
			s.Errorf("argmax of row %d is %d, want %d", i, v, arg[i])
		}
	}
	a.Coef = s.up(coef)
	dlogits, dbias := make([]float64, c.n*c.v), make([]float64, c.v)
	for i := range dlogits {
		n, j := i/c.v, i%c.v
		if target[n] >= 0 {
			dlogits[i] = coef[n] * (math.Exp(logits[i]-lse[n]) - float64(c.smooth)/float64(c.v))
		}
		if int(target[n]) == j {
			dlogits[i] -= coef[n] * (1 - float64(c.smooth))
		}
		dlogits[i] *= slope[i]
		dbias[j] += dlogits[i]
	}
	s.check([]result{
		{name: "dx", n: len(x), want: scaled(matmul64(round(dlogits), round(wx), false, false, c.n, c.c, c.v), scale), tol: tol},
		{name: "dw", n: len(wx), want: scaled(matmul64(round(dlogits), round(x), true, false, c.v, c.c, c.n), scale), tol: tol},
		{name: "dbias", n: c.v, want: dbias, tol: tol},
	}, func(d []kernels.Dst) { s.b.LogProb(&kernels.LogProbOut{}, d[0], d[1], d[2], a) })
	if !c.bf16 && !c.f16 {
		s.logProbDifferences(&c, a, x, wx, bias, coef, scale, tol, target)
	}
}

// logProbDifferences checks gradients against differences of the loss.
func (s *suite) logProbDifferences(c *logProbCase, a *kernels.LogProbArgs, x, w, bias, coef []float64, scale, tol float64, target []int32) {
	loss := func() float64 {
		z, _ := logits64(x, w, bias, c, scale)
		p, lse, _ := logp64(z, target, c.v)
		return -(1-float64(c.smooth))*dot(coef, p) - float64(c.smooth)*dot(coef, mean64(z, lse, target, c.v))
	}
	dx, dbias := s.up(make([]float64, len(x))), s.up(make([]float64, c.v))
	s.b.LogProb(&kernels.LogProbOut{}, kernels.To(dx), kernels.Dst{}, kernels.To(dbias), a)
	s.close("dx against differences", s.get(dx), gradient(loss, x, []int{0, len(x) / 2, len(x) - 1}), tol)
	if bias != nil {
		s.close("dbias against differences", s.get(dbias), gradient(loss, bias, []int{0, c.v - 1}), tol)
	}
}
