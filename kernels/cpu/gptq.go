package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// gptqRows is the number of rows of a weight that go through a block of columns
// together: their part of the block stays in the first-level cache.
const gptqRows = 64

// GPTQBlock runs GPTQ's inner loop (Frantar et al. 2022, algorithm 1) over one
// block of columns: each column is rounded to its grid and its error, divided
// by the diagonal of the factor, is taken from the columns after it. Rows are
// independent. Rounding is to nearest even, as torch.round.
func (c *CPU) GPTQBlock(g *kernels.GPTQArgs) {
	n := g.Rows * g.Cols
	for _, b := range []kernels.Buffer{g.W, g.Err, g.Codes, g.Scale, g.Zero} {
		want("gptq block", b, n)
	}
	want("gptq block: u", g.U, g.Cols*g.Cols)
	b := &gptqBlock{
		rows: g.Rows, cols: g.Cols, max: float32(g.MaxCode),
		w: f32(g.W), err: f32(g.Err), u: f32(g.U), scale: f32(g.Scale), zero: f32(g.Zero), codes: u8(g.Codes),
	}
	par.For(g.Rows, gptqRows, b.run)
}

type gptqBlock struct {
	rows, cols             int
	max                    float32
	w, err, u, scale, zero []float32
	codes                  []byte
}

// run takes rows [lo,hi) through all columns.
func (b *gptqBlock) run(lo, hi int) {
	for j := range b.cols {
		at := j * b.rows
		err := b.err[at+lo : at+hi]
		b.round(at+lo, hi-lo, b.u[j*b.cols+j])
		for k := j + 1; k < b.cols; k++ {
			vec.Axpy(b.w[k*b.rows+lo:k*b.rows+hi], -b.u[j*b.cols+k], err)
		}
	}
}

// round quantizes n elements of one column from index i on. diag is U[j,j].
func (b *gptqBlock) round(i, n int, diag float32) {
	w, scale, zero := b.w[i:i+n], b.scale[i:i+n], b.zero[i:i+n]
	err, codes := b.err[i:i+n], b.codes[i:i+n]
	for r, v := range w {
		q := float32(math.RoundToEven(float64(v/scale[r]))) + zero[r]
		q = min(max(q, 0), b.max)
		dq := float32((q - zero[r]) * scale[r])
		codes[r] = byte(q)
		err[r] = (v - dq) / diag
		w[r] = dq
	}
}
