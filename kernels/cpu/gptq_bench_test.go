package cpu

import (
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
