package merge

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
)

// tensor is one tensor of the result with what it is made of. Methods may write to
// the values of the models, and return some of them.
type tensor struct {
	name       string // in the result
	rows, cols int    // a vector has one row
	seed       uint64
	in         []part // the models beside the base
	base       []float32
	all        map[string]float64
}

// part is the tensor of one model.
type part struct {
	model string
	index int // of the model, which random numbers depend on
	w     []float32
	each  map[string]float64
}

func (t *tensor) on(name string) bool { return t.all[name] != 0 }

// weights are the models' as float32, which the products are rounded to.
func (t *tensor) weights() []float32 {
	out := make([]float32, len(t.in))
	for i := range t.in {
		out[i] = float32(t.in[i].each["weight"])
	}
	return out
}

// failf is an error about this tensor.
func (t *tensor) failf(hint, format string, args ...any) error {
	return fail.Numericf(t.name, hint, "%s", fmt.Sprintf(format, args...))
}

// grain is how many values are worked on at a time.
const grain = 1 << 14

// each calls f with every index below n.
func each(n int, f func(i int)) {
	par.For(n, grain, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f(i)
		}
	})
}

// sum is Σ f(i) below n: pieces in parallel, added in order.
func sum(n int, f func(i int) float64) float64 {
	parts := make([]float64, (n+grain-1)/grain)
	par.For(n, grain, func(lo, hi int) {
		s := 0.0
		for i := lo; i < hi; i++ {
			s += f(i)
		}
		parts[lo/grain] = s
	})
	s := 0.0
	for _, p := range parts {
		s += p
	}
	return s
}

// dot is the inner product of two vectors.
func dot(a, b []float32) float64 {
	return sum(len(a), func(i int) float64 { return float64(float64(a[i]) * float64(b[i])) })
}

func norm(a []float32) float64 { return math.Sqrt(dot(a, a)) }

// subtract makes every model's tensor its difference to the base.
func (t *tensor) subtract() {
	for _, p := range t.in {
		each(len(p.w), func(i int) { p.w[i] -= t.base[i] })
	}
}

// addBase adds the base to a difference.
func (t *tensor) addBase(d []float32) []float32 {
	each(len(d), func(i int) { d[i] += t.base[i] })
	return d
}

// mix writes Σ factors[i]·values[i] over the first of them.
func mix(factors []float64, values ...[]float32) []float32 {
	out := values[0]
	each(len(out), func(i int) {
		s := 0.0
		for j, v := range values {
			s += float64(factors[j] * float64(v[i]))
		}
		out[i] = float32(s)
	})
	return out
}
