package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// Products of float32 and bf16 that are made of products of bf16 are as near to those
// of real numbers as multiply-adds of float32 are, at any size of numbers.
func TestSplit(t *testing.T) {
	if level.Current() != level.AMX {
		t.Skip("no tiles at this level")
	}
	c := New(Options{})
	rng := rand.New(rand.NewPCG(6, 1))
	for _, s := range [][3]int{{17, 300, 260}, {33, 1000, 257}, {40, 300, 576}, {300, 256, 1030}, {20, 300, 5000}} {
		m, out, in := s[0], s[1], s[2]
		x, w := make([]float32, m*in), make([]float32, out*in)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * math.Pow(10, float64(i%7-3)))
		}
		for i := range w {
			w[i] = float32(rng.NormFloat64())
		}
		wb, err := c.Alloc(kernels.Weights, dtype.Of(dtype.BF16), len(w))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Free(wb)
		h := view[uint16](wb.(*Buf).live())
		for i, v := range w {
			h[i] = uint16(math.Float32bits(v) >> 16)
			w[i] = math.Float32frombits(uint32(h[i]) << 16)
		}
		for _, across := range []bool{false, true} { // y = x·wᵀ, and of its gradient dx = dy·w
			a, b, n, k := x, w, out, in
			weight := operand{h: h, ld: in, across: across}
			plain := operand{f: w, ld: in, across: across}
			if across {
				a, n, k = x[:m*min(out, in)], in, min(out, in)
			}
			got, fma := make([]float32, m*n), make([]float32, m*n)
			p := product{k: k, a: rowsF32(a, k), b: weight, alpha: 1}
			if !p.split(n) {
				t.Fatal("not taken apart")
			}
			c.gemm(got, n, m, n, false, p)
			p.b = plain
			c.gemm(fma, n, m, n, false, p)
			var of, ofFMA float64
			for i := range m {
				for j := range n {
					sum, size := 0.0, 1e-30
					for l := range k {
						at := j*in + l
						if across {
							at = l*in + j
						}
						v := float64(b[at])
						sum += float64(a[i*k+l]) * v
						size += math.Pow(float64(a[i*k+l])*v, 2)
					}
					of += math.Pow(float64(got[i*n+j])-sum, 2) / size
					ofFMA += math.Pow(float64(fma[i*n+j])-sum, 2) / size
				}
			}
			of, ofFMA = math.Sqrt(of/float64(m*n)), math.Sqrt(ofFMA/float64(m*n))
			if t.Logf("%v across %v: error %.2g, with multiply-adds %.2g", s, across, of, ofFMA); !(of <= 1.2*ofFMA+3e-8) {
				t.Errorf("%v across %v: error %.2g, with multiply-adds %.2g", s, across, of, ofFMA)
			}
		}
	}
}

// What is not finite stays so, and the largest numbers are no infinities.
func TestSplitOdd(t *testing.T) {
	if level.Current() != level.AMX {
		t.Skip("no tiles at this level")
	}
	c := New(Options{})
	const k, n = 32, splitSize / 32
	h := make([]uint16, n*k)
	for i := range k {
		h[i*(k+1)] = 0x3f80 // 1
	}
	x := make([]float32, 3*k)
	inf := float32(math.Inf(1))
	copy(x, []float32{math.MaxFloat32, 0, -math.MaxFloat32})
	copy(x[k:], []float32{inf})
	copy(x[2*k:], []float32{float32(math.NaN())})
	y := make([]float32, 3*n)
	p := product{k: k, a: rowsF32(x, k), b: operand{h: h, ld: k}, alpha: 1}
	if c.gemm(y, n, 3, n, false, p); !p.split(n) || y[0] != math.MaxFloat32 || y[2] != -math.MaxFloat32 || y[1] != 0 || y[n] != inf || !math.IsNaN(float64(y[2*n])) {
		t.Errorf("%v %v %v", y[:3], y[n], y[2*n])
	}
}
