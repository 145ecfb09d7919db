package cpu

import (
	"fmt"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// One block of 128 columns of a feed-forward weight.
func BenchmarkGPTQBlock(b *testing.B) {
	c := New(Options{})
	const rows, cols = 1536, 128
	codes, err := c.Alloc(kernels.Activations, dtype.Of(dtype.U8), rows*cols)
	if err != nil {
		b.Fatal(err)
	}
	g := &kernels.GPTQArgs{Rows: rows, Cols: cols, Codes: codes, MaxCode: 15, W: benchBuffer(b, c, rows*cols), Err: benchBuffer(b, c, rows*cols),
		U: benchBuffer(b, c, cols*cols), Scale: benchBuffer(b, c, rows*cols), Zero: benchBuffer(b, c, rows*cols)}
	c.Fill(g.Scale, 0.3)
	c.Fill(g.Zero, 8)
	u := f32(g.U)
	for i := range u {
		u[i] *= 0.05
		if i%(cols+1) == 0 {
			u[i] = 1
		}
	}
	w := f32(g.W)
	start := append([]float32(nil), w...)
	for b.Loop() {
		copy(w, start)
		c.GPTQBlock(g)
	}
	b.ReportMetric(float64(rows*cols)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
}

// The inverse factor of one Hessian: 2/3·n³ operations in float64, whose peak is
// half that of f32.
func BenchmarkFactor(b *testing.B) {
	for _, n := range []int{576, 1536, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := New(Options{})
			h, u := benchBuffer(b, c, n*n), benchBuffer(b, c, n*n)
			v := f32(h)
			for i := range v {
				v[i] *= 0.1
				if i%(n+1) == 0 {
					v[i] = float32(n)
				}
			}
			measure(b, 2./3*float64(n)*float64(n)*float64(n), false, func() {
				if err := c.Factor(u, h, n, 1); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// One pass of calibration text: rows·n² operations, counting half of the
// symmetric result.
func BenchmarkGram(b *testing.B) {
	for _, n := range []int{576, 1536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := New(Options{})
			const rows = 2048
			h, x := benchBuffer(b, c, n*n), benchBuffer(b, c, rows*n)
			measure(b, float64(rows)*float64(n)*float64(n), false, func() { c.Gram(kernels.Into(h), &kernels.GramArgs{Rows: rows, Cols: n, X: x}) })
		})
	}
}
