package cpu

import (
	"testing"

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

// The price of a storage type in a large product: the same shape for each.
func BenchmarkLinearTypes(b *testing.B) {
	c := New(Options{})
	const n, out, in = 2048, 1536, 576
	for _, back := range []bool{false, true} {
		for _, t := range decodeTypes {
			b.Run(map[bool]string{false: "forward/", true: "dx/"}[back]+t.String(), func(b *testing.B) {
				w, x, y := benchWeight(b, c, t, out, in), benchBuffer(b, c, n*in), benchBuffer(b, c, n*out)
				a := &kernels.LinearArgs{N: n, X: x, W: w, BF16: true}
				measure(b, 2*n*out*in, true, func() {
					if back {
						c.LinearBackward(kernels.To(x), kernels.Dst{}, kernels.Dst{}, y, a)
					} else {
						c.Linear(kernels.To(y), a)
					}
				})
				for _, p := range []kernels.Buffer{w.Buffer, x, y} {
					c.Free(p)
				}
			})
		}
	}
}
