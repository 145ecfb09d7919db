package kerneltest

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// divergenceCase is one comparison; top -1 compares with the uniform distribution.
type divergenceCase struct {
	n, v, top           int
	beta                float32
	scale, teacherScale float32
}

func testDivergence(s *suite) {
	for _, c := range []divergenceCase{
		{n: 1, v: 1},
		{n: 3, v: 37},
		{n: 3, v: 37, beta: 1, scale: 0.5},
		{n: 4, v: 700, beta: 0.5, scale: 2, teacherScale: 0.7},
		{n: 5, v: 90, beta: 0.1},
		{n: 5, v: 90, beta: 0.9},
		{n: 2, v: 33000, beta: 1},
		{n: 4, v: 60, top: -1, beta: 1, scale: 0.8},
		{n: 4, v: 60, top: 5},
		{n: 4, v: 60, top: 5, beta: 1, scale: 1.5},
		{n: 4, v: 60, top: 1, beta: 0.4},
		{n: 2, v: 12, top: 12, beta: 0.5},
	} {
		s.in(fmt.Sprintf("%+v", c), func(s *suite) { s.divergence(c) })
	}
}

func (s *suite) divergence(c divergenceCase) {
	x, teacher, coef := s.normal(c.n*c.v, 2), s.normal(c.n*c.v, 2), s.normal(c.n, 1)
	a := &kernels.DivergenceArgs{N: c.n, V: c.v, Logits: s.up(x), Scale: c.scale, TeacherScale: c.teacherScale, Beta: c.beta}
	var ids []int32
	var logp []float64
	switch {
	case c.top == 0:
		a.Teacher = s.up(teacher)
	case c.top > 0:
		for i := range c.n {
			row := softmax64(teacher[i*c.v:(i+1)*c.v], 1)
			order := make([]int32, c.v)
			for k := range order {
				order[k] = int32(k)
			}
			slices.SortFunc(order, func(a, b int32) int { return int(math.Copysign(1, row[b]-row[a])) })
			for _, id := range order[:c.top] {
				ids, logp = append(ids, id), append(logp, math.Log(row[id]))
			}
		}
		a.Top, a.TopIDs, a.TopLogP = c.top, s.ints(ids), s.up(logp)
	}
	row := func(i int) (loss, entropy float64) {
		p := softmax64(x[i*c.v:(i+1)*c.v], c.scale)
		for _, v := range p {
			entropy -= v * math.Log(v)
		}
		switch {
		case c.top < 0:
			return divergence64(p, softmax64(make([]float64, c.v), 1), float64(c.beta)), entropy
		case c.top == 0:
			return divergence64(p, softmax64(teacher[i*c.v:(i+1)*c.v], c.teacherScale), float64(c.beta)), entropy
		}
		// Of a teacher's top all other tokens are one.
		var known, q []float64
		left, leftQ := 1.0, 1.0
		for k, id := range ids[i*c.top : (i+1)*c.top] {
			v := math.Exp(logp[i*c.top+k])
			known, q = append(known, p[id]), append(q, v)
			left, leftQ = left-p[id], leftQ-v
		}
		if c.top < c.v {
			known, q = append(known, left), append(q, leftQ)
		}
		return divergence64(known, q, float64(c.beta)), entropy
	}
	loss, entropy := make([]float64, c.n), make([]float64, c.n)
	for i := range c.n {
		loss[i], entropy[i] = row(i)
	}
	out := &kernels.DivergenceOut{Loss: s.alloc(dtype.F32, c.n), Entropy: s.alloc(dtype.F32, c.n)}
	s.b.Divergence(out, kernels.Dst{}, a)
	s.near("loss", s.get(out.Loss), loss, 1e-5, 1e-7)
	s.near("entropy", s.get(out.Entropy), entropy, 1e-5, 1e-6)
	a.Coef = s.up(coef)
	grad := gradient(func() float64 {
		sum := 0.0
		for i := range c.n {
			v, _ := row(i)
			sum += coef[i] * v
		}
		return sum
	}, x, s.some(len(x), 30))
	s.check([]result{{name: "dlogits", n: len(x), want: grad, tol: 2e-5, abs: 1e-7}}, func(d []kernels.Dst) {
		s.b.Divergence(&kernels.DivergenceOut{}, d[0], a)
	})
}

// softmax64 are probabilities of scale·z (0: 1).
func softmax64(z []float64, scale float32) []float64 {
	f := float64(scale)
	if f == 0 {
		f = 1
	}
	out, top, sum := make([]float64, len(z)), slices.Max(z), 0.0
	for i, v := range z {
		out[i] = math.Exp(f * (v - top))
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// divergence64 is the generalized Jensen-Shannon divergence of p and a teacher's q.
func divergence64(p, q []float64, beta float64) float64 {
	kl := func(a, b []float64) float64 {
		sum := 0.0
		for i := range a {
			sum += a[i] * math.Log(a[i]/b[i])
		}
		return sum
	}
	switch beta {
	case 0:
		return kl(q, p)
	case 1:
		return kl(p, q)
	}
	m := make([]float64, len(p))
	for i := range m {
		m[i] = beta*q[i] + (1-beta)*p[i]
	}
	return beta*kl(q, m) + (1-beta)*kl(p, m)
}
