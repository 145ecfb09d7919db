package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Divergence compares rows of logits with a teacher's, a row at a time.
func (c *CPU) Divergence(out *kernels.DivergenceOut, dlogits kernels.Dst, a *kernels.DivergenceArgs) {
	n, v := a.N, a.V
	want("divergence: logits", a.Logits, n*v)
	want("divergence: teacher", a.Teacher, n*v)
	want("divergence: ids", a.TopIDs, n*a.Top)
	want("divergence: log-probabilities", a.TopLogP, n*a.Top)
	want("divergence: coef", a.Coef, n)
	want("divergence: loss", out.Loss, n)
	want("divergence: entropy", out.Entropy, n)
	want("divergence: dlogits", dlogits.Buffer, n*v)
	logits, teacher, ids, logp := f32(a.Logits), f32(a.Teacher), i32(a.TopIDs), f32(a.TopLogP)
	loss, entropy, coef, grad := f32(out.Loss), f32(out.Entropy), f32(a.Coef), f32(dlogits.Buffer)
	for i, id := range ids {
		if id < 0 || int(id) >= v {
			panic(fmt.Sprintf("cpu: divergence: token %d of row %d, vocabulary %d", id, i/a.Top, v))
		}
	}
	scale := float64(orOne(a.Scale))
	par.For(n, max(4, rowGrain(v)/8), func(lo, hi int) {
		r := compared{beta: float64(a.Beta), p: newDistribution(v), q: newDistribution(v)}
		for i := lo; i < hi; i++ {
			r.p.ofLogits(logits[i*v:(i+1)*v], orOne(a.Scale))
			switch {
			case teacher != nil:
				r.q.ofLogits(teacher[i*v:(i+1)*v], orOne(a.TeacherScale))
			case a.Top > 0:
				r.q.ofTop(r.p, ids[i*a.Top:(i+1)*a.Top], logp[i*a.Top:(i+1)*a.Top])
			default:
				r.q.uniform()
			}
			d := r.divergence()
			if loss != nil {
				loss[i] = float32(d)
			}
			if entropy != nil {
				entropy[i] = float32(r.p.entropy())
			}
			if grad != nil && coef != nil {
				r.gradient(grad[i*v:(i+1)*v], dlogits.Add, float64(coef[i])*scale)
			}
		}
	})
}

// distribution is one over tokens: probabilities and their logarithms.
type distribution struct {
	p  []float32
	lp []float64
}

func newDistribution(v int) distribution {
	return distribution{make([]float32, v), make([]float64, v)}
}

// ofLogits is softmax(scale·z).
func (d distribution) ofLogits(z []float32, scale float32) {
	top := vec.Max(z)
	vec.ExpSum(d.p, z, scale, scale*top)
	sum := vec.Sum64(d.p)
	log := math.Log(sum)
	for i, x := range z {
		d.p[i] = float32(float64(d.p[i]) / sum)
		d.lp[i] = float64(scale)*(float64(x)-float64(top)) - log
	}
}

// uniform is the same for every token.
func (d distribution) uniform() {
	for i := range d.p {
		d.p[i], d.lp[i] = float32(1/float64(len(d.p))), -math.Log(float64(len(d.p)))
	}
}

// ofTop is what is known of a teacher's most likely tokens; what they leave is
// dealt to the others as other deals it.
func (d distribution) ofTop(other distribution, ids []int32, logp []float32) {
	copy(d.lp, other.lp)
	copy(d.p, other.p)
	known := 0.0
	for i, id := range ids {
		known += math.Exp(float64(logp[i]))
		d.p[id] = 0
	}
	share := math.Max(1-known, kernels.TailMass) / math.Max(vec.Sum64(d.p), math.SmallestNonzeroFloat32)
	log := math.Log(share)
	for i := range d.p {
		d.p[i], d.lp[i] = float32(float64(d.p[i])*share), d.lp[i]+log
	}
	for i, id := range ids {
		d.p[id], d.lp[id] = float32(math.Exp(float64(logp[i]))), float64(logp[i])
	}
}

// to is KL(d ‖ o). What has no probability counts nothing.
func (d distribution) to(o distribution) float64 {
	sum := 0.0
	for i, p := range d.p {
		if p > 0 {
			sum += float64(p) * (d.lp[i] - o.lp[i])
		}
	}
	return sum
}

func (d distribution) entropy() float64 {
	sum := 0.0
	for i, p := range d.p {
		if p > 0 {
			sum -= float64(p) * d.lp[i]
		}
	}
	return sum
}

// compared is a row of a model, p, and of its teacher, q.
type compared struct {
	beta float64
	p, q distribution
}

// divergence is the loss of the row.
func (r *compared) divergence() float64 {
	switch r.beta {
	case 0:
		return math.Max(0, r.q.to(r.p))
	case 1:
		return math.Max(0, r.p.to(r.q))
	}
	sum := 0.0
	for i, p := range r.p.p {
		lm := r.mixture(i)
		if q := r.q.p[i]; q > 0 {
			sum += r.beta * float64(q) * (r.q.lp[i] - lm)
		}
		if p > 0 {
			sum += (1 - r.beta) * float64(p) * (r.p.lp[i] - lm)
		}
	}
	return math.Max(0, sum)
}

// mixture is the logarithm of beta·q + (1-beta)·p of token i.
func (r *compared) mixture(i int) float64 {
	a, b := math.Log(r.beta)+r.q.lp[i], math.Log1p(-r.beta)+r.p.lp[i]
	if a < b {
		a, b = b, a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// gradient is coef·∂/∂(Scale·logits): of KL(q‖p) p - q; of the others
// p·(g - Σ p·g) with g = log p - log q, and (1-beta)·(log p - log m).
func (r *compared) gradient(dst []float32, add bool, coef float64) {
	if r.beta == 0 {
		for i, p := range r.p.p {
			set(dst, i, float32(coef*(float64(p)-float64(r.q.p[i]))), add)
		}
		return
	}
	g, mean := r.q.lp, 0.0 // q is not read again
	for i, p := range r.p.p {
		other, weight := r.q.lp[i], 1.0
		if r.beta < 1 {
			other, weight = r.mixture(i), 1-r.beta
		}
		g[i] = weight * (r.p.lp[i] - other)
		if p > 0 {
			mean += float64(p) * g[i]
		}
	}
	for i, p := range r.p.p {
		v := 0.0
		if p > 0 {
			v = coef * float64(p) * (g[i] - mean)
		}
		set(dst, i, float32(v), add)
	}
}
