package block_test

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMicroError: a value of a grouped float8 type comes back within half a step
// of the float8 grid that its group's scale spans; the largest of a group comes
// back as well as its scale is stored.
func TestMicroError(t *testing.T) {
	const rows, cols = 7, 384
	x := noise(rows*cols, 21)
	for _, c := range []struct {
		ty             dtype.Type
		step, smallest float64 // relative to the value, and to the scale
		largest        float64
	}{
		{dtype.Type{Kind: dtype.F8E4M3, Group: 128, Scale: dtype.F32}, 0x1p-4, 0x1p-10, 448},
		{dtype.Type{Kind: dtype.F8E4M3, Group: -1, Scale: dtype.BF16}, 0x1p-4, 0x1p-10, 448},
		{dtype.Type{Kind: dtype.F8E5M2, Group: 64, Scale: dtype.F16}, 0x1p-3, 0x1p-17, 57344},
	} {
		m, y := encoded(t, c.ty, rows, cols, x, nil), make([]float32, rows*cols)
		block.DecodeAll(y, m)
		group := int(c.ty.Group)
		if group < 0 {
			group = cols
		}
		for at := 0; at < len(x); at += group {
			top := 0.0
			for _, v := range x[at : at+group] {
				top = max(top, math.Abs(float64(v)))
			}
			for i, v := range x[at : at+group] {
				// 1.01: the stored scale is rounded, and so may a value at the top be cut.
				most := 1.01 * max(c.step*math.Abs(float64(v)), c.smallest*top/c.largest)
				if e := math.Abs(float64(y[at+i] - v)); e > most {
					t.Fatalf("%v: %v came back as %v, the largest of its group is %v", c.ty, v, y[at+i], top)
				}
			}
		}
	}
}

// TestTiles: codes and scales of blocks, cut off at the edge, are those of torch 2.15, of a block b of x:
// s = (b.abs().max() / 448).to(dtype of the scales), (b / s.float()).clamp(-448, 448).to(torch.float8_e4m3fn).
func TestTiles(t *testing.T) {
	const rows, cols = 200, 256
	x := make([]float32, rows*cols)
	for i := range x {
		r, c := i/cols, i%cols
		x[i] = float32(i*7919%2003-1001) / 512 * float32(1+2*(r/128)+c/128)
	}
	for _, c := range []struct {
		scale  dtype.Kind
		codes  string // the beginning of their SHA-256
		scales [4]float32
	}{
		{dtype.F32, "bae97d0a5c673846", [4]float32{0.004364013671875, 0.00872802734375, 0.013092041015625, 0.0174560546875}},
		{dtype.BF16, "2105fd2c14397afa", [4]float32{0.004364013671875, 0.00872802734375, 0.0130615234375, 0.0174560546875}},
	} {
		m := block.New(dtype.Type{Kind: dtype.F8E4M3, Group: 128, Scale: c.scale}, rows, cols)
		if err := block.EncodeTiles(m, x); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(m.Plane(dtype.Codes)); hex.EncodeToString(sum[:8]) != c.codes {
			t.Errorf("%v: codes %x, want %s", c.scale, sum[:8], c.codes)
		}
		got := make([]float32, 2)
		for r := range rows {
			if block.MicroScales(got, m, r, 0); !slices.Equal(got, c.scales[r/128*2:r/128*2+2]) {
				t.Fatalf("%v: scales of row %d are %v", c.scale, r, got)
			}
		}
	}
	x[300] = float32(math.Inf(1))
	if err := block.EncodeTiles(block.New(dtype.Type{Kind: dtype.F8E4M3, Group: 128}, rows, cols), x); err == nil {
		t.Error("infinity is stored")
	}
}
