package cpu

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/tunekit/tunekit/kernels"
)

// uᵀ·u·(H + damp·I) must be the identity, and u upper triangular.
func TestFactor(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, n := range []int{1, 2, 3, 31, 64, 65, 127, 200} {
			x := random((n + 5) * n)
			h := make([]float32, n*n)
			for i, v := range mul64(x, x, true, false, n, n, n+5) {
				h[i] = float32(v)
			}
			const damp = 3
			hb := buffer(t, c, "h", h)
			u := buffer(t, c, "u", fill(n*n, float32(math.NaN())))
			if err := c.Factor(u.buf(), hb.buf(), n, damp); err != nil {
				t.Fatal(err)
			}
			v := u.values()
			for i := range n {
				for j := range i {
					if v[i*n+j] != 0 {
						t.Fatalf("n %d: element %d,%d below the diagonal is %g", n, i, j, v[i*n+j])
					}
				}
				h[i*n+i] = hb.values()[i*n+i] + damp
			}
			inverse := mul64(v, v, true, false, n, n, n)
			worst := 0.0
			for i := range n {
				for j := range n {
					s := 0.0
					for k := range n {
						s += inverse[i*n+k] * float64(h[k*n+j])
					}
					worst = max(worst, math.Abs(s-float64(b2i(i == j))))
				}
			}
			if worst > 1e-5*math.Sqrt(float64(n)) {
				t.Fatalf("n %d: uᵀ·u·H differs from the identity by %g", n, worst)
			}
		}
	})
}

func TestFactorNotPositive(t *testing.T) {
	c := New(Options{})
	for _, h := range [][]float32{{1, 2, 2, 1}, {0, 0, 0, 0}, {1, 0, 0, float32(math.NaN())}, {float32(math.Inf(1)), 0, 0, 1}} {
		err := c.Factor(buffer(t, c, "u", fill(4, 0)).buf(), buffer(t, c, "h", h).buf(), 2, 0)
		if !errors.Is(err, kernels.ErrNotPositive) {
			t.Errorf("%v: error %v", h, err)
		}
	}
	if now := c.Info().Mem.Now[kernels.Scratch]; now != 0 {
		t.Errorf("%d bytes of scratch left", now)
	}
}

func TestFactorSameBitsAtAnyThreads(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		const n = 200
		x := buffer(t, c, "x", random(300*n))
		h := buffer(t, c, "h", make([]float32, n*n))
		c.Gram(kernels.To(h.buf()), &kernels.GramArgs{Rows: 300, Cols: n, X: x.buf()})
		sameBits(t, fmt.Sprint("factor ", n), func() []float32 {
			u := buffer(t, c, "u", make([]float32, n*n))
			if err := c.Factor(u.buf(), h.buf(), n, 1); err != nil {
				t.Fatal(err)
			}
			return u.values()
		})
	})
}
