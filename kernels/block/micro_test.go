package block_test

import (
	"math"
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
