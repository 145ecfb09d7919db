package cpu

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// peak is the register peak of all threads in flop/s now: clocks drift, so a
// share is only fair within one run.
func peak(bf16 bool) float64 {
	if p := new(Meter).Peak(bf16, par.Threads()); p > 0 {
		return 1e9 * p
	}
	return math.NaN()
}

// measure runs f and reports its rate, and the best of its runs as a share of the peak.
func measure(b *testing.B, flops float64, bf16 bool, f func()) {
	f()
	top := peak(bf16)
	best := time.Hour
	for b.Loop() {
		t := time.Now()
		f()
		best = min(best, time.Since(t))
	}
	top = max(top, peak(bf16))
	rate := flops / best.Seconds()
	b.ReportMetric(rate/1e9, "Gflop/s")
	b.ReportMetric(100*rate/top, "%peak")
}

func benchBuffer(b *testing.B, c *CPU, n int) kernels.Buffer {
	x, err := c.Alloc(kernels.Activations, dtype.Type{}, n)
	if err != nil {
		b.Fatal(err)
	}
	fillRandom(f32(x))
	return x
}

// fillRandom repeats a few random numbers.
func fillRandom(x []float32) {
	some := random(min(len(x), 1<<20-3))
	for len(x) > 0 {
		x = x[copy(x, some):]
	}
}

func benchWeight(b *testing.B, c *CPU, t dtype.Type, rows, cols int) kernels.Mat {
	m := make([]byte, dtype.Size(t, rows, cols))
	switch t.Kind {
	case dtype.F32:
		fillRandom(view[float32](m))
	default: // any bits are codes; keep scales small and finite
		for i := range min(len(m), 1<<16) {
			m[i] = byte(i*7) & 0x3b
		}
		for n := 1 << 16; n < len(m); n *= 2 {
			copy(m[n:], m[:n])
		}
	}
	mat, err := c.Load(kernels.Weights, t, rows, cols, m, kernels.Copy)
	if err != nil {
		b.Fatal(err)
	}
	return mat
}

// The shapes of SmolLM2-135M: x [N,in]·Wᵀ.
var linearBench = [][3]int{
	{512, 192, 576}, {512, 576, 576}, {512, 1536, 576}, {512, 576, 1536}, {512, 49152, 576},
	{2048, 192, 576}, {2048, 576, 576}, {2048, 1536, 576}, {2048, 576, 1536}, {2048, 49152, 576}, {2048, 16, 576},
}

// Those of Llama 3.2 1B.
var llamaBench = [][3]int{
	{512, 512, 2048}, {512, 2048, 2048}, {512, 8192, 2048}, {512, 2048, 8192}, {512, 128256, 2048},
	{2048, 512, 2048}, {2048, 2048, 2048}, {2048, 8192, 2048}, {2048, 2048, 8192}, {2048, 128256, 2048},
}

func BenchmarkLinear(b *testing.B) { benchLinear(b, linearBench) }

func BenchmarkLinearLlama(b *testing.B) { benchLinear(b, llamaBench) }

// benchLinear multiplies by weights of the arithmetic's own type.
func benchLinear(b *testing.B, shapes [][3]int) {
	c := New(Options{})
	for _, bf16 := range []bool{false, true} {
		for _, s := range shapes {
			n, out, in := s[0], s[1], s[2]
			b.Run(fmt.Sprintf("bf16=%v/%dx%dx%d", bf16, n, out, in), func(b *testing.B) {
				t := dtype.Type{}
				if bf16 {
					t = dtype.Of(dtype.BF16)
				}
				w := benchWeight(b, c, t, out, in)
				x, y := benchBuffer(b, c, n*in), benchBuffer(b, c, n*out)
				a := &kernels.LinearArgs{N: n, X: x, W: w, BF16: bf16}
				measure(b, 2*float64(n)*float64(out)*float64(in), bf16, func() { c.Linear(kernels.To(y), a) })
				for _, p := range []kernels.Buffer{w.Buffer, x, y} {
					c.Free(p)
				}
			})
		}
	}
}

func BenchmarkLinearDX(b *testing.B) {
	c := New(Options{})
	for _, bf16 := range []bool{false, true} {
		for _, s := range linearBench {
			n, out, in := s[0], s[1], s[2]
			b.Run(fmt.Sprintf("bf16=%v/%dx%dx%d", bf16, n, out, in), func(b *testing.B) {
				w := benchWeight(b, c, dtype.Of(dtype.BF16), out, in)
				dx, dy := benchBuffer(b, c, n*in), benchBuffer(b, c, n*out)
				a := &kernels.LinearArgs{N: n, W: w, BF16: bf16}
				measure(b, 2*float64(n)*float64(out)*float64(in), bf16, func() {
					c.LinearBackward(kernels.To(dx), kernels.Dst{}, kernels.Dst{}, dy, a)
				})
				for _, p := range []kernels.Buffer{w.Buffer, dx, dy} {
					c.Free(p)
				}
			})
		}
	}
}

func BenchmarkLinearDW(b *testing.B) {
	c := New(Options{})
	for _, bf16 := range []bool{false, true} {
		for _, s := range [][3]int{{2048, 576, 576}, {2048, 1536, 576}, {2048, 16, 576}, {2048, 576, 16}} {
			n, out, in := s[0], s[1], s[2]
			b.Run(fmt.Sprintf("bf16=%v/%dx%dx%d", bf16, n, out, in), func(b *testing.B) {
				w := benchWeight(b, c, dtype.Type{}, out, in)
				x, dy, dw := benchBuffer(b, c, n*in), benchBuffer(b, c, n*out), benchBuffer(b, c, in*out)
				a := &kernels.LinearArgs{N: n, X: x, W: w, BF16: bf16}
				measure(b, 2*float64(n)*float64(out)*float64(in), bf16, func() {
					c.LinearBackward(kernels.Dst{}, kernels.To(dw), kernels.Dst{}, dy, a)
				})
				for _, p := range []kernels.Buffer{w.Buffer, x, dy, dw} {
					c.Free(p)
				}
			})
		}
	}
}

// BenchmarkLogProb is the head with the loss and the gradient of its input.
func BenchmarkLogProb(b *testing.B) {
	const n, v, in = 512, 49152, 576
	for _, bf16 := range []bool{false, true} {
		b.Run(fmt.Sprintf("bf16=%v", bf16), func(b *testing.B) {
			x := newBench(b)
			t := dtype.Type{}
			if bf16 {
				t = dtype.Of(dtype.BF16)
			}
			target := make([]int32, n)
			for i := range target {
				target[i] = int32(i * 7919 % v)
			}
			a := &kernels.LogProbArgs{N: n, X: x.random(n * in), W: benchWeight(b, x.CPU, t, v, in), Target: x.ints(target...), Coef: x.random(n), BF16: bf16}
			logp, dx := x.empty(n), x.empty(n*in)
			measure(b, 4*n*v*in, bf16, func() {
				x.LogProb(&kernels.LogProbOut{LogP: logp}, kernels.To(dx), kernels.Dst{}, kernels.Dst{}, a)
			})
		})
	}
}
