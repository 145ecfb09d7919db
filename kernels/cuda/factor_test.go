package cuda

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestFactor: sizes around whole blocks, and several of them, give what the CPU gives in
// float64, in another place and in h's; a matrix that is not positive definite in its last
// block is an error, and h is as it was.
func TestFactor(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	const damp = 0.01
	factored := func(b kernels.Backend, h []float32, n int, inPlace bool) (out []float32, err error) {
		t.Helper()
		out = make([]float32, n*n)
		err = b.Run(func() error {
			m := memory{t, b}
			hb := m.f(n * n)
			b.Upload(hb, kernels.Bytes(h))
			u := hb
			if !inPlace {
				u = m.f(n * n)
			}
			err := b.Factor(u, hb, n, damp)
			if err := b.Download(kernels.Bytes(out), u); err != nil {
				t.Fatal(err)
			}
			return err
		})
		return out, err
	}
	for _, n := range []int{1, 127, 128, 129, 300} {
		c, _ := interpreted(t)
		host := cpu.New(cpu.Options{})
		h := hessian(rng, n)
		want, err := factored(host, h, n, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, inPlace := range []bool{false, true} {
			got, err := factored(c, h, n, inPlace)
			if err != nil {
				t.Fatalf("%d columns: %v", n, err)
			}
			var worst float64
			for i, v := range got {
				if i/n > i%n && v != 0 {
					t.Fatalf("%d columns: u[%d,%d] is %v, below the diagonal", n, i/n, i%n, v)
				}
				worst = max(worst, math.Abs(float64(v-want[i]))/math.Abs(float64(want[i/n*(n+1)])))
			}
			if !(worst < 5e-5) {
				t.Errorf("%d columns, in place %v: an element is %v of its row's diagonal off", n, inPlace, worst)
			}
		}
		h[0] = -1
		got, err := factored(c, h, n, true)
		if !errors.Is(err, kernels.ErrNotPositive) {
			t.Errorf("%d columns, not positive definite: %v", n, err)
		}
		for i, v := range got {
			if v != h[i] {
				t.Fatalf("%d columns: element %d of h is %v after an error, was %v", n, i, v, h[i])
			}
		}
		host.Close()
		c.Close()
	}
}

// hessian is a Gram matrix of inputs that depend on each other, n columns.
func hessian(rng *rand.Rand, n int) []float32 {
	rows := n + 40
	x := make([]float64, rows*n)
	for r := range rows {
		last := 0.0
		for j := range n {
			last = 0.8*last + rng.NormFloat64()
			x[r*n+j] = last
		}
	}
	h := make([]float32, n*n)
	for i := range n {
		for j := range i + 1 {
			var s float64
			for r := range rows {
				s += x[r*n+i] * x[r*n+j]
			}
			h[i*n+j] = float32(s / float64(rows))
			h[j*n+i] = h[i*n+j]
		}
	}
	return h
}
