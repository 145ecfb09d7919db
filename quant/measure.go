package quant

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// measure compares a quantized matrix with what it stands for; h nil: the
// weights alone.
func measure(h *hessian, w []float32, m block.Raw) (rep LayerReport, err error) {
	d := make([]float32, len(w))
	block.DecodeAll(d, m)
	off, all := distance(d, w), dot(w, w)
	rep.Weight = ratio(math.Sqrt(off), math.Sqrt(all))
	if h != nil {
		minus(d, w)
		if off, err = h.energy(d, m.Rows); err == nil {
			all, err = h.energy(w, m.Rows)
		}
	}
	rep.Error, rep.Relative = off, ratio(off, all)
	return rep, err
}

// ratio is a/b, 0 for nothing out of nothing.
func ratio(a, b float64) float64 {
	if a == 0 {
		return 0
	}
	return a / b
}

// checkWeights refuses values that are not finite and those whose scales the type cannot hold.
func checkWeights(name string, w []float32, cols int, t dtype.Type) error {
	if err := formats.CheckFinite(name, w, 0, cols); err != nil {
		return err
	}
	if t.Scale != dtype.F16 || t.Kind.Info().Family != dtype.Int {
		return nil
	}
	largest := float32(0)
	for _, v := range w {
		largest = max(largest, v, -v)
	}
	if largest > 32000 {
		return fmt.Errorf("%s: the largest weight is %g: too large for scales of 16 bits", name, largest)
	}
	return nil
}

// reduceGrain is the number of elements of one partial sum.
const reduceGrain = 1 << 15

// reduce adds f over fixed pieces of [0, n), in order.
func reduce(n int, f func(lo, hi int) float64) float64 {
	parts := make([]float64, (n+reduceGrain-1)/reduceGrain)
	par.For(n, reduceGrain, func(lo, hi int) { parts[lo/reduceGrain] = f(lo, hi) })
	sum := 0.0
	for _, v := range parts {
		sum += v
	}
	return sum
}

func dot(a, b []float32) float64 {
	return reduce(len(a), func(lo, hi int) float64 {
		sum := 0.0
		for i, v := range a[lo:hi] {
			sum += float64(v) * float64(b[lo+i])
		}
		return sum
	})
}

// distance is Σ(a-b)².
func distance(a, b []float32) float64 {
	return reduce(len(a), func(lo, hi int) float64 {
		sum := 0.0
		for i, v := range a[lo:hi] {
			d := float64(v) - float64(b[lo+i])
			sum += float64(d * d)
		}
		return sum
	})
}
