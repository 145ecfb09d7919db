package cuda

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
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
		{dtype.Type{Kind: dtype.Int5, Group: 32, Scale: dtype.F16}, 5, 64}, {dtype.Type{Kind: dtype.Int6, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}, 5, 96},
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

// TestMicroScales: small floats of any bytes, with scales of any bytes, are what package
// block decodes, bit for bit; ragged groups and odd rows of half bytes too.
func TestMicroScales(t *testing.T) {
	c, _ := interpreted(t)
	defer c.Close()
	rng := rand.New(rand.NewPCG(5, 6))
	for _, kind := range []dtype.Kind{dtype.F4E2M1, dtype.F8E4M3, dtype.F8E5M2} {
		for _, scale := range []dtype.Kind{dtype.F32, dtype.F16, dtype.BF16, dtype.F8E4M3, dtype.F8E8M0} {
			for _, flags := range []dtype.Flags{0, dtype.Nested, dtype.Nested | dtype.Inverse} {
				const rows, cols = 37, 77
				typ := dtype.Type{Kind: kind, Group: 10, Scale: scale, Flags: flags}
				raw := block.New(typ, rows, cols)
				for i := range raw.Data {
					raw.Data[i] = byte(rng.Uint32())
				}
				want, got := make([]float32, rows*cols), make([]float32, rows*cols)
				block.DecodeAll(want, raw)
				m, err := c.Load(kernels.Weights, typ, rows, cols, raw.Data, kernels.Copy)
				if err != nil {
					t.Fatal(err)
				}
				y := upload(t, c, got)
				c.Dequantize(y, m)
				if err := c.Download(kernels.Bytes(got), y); err != nil {
					t.Fatalf("%v: %v", typ, err)
				}
				for i, v := range got {
					if math.Float32bits(v) != math.Float32bits(want[i]) && !(v != v && want[i] != want[i]) {
						t.Fatalf("%v: element %d is %v, want %v", typ, i, v, want[i])
					}
				}
				c.Free(m.Buffer)
				c.Free(y)
			}
		}
	}
}

// TestMicroLacking: what cannot be rounded to yet is refused by name, and never rounded
// to another type.
func TestMicroLacking(t *testing.T) {
	for _, typ := range []dtype.Type{mxfp4Folder, nvfp4Folder, {Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}, {Kind: dtype.F8E4M3, Group: 32, Flags: dtype.Nested}} {
		c, _ := interpreted(t)
		m, err := c.Load(kernels.Weights, typ, 2, 64, nil, kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		x := upload(t, c, make([]float32, 128))
		if err := c.Quantize(m, x, nil); err == nil || !strings.Contains(err.Error(), "rounding to "+typ.String()) {
			t.Errorf("%v: quantize: %v", typ, err)
		}
		c.Close()
		c, _ = interpreted(t)
		x = upload(t, c, make([]float32, 128))
		err = c.Run(func() error {
			c.FakeQuant(kernels.To(x), &kernels.FakeQuantArgs{X: x, Rows: 2, Cols: 64, Type: typ})
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "rounding of inputs to "+typ.String()) {
			t.Errorf("%v: rounding of inputs: %v", typ, err)
		}
		c.Close()
	}
}
