package merge

import (
	"math"
	"slices"
)

// sce keeps the values on which the models differ most (select_topk), weighs the
// models by their mean square, and adds what agrees in sign (Wan et al. 2024,
// arXiv:2408.07990).
func sce(t *tensor) ([]float32, error) {
	if len(t.in) == 0 {
		return t.base, nil
	}
	t.subtract()
	if top := t.all["select_topk"]; top < 1 {
		t.selectTop(top)
	}
	ws, total := make([]float32, len(t.in)), 0.0
	squares := make([]float64, len(t.in))
	for j, p := range t.in {
		squares[j] = dot(p.w, p.w) / float64(len(p.w))
		total += squares[j]
	}
	for j := range ws {
		if ws[j] = float32(1 / float64(len(ws))); total >= 1e-6 {
			ws[j] = float32(squares[j] / total)
		}
	}
	each(len(t.base), func(i int) {
		all := float32(0)
		for _, p := range t.in {
			all += p.w[i]
		}
		merged, weight := float32(0), float32(0)
		for j, p := range t.in {
			if x := p.w[i]; x > 0 && all >= 0 || x < 0 && all < 0 {
				merged += float32(x * ws[j])
				weight += ws[j]
			}
		}
		t.base[i] += merged / max(weight, 1e-6)
	})
	return t.base, nil
}

// selectTop sets all differences to 0 but those at the share top of the places
// where the models differ, where they differ most.
func (t *tensor) selectTop(top float64) {
	spread := make([]float32, len(t.base))
	each(len(spread), func(i int) { // variance over the models, by Welford
		mean, m2 := 0.0, 0.0
		for j, p := range t.in {
			d := float64(p.w[i]) - mean
			mean += d / float64(j+1)
			m2 += float64(d * (float64(p.w[i]) - mean))
		}
		spread[i] = float32(m2 / float64(len(t.in)))
	})
	places := 0
	for _, v := range spread {
		if v != 0 {
			places++
		}
	}
	keep := make([]bool, len(spread))
	Largest(spread, int(float64(places)*top), keep)
	for _, p := range t.in {
		cut(p.w, keep, false)
	}
}

// arceeFusion takes the other model's value where its importance, the difference
// times how far the rows' distributions are apart, is above median + 1.5·IQR.
func arceeFusion(t *tensor) ([]float32, error) {
	a, b := t.base, t.in[0].w
	score := make([]float32, len(a))
	p, q := make([]float64, t.cols), make([]float64, t.cols)
	for r := range t.rows {
		lo := r * t.cols
		softmax(p, b[lo:lo+t.cols])
		softmax(q, a[lo:lo+t.cols])
		kl := 0.0
		for i := range p {
			kl += (p[i] + 1e-8) * math.Log((p[i]+1e-8)/(q[i]+1e-8))
		}
		for i := lo; i < lo+t.cols; i++ {
			d := b[i] - a[i]
			score[i] = max(d, -d) * float32(kl)
		}
	}
	order := slices.Clone(score)
	slices.Sort(order)
	at := func(q float64) float32 { return order[int(q*float64(len(order)-1))] }
	bound := at(0.5) + 1.5*(at(0.75)-at(0.25))
	each(len(a), func(i int) {
		if score[i] >= bound {
			a[i] += b[i] - a[i]
		}
	})
	return a, nil
}

func softmax(dst []float64, x []float32) {
	top := slices.Max(x)
	s := 0.0
	for i, v := range x {
		dst[i] = math.Exp(float64(v - top))
		s += dst[i]
	}
	for i := range dst {
		dst[i] /= s
	}
}

// ram adds the differences above epsilon: where one model has one, all of it, or
// with ramplus_tl more, by how much of the model's other models share; else the
// mean (arXiv:2601.13572).
func ram(t *tensor) ([]float32, error) {
	if len(t.in) == 0 {
		return t.base, nil
	}
	t.subtract()
	eps := float32(t.all["epsilon"])
	large := func(j, i int) bool { w := t.in[j].w[i]; return max(w, -w) > eps }
	count := make([]uint8, len(t.base)) // models with a difference, at most 2
	each(len(count), func(i int) {
		for j := range t.in {
			if large(j, i) && count[i] < 2 {
				count[i]++
			}
		}
	})
	factor := make([]float32, len(t.in))
	for j := range t.in {
		own := func(n uint8) float64 {
			return sum(len(count), func(i int) float64 {
				if count[i] == n && large(j, i) {
					return 1
				}
				return 0
			})
		}
		factor[j] = 1
		if r, plus := t.all["r"]; plus {
			rho := own(2) / math.Max(own(1), float64(eps))
			factor[j] = float32(1 + r*min(max(rho, 0), t.all["alpha"]))
		}
	}
	each(len(t.base), func(i int) {
		s, n := float32(0), float32(0)
		for j, p := range t.in {
			if !large(j, i) {
				continue
			}
			n++
			if count[i] == 1 {
				s += float32(p.w[i] * factor[j])
			} else {
				s += p.w[i]
			}
		}
		if n > 1 {
			s /= n
		}
		t.base[i] += s
	})
	return t.base, nil
}
