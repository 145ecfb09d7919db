package optim

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
)

// Elements is the update of one span under an element-wise rule.
func Elements[F Float](a *Args[F], s *Span[F]) Element[F] {
	switch a.Kind {
	case kernels.AdamW:
		return adamW(a, s)
	case kernels.SGD:
		return sgd(a, s)
	case kernels.RMSprop:
		return rmsProp(a, s)
	case kernels.Adagrad:
		return adagrad(a, s)
	case kernels.Lion:
		return lion(a, s)
	case kernels.AdEMAMix:
		return adEMAMix(a, s)
	case kernels.ADOPT:
		return adopt(a, s)
	case kernels.Adan:
		return adan(a, s)
	case kernels.FreeAdamW, kernels.FreeSGD:
		return free(a, s)
	case kernels.Lerp:
		return lerp(a)
	}
	panic(fmt.Sprintf("optim: %d is no element-wise rule", a.Kind))
}

// keep is what decoupled weight decay leaves of a parameter.
func (s *Span[F]) keep() F { return F(1 - s.LR*s.Decay) }

// adamW is torch.optim.AdamW's single-tensor form, the same operations in the
// same order; with L2 torch.optim.Adam's.
func adamW[F Float](a *Args[F], s *Span[F]) Element[F] {
	keep, l2 := s.keep(), F(0)
	if a.L2 {
		keep, l2 = 1, F(s.Decay)
	}
	lerp, beta2, rest := F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2)
	root, eps := F(math.Sqrt(unbias(a.Beta2, a.Step))), F(a.Eps)
	size := F(-s.LR / unbias(a.Beta1, a.Step))
	return func(p, g []F, st [][]F) {
		m, v := st[0], st[1]
		for i := range p {
			d := F(g[i]*a.Clip) + F(l2*p[i])
			m[i] += F(lerp * (d - m[i]))
			v[i] = F(v[i]*beta2) + F(rest*F(d*d))
			top := v[i]
			if a.AMSGrad {
				st[2][i] = max(st[2][i], v[i])
				top = st[2][i]
			}
			u := F(size*m[i]) / (sqrt(top)/root + eps)
			if a.Late {
				p[i] = (p[i] + u) * keep
			} else {
				p[i] = F(p[i]*keep) + u
			}
		}
	}
}

// sgd is torch.optim.SGD: the decay is added to the gradient, and the first
// momentum is the gradient itself.
func sgd[F Float](a *Args[F], s *Span[F]) Element[F] {
	lr, mu, decay, take := F(s.LR), F(a.Beta1), F(s.Decay), F(1-a.Dampening)
	if a.Step == 1 {
		take = 1
	}
	return func(p, g []F, st [][]F) {
		for i := range p {
			d := F(g[i]*a.Clip) + F(decay*p[i])
			if len(st) > 0 {
				m := blend(mu, st[0][i], take, d)
				st[0][i] = m
				if a.Nesterov {
					d += F(mu * m)
				} else {
					d = m
				}
			}
			p[i] -= F(lr * d)
		}
	}
}

// rmsProp is torch.optim.RMSprop (Tieleman, Hinton 2012); Beta2 is its alpha.
func rmsProp[F Float](a *Args[F], s *Span[F]) Element[F] {
	lr, mu, beta, rest, decay, eps := F(s.LR), F(a.Beta1), F(a.Beta2), F(1-a.Beta2), F(s.Decay), F(a.Eps)
	return func(p, g []F, st [][]F) {
		v := st[0]
		for i := range p {
			d := F(g[i]*a.Clip) + F(decay*p[i])
			v[i] = blend(beta, v[i], rest, F(d*d))
			spread := v[i]
			if a.Centered {
				mean := st[len(st)-1]
				mean[i] += F(rest * (d - mean[i]))
				spread -= F(mean[i] * mean[i])
			}
			d /= sqrt(spread) + eps
			if mu > 0 {
				m := st[1]
				m[i] = F(mu*m[i]) + d
				d = m[i]
			}
			p[i] -= F(lr * d)
		}
	}
}

// adagrad is torch.optim.Adagrad; Eps2 is what the sum of squares begins with.
func adagrad[F Float](a *Args[F], s *Span[F]) Element[F] {
	lr, decay, eps, first := F(s.LR), F(s.Decay), F(a.Eps), F(a.Eps2)
	return func(p, g []F, st [][]F) {
		v := st[0]
		for i := range p {
			d := F(g[i]*a.Clip) + F(decay*p[i])
			v[i] += F(d * d)
			p[i] -= F(lr*d) / (sqrt(v[i]+first) + eps)
		}
	}
}

func lion[F Float](a *Args[F], s *Span[F]) Element[F] {
	keep, lr := s.keep(), F(s.LR)
	b1, r1, b2, r2 := F(a.Beta1), F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2)
	return func(p, g []F, st [][]F) {
		m := st[0]
		for i := range p {
			d := g[i] * a.Clip
			u := blend(b1, m[i], r1, d)
			p[i] *= keep
			if math.Abs(float64(u)) > 0 { // no branch on its sign, which no processor foresees
				p[i] -= F(math.Copysign(float64(lr), float64(u)))
			}
			m[i] = blend(b2, m[i], r2, d)
		}
	}
}

// adEMAMix adds a slow average to the unbiased fast one. Alpha and Beta3 may
// rise over the steps.
func adEMAMix[F Float](a *Args[F], s *Span[F]) Element[F] {
	keep, lr, eps, alpha := s.keep(), F(s.LR), F(a.Eps), F(a.Alpha)
	b1, r1, b2, r2, b3, r3 := F(a.Beta1), F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2), F(a.Beta3), F(1-a.Beta3)
	c1, root := F(unbias(a.Beta1, a.Step)), F(math.Sqrt(unbias(a.Beta2, a.Step)))
	return func(p, g []F, st [][]F) {
		m, slow, v := st[0], st[1], st[2]
		for i := range p {
			d := g[i] * a.Clip
			m[i], slow[i], v[i] = blend(b1, m[i], r1, d), blend(b3, slow[i], r3, d), blend(b2, v[i], r2, F(d*d))
			u := (m[i]/c1 + F(alpha*slow[i])) / (sqrt(v[i])/root + eps)
			p[i] = F(p[i]*keep) - F(lr*u)
		}
	}
}

// adopt divides by the second moment of the step before; its first step only
// looks. Normed gradients are kept within step^¼.
func adopt[F Float](a *Args[F], s *Span[F]) Element[F] {
	keep, l2, lr, least := s.keep(), F(0), F(s.LR), F(a.Eps)
	if a.L2 {
		keep, l2 = 1, F(s.Decay)
	}
	r1, b2, r2 := F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2)
	limit := F(math.Pow(float64(a.Step), 0.25))
	return func(p, g []F, st [][]F) {
		m, v := st[0], st[1]
		for i := range p {
			d := F(g[i]*a.Clip) + F(l2*p[i])
			p[i] *= keep
			if a.Step == 1 {
				v[i] = F(d * d)
				continue
			}
			u := min(max(d/max(sqrt(v[i]), least), -limit), limit)
			m[i] += F(r1 * (u - m[i]))
			p[i] -= F(lr * m[i])
			v[i] = blend(b2, v[i], r2, F(d*d))
		}
	}
}

// adan has moments of the gradient, of its change, and of the square of what
// Nesterov's step would be; the decay is proximal.
func adan[F Float](a *Args[F], s *Span[F]) Element[F] {
	b1, r1, b2, r2, b3, r3 := F(a.Beta1), F(1-a.Beta1), F(a.Beta2), F(1-a.Beta2), F(a.Beta3), F(1-a.Beta3)
	root, eps := F(math.Sqrt(unbias(a.Beta3, a.Step))), F(a.Eps)
	size, sizeDiff := F(s.LR/unbias(a.Beta1, a.Step)), F(s.LR*a.Beta2/unbias(a.Beta2, a.Step))
	shrink := F(1 + s.LR*s.Decay)
	return func(p, g []F, st [][]F) {
		m, diff, v, last := st[0], st[1], st[2], st[3]
		for i := range p {
			d, change := g[i]*a.Clip, F(0)
			if a.Step > 1 {
				change = d - last[i]
			}
			m[i], diff[i] = blend(b1, m[i], r1, d), blend(b2, diff[i], r2, change)
			n := d + F(b2*change)
			v[i] = blend(b3, v[i], r3, F(n*n))
			den := sqrt(v[i])/root + eps
			p[i] = (p[i] - F(size*m[i])/den - F(sizeDiff*diff[i])/den) / shrink
			last[i] = d
		}
	}
}

// free is one step of the schedule-free rules: P holds y, where gradients are
// taken, the first state z. What is evaluated is x = z + (y - z)/β₁.
func free[F Float](a *Args[F], s *Span[F]) Element[F] {
	lr, decay, eps, share := F(s.LR), F(s.Decay), F(a.Eps), F(a.Average)
	size := F(s.LR * (a.Beta1*(1-a.Average) - 1))
	b2, r2, root := F(a.Beta2), F(1-a.Beta2), F(math.Sqrt(unbias(a.Beta2, a.Step)))
	return func(p, g []F, st [][]F) {
		z := st[0]
		for i := range p {
			d := g[i] * a.Clip
			if a.Kind == kernels.FreeAdamW {
				v := st[1]
				v[i] = blend(b2, v[i], r2, F(d*d))
				d /= sqrt(v[i])/root + eps
			}
			d += F(decay * p[i])
			p[i] = p[i] + F(share*(z[i]-p[i])) + F(size*d)
			z[i] -= F(lr * d)
		}
	}
}

func lerp[F Float](a *Args[F]) Element[F] {
	share := F(a.Beta1)
	return func(p, g []F, _ [][]F) {
		for i := range p {
			p[i] += F(share * (F(g[i]*a.Clip) - p[i]))
		}
	}
}
