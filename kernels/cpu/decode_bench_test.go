package cpu

import (
	"fmt"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

var decodeTypes = []dtype.Type{
	dtype.Of(dtype.F32), dtype.Of(dtype.F16), dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1),
	{Kind: dtype.NF4, Group: 64}, dtype.NF4Double, {Kind: dtype.Int4, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: 64, Scale: dtype.F16},
}

// Decoding a weight, in elements a second.
func BenchmarkDequantize(b *testing.B) {
	c := New(Options{})
	const rows, cols = 1536, 576
	for _, t := range append(decodeTypes, dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q6_K)) {
		cols := cols
		if t.Kind.Info().Block == 256 {
			cols = 512
		}
		b.Run(t.String(), func(b *testing.B) {
			w, y := benchWeight(b, c, t, rows, cols), benchBuffer(b, c, rows*cols)
			for b.Loop() {
				c.Dequantize(y, w)
			}
			b.ReportMetric(float64(rows*cols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
			c.Free(w.Buffer)
			c.Free(y)
		})
	}
}

// One token through a feed-forward weight, in bytes of weight a second.
func BenchmarkLinearDecode(b *testing.B) {
	c := New(Options{})
	for _, t := range decodeTypes {
		for _, s := range [][2]int{{1536, 576}, {49152, 576}} {
			rows, cols := s[0], s[1]
			b.Run(t.String()+map[bool]string{true: "/head", false: "/layer"}[rows > 40000], func(b *testing.B) {
				w, x, y := benchWeight(b, c, t, rows, cols), benchBuffer(b, c, cols), benchBuffer(b, c, rows)
				a := &kernels.LinearArgs{N: 1, X: x, W: w}
				for b.Loop() {
					c.Linear(kernels.To(y), a)
				}
				b.ReportMetric(float64(dtype.Size(t, rows, cols))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
				b.ReportMetric(float64(rows*cols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
				for _, p := range []kernels.Buffer{w.Buffer, x, y} {
					c.Free(p)
				}
			})
		}
	}
}

// blockTypes are storage types that need decoding.
var blockTypes = []dtype.Type{
	dtype.Of(dtype.F16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1), dtype.Of(dtype.Q5_0), dtype.Of(dtype.Q5_1),
	dtype.Of(dtype.Q2_K), dtype.Of(dtype.Q3_K), dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q5_K), dtype.Of(dtype.Q6_K), dtype.Of(dtype.IQ4_NL), dtype.Of(dtype.IQ4_XS),
	{Kind: dtype.NF4, Group: 64}, dtype.NF4Double, {Kind: dtype.FP4, Group: 64},
	{Kind: dtype.Int4, Group: 64, Scale: dtype.F16}, {Kind: dtype.Int4, Group: 128, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: 64, Scale: dtype.F16},
	{Kind: dtype.F8E4M3, Group: 128, Scale: dtype.F16}, {Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse},
}

// The price of a storage type in a product: its share of the speed with dense
// weights, measured in turn.
func BenchmarkLinearTypes(b *testing.B) {
	c := New(Options{})
	const out, in = 576, 1536
	for _, back := range []bool{false, true} {
		for _, bf16 := range []bool{false, true} {
			for _, n := range []int{512, 2048} {
				plain := dtype.Type{}
				if bf16 {
					plain = dtype.Of(dtype.BF16)
				}
				x, y, dense := benchBuffer(b, c, n*in), benchBuffer(b, c, n*out), benchWeight(b, c, plain, out, in)
				run := func(w kernels.Mat) time.Duration {
					a := &kernels.LinearArgs{N: n, X: x, W: w, BF16: bf16}
					t := time.Now()
					if back {
						c.LinearBackward(kernels.To(x), kernels.Dst{}, kernels.Dst{}, y, a)
					} else {
						c.Linear(kernels.To(y), a)
					}
					return time.Since(t)
				}
				for _, t := range blockTypes {
					name := fmt.Sprintf("%s/bf16=%v/%d/%v", map[bool]string{false: "forward", true: "dx"}[back], bf16, n, t)
					b.Run(name, func(b *testing.B) {
						w := benchWeight(b, c, t, out, in)
						best, best0 := time.Hour, time.Hour
						for b.Loop() {
							best0 = min(best0, run(dense))
							best = min(best, run(w))
						}
						b.ReportMetric(100*float64(best0)/float64(best), "%dense")
						c.Free(w.Buffer)
					})
				}
				for _, p := range []kernels.Buffer{dense.Buffer, x, y} {
					c.Free(p)
				}
			}
		}
	}
}
