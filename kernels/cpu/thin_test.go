package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// Thin products have the bits of packed ones and write nothing beside the result.
func TestThin(t *testing.T) {
	if level.Current() < level.AVX512 {
		t.Skip("no kernel at this level")
	}
	c := New(Options{})
	rng := rand.New(rand.NewPCG(3, 5))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = (rng.Float32() - 0.5) / 16
		}
		return x
	}
	for _, in := range []int{16, 33, 576, maxK + 1, 2*maxK + 70} {
		for _, out := range []int{8, 13, 16, 24, 47, 101, 4200} {
			if in*out < thinSize || in*out > 1<<21 {
				continue
			}
			n := thinLeast + rng.IntN(thinLanes-thinLeast+1)
			t.Run(fmt.Sprintf("%d×%d×%d", n, out, in), func(t *testing.T) {
				x, w := upload(t, c, random(n*in)), upload(t, c, random((out+1)*in))
				defer c.Free(x)
				defer c.Free(w)
				before := random(n*out + 1)
				for _, alpha := range []float32{0, 0.3} {
					for _, add := range []bool{false, true} {
						y, z := upload(t, c, before), upload(t, c, before)
						defer c.Free(y)
						defer c.Free(z)
						a := &kernels.LinearArgs{N: n, X: x, W: kernels.Mat{Buffer: w, Row0: 1, Rows: out, Of: out + 1, Cols: in}, Alpha: alpha}
						if !c.thin(kernels.Dst{Buffer: y, Add: add}, a) {
							t.Fatal("no kernel")
						}
						c.gemm(f32(z), out, n, out, add, product{k: in, a: rowsF32(f32(x), in), b: weight(a.W, false), alpha: orOne(alpha)})
						near := func(a, b float32) bool { return math.Abs(float64(a-b)) <= 1e-5 }
						if alpha == 0 && !add {
							near = func(a, b float32) bool { return a == b }
						}
						if got, want := f32(y), f32(z); !slices.EqualFunc(got, want, near) || got[n*out] != before[n*out] {
							t.Errorf("alpha %v, add %v: another product", alpha, add)
						}
					}
				}
			})
		}
	}
	in := thinSize / 7
	if c.thin(kernels.To(upload(t, c, make([]float32, 5*7))), &kernels.LinearArgs{N: 5, X: upload(t, c, make([]float32, 5*in)), W: kernels.Mat{Buffer: upload(t, c, make([]float32, 7*in)), Rows: 7, Cols: in}}) {
		t.Error("seven rows of a weight were taken")
	}
}
