package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// Thin products have the bits of packed ones, but of those on tiles, and write nothing
// beside the result.
func TestThin(t *testing.T) {
	for _, l := range level.Supported() {
		if l >= level.AVX512 {
			t.Run(l.String(), func(t *testing.T) {
				defer level.Force(l)()
				t.Run("F32", func(t *testing.T) { thinCases(t, dtype.F32, false) })
				t.Run("BF16", func(t *testing.T) { thinCases(t, dtype.BF16, false) })
				t.Run("BF16 rounded", func(t *testing.T) { thinCases(t, dtype.BF16, true) })
			})
		}
	}
}

// thinCases compares products of some shapes with weights of a type.
func thinCases(t *testing.T, kind dtype.Kind, bf16 bool) {
	c := New(Options{})
	rng := rand.New(rand.NewPCG(3, 5))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = (rng.Float32() - 0.5) / 16
		}
		return x
	}
	tiles := kind == dtype.BF16 && onTiles()
	for _, in := range []int{16, 33, 576, 598, maxK + 1, 2*maxK + 70} {
		for _, out := range []int{8, 13, 16, 24, 47, 101, 4200} {
			if in*out < thinSize && in%mvUnit == 0 || in*out > 1<<21 {
				continue
			}
			n := thinLeast + rng.IntN(thinLanes-thinLeast+1)
			want := kind == dtype.F32 || n > 8
			if bf16 && level.Current() == level.AVX512BF16 {
				want = in%2 == 0
			}
			t.Run(fmt.Sprintf("%d×%d×%d", n, out, in), func(t *testing.T) {
				x, w := upload(t, c, random(n*in)), thinWeight(t, c, kind, random((out+1)*in))
				defer c.Free(x)
				defer c.Free(w)
				before := random(n*out + 1)
				for _, alpha := range []float32{0, 0.3} {
					for _, add := range []bool{false, true} {
						y, z := upload(t, c, before), upload(t, c, before)
						defer c.Free(y)
						defer c.Free(z)
						a := &kernels.LinearArgs{N: n, X: x, W: kernels.Mat{Buffer: w, Row0: 1, Rows: out, Of: out + 1, Cols: in}, Alpha: alpha, BF16: bf16}
						if ok := c.thin(kernels.Dst{Buffer: y, Add: add}, a); ok != want {
							t.Fatalf("there is a kernel: %v", ok)
						} else if !ok {
							continue
						}
						c.gemm(f32(z), out, n, out, add, product{k: in, a: rowsF32(f32(x), in), b: weight(a.W, false), alpha: orOne(alpha), bf16: bf16})
						near := func(a, b float32) bool { return math.Abs(float64(a-b)) <= 1e-5 }
						if alpha == 0 && !add && !tiles {
							near = func(a, b float32) bool { return a == b }
						}
						if got := f32(y); !slices.EqualFunc(got, f32(z), near) || got[n*out] != before[n*out] {
							t.Errorf("alpha %v, add %v: another product", alpha, add)
						}
					}
				}
			})
		}
	}
	in := thinSize / 7
	if c.thin(kernels.To(upload(t, c, make([]float32, 5*7))), &kernels.LinearArgs{N: 5, X: upload(t, c, make([]float32, 5*in)), W: kernels.Mat{Buffer: thinWeight(t, c, kind, make([]float32, 7*in)), Rows: 7, Cols: in}, BF16: bf16}) {
		t.Error("seven rows of a weight were taken")
	}
}

// thinWeight is values as a buffer of a type.
func thinWeight(t *testing.T, c *CPU, kind dtype.Kind, values []float32) kernels.Buffer {
	t.Helper()
	b, err := c.Alloc(kernels.Weights, dtype.Of(kind), len(values))
	if err != nil {
		t.Fatal(err)
	}
	if kind == dtype.F32 {
		copy(f32(b), values)
		return b
	}
	for i, v := range values {
		view[uint16](b.(*Buf).live())[i] = block.BF16(v)
	}
	return b
}

// BenchmarkThin multiplies 8 and 16 rows by all weights of a layer, 270 M, that are not near.
func BenchmarkThin(b *testing.B) {
	c := New(Options{})
	for _, kind := range []dtype.Kind{dtype.F32, dtype.BF16} {
		for _, n := range []int{1, 5, 8, 12, 16} {
			for _, bf16 := range []bool{false, true} {
				if kind == dtype.F32 && bf16 {
					continue
				}
				b.Run(fmt.Sprintf("%v/bf16=%v/%dx49152x576", dtype.Of(kind), bf16, n), func(b *testing.B) {
					w := benchWeight(b, c, dtype.Of(kind), 49152, 576)
					x, y := benchBuffer(b, c, n*576), benchBuffer(b, c, n*49152)
					a := &kernels.LinearArgs{N: n, X: x, W: w, BF16: bf16}
					measure(b, 2*float64(n)*49152*576, bf16, func() { c.Linear(kernels.To(y), a) })
					for _, p := range []kernels.Buffer{w.Buffer, x, y} {
						c.Free(p)
					}
				})
			}
		}
	}
}
