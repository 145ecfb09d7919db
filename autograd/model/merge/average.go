package merge

import (
	"math"
)

// linear is Σ w·x, divided by Σ w with normalize (Wortsman et al. 2022,
// arXiv:2203.05482).
func linear(t *tensor) ([]float32, error) {
	ws := t.weights()
	total := float32(0)
	for _, w := range ws {
		total += w
	}
	scale := t.on("normalize")
	if scale && total == 0 {
		return nil, t.failf("normalize: false adds them as they are", "the weights add up to 0")
	}
	out := t.in[0].w
	each(len(out), func(i int) {
		s := float32(0)
		for j, p := range t.in {
			s += float32(ws[j] * p.w[i])
		}
		if scale {
			s /= total
		}
		out[i] = s
	})
	return out, nil
}

// passthrough is the tensor itself, times scale.
func passthrough(t *tensor) ([]float32, error) {
	w, s := t.in[0].w, float32(t.in[0].each["scale"])
	if s != 1 {
		each(len(w), func(i int) { w[i] *= s })
	}
	return w, nil
}

// modelStock moves the mean of the models towards the base by the mean angle
// between the models' differences to it (Jang et al. 2024, arXiv:2403.19522), for
// the tensor or, with filter_wise, for each row.
func modelStock(t *tensor) ([]float32, error) {
	n := len(t.in)
	runs, size := 1, len(t.base)
	if t.on("filter_wise") {
		runs, size = t.rows, t.cols
	}
	t.subtract()
	for r := range runs {
		at := func(i int) []float32 { return t.in[i].w[r*size : (r+1)*size] }
		cos, pairs := 0.0, 0
		for i := range n {
			for j := i + 1; j < n; j++ {
				c := dot(at(i), at(j)) / math.Max(norm(at(i))*norm(at(j)), 1e-6)
				cos += min(max(c, -1), 1)
				pairs++
			}
		}
		cos /= float64(pairs)
		way := float64(n) * cos / (1 + float64(n-1)*cos)
		factors, list := make([]float64, n), make([][]float32, n)
		for i := range n {
			factors[i], list[i] = way/float64(n), at(i)
		}
		mix(factors, list...)
	}
	return t.addBase(t.in[0].w), nil
}

// nearswap takes the other model's value where it is within t of the base's, else
// goes t towards it.
func nearswap(t *tensor) ([]float32, error) {
	a, b, way := t.base, t.in[0].w, float32(t.all["t"])
	each(len(a), func(i int) {
		d := b[i] - a[i]
		w := min(max(way/max(max(d, -d), 1e-6), 0), 1)
		b[i] = float32(w*b[i]) + float32((1-w)*a[i])
	})
	return b, nil
}
