package cuda

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestBytes: every plane is that of block.Encode, with enough scales for each
// level of the sum that nested ones take their mean from, ragged ends, and scales
// of every type.
func TestBytes(t *testing.T) {
	c, _ := interpreted(t)
	defer c.Close()
	rng := rand.New(rand.NewPCG(3, 4))
	for _, w := range []struct {
		t          dtype.Type
		rows, cols int
	}{
		{dtype.Type{Kind: dtype.NF4, Group: 2, Flags: dtype.Nested}, 1, 16673},
		{dtype.Type{Kind: dtype.FP4, Group: 64, Flags: dtype.Nested}, 3, 667},
		{dtype.Type{Kind: dtype.NF4, Group: 64}, 5, 77},
		{dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.BF16}, 7, 96},
		{dtype.Type{Kind: dtype.Int4, Group: 16, Scale: dtype.F16}, 7, 96},
		{dtype.Type{Kind: dtype.Int3, Group: -1, Flags: dtype.Zero}, 5, 64},
		{dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.BF16}, 5, 61},
		{dtype.Type{Kind: dtype.F8E4M3, Group: -1}, 4, 70},
		{dtype.Type{Kind: dtype.F8E5M2, Group: 10, Scale: dtype.F16}, 4, 70},
	} {
		x := make([]float32, w.rows*w.cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		clear(x[:20]) // a group of zeros
		want := block.New(w.t, w.rows, w.cols)
		if err := block.Encode(want, x, nil); err != nil {
			t.Fatal(err)
		}
		m, err := c.Load(kernels.Weights, w.t, w.rows, w.cols, nil, kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		xb, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(x))
		if err != nil {
			t.Fatal(err)
		}
		c.Upload(xb, kernels.Bytes(x))
		if err := c.Quantize(m, xb, nil); err != nil {
			t.Fatal(err)
		}
		got := block.Raw{Type: w.t, Rows: w.rows, Cols: w.cols, Data: make([]byte, len(want.Data))}
		if err := c.Download(got.Data, m.Buffer); err != nil {
			t.Fatal(err)
		}
		for i := range dtype.NumPlanes {
			if !bytes.Equal(got.Plane(i), want.Plane(i)) {
				t.Errorf("%v %d×%d: plane %d differs", w.t, w.rows, w.cols, i)
			}
		}
		c.Free(m.Buffer)
		c.Free(xb)
	}
}
