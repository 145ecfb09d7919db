package block_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// TestEncodeFP4: codes and scales are those of compressed-tensors 0.20.1 (preset_name_to_scheme, generate_gparam, calculate_qparams and
// quantize_and_pack_fp4, MXFP4's scales by compress_mx_scale) for the same weights of each type, two rows of 64.
func TestEncodeFP4(t *testing.T) {
	x := make([]float32, 128)
	for i := range x {
		v := float32(i*37%101-50) / 64 * []float32{1, 0.03, 7, 0}[i/32]
		x[i] = block.FromBF16(block.BF16(v))
	}
	x[97] = float32(math.Copysign(0, -1))
	nv := dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}
	mx := dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}
	for _, c := range []struct {
		typ           dtype.Type
		like          dtype.Kind
		number        float32
		scales, codes string
	}{
		{nv, dtype.F32, 500.093017578125, "68683f3f7e7e2020", "bfe5692ec7f45a0ed6724cafe6613db7f5691ed7f45b8ed6724cafe6613dc7f5691ed7f45b8ee6724cafe5603dc7f56900000000000000000000000000000000"},
		{nv, dtype.F16, 500, "68683f3f7e7e2020", "bfe5692ec7f45a0ed6724cafe6613db7f5691ed7f45b8ed6724cafe6613dc7f5691ed7f45b8ee6724cafe5603dc7f56900000000000000000000000000000000"},
		{nv, dtype.BF16, 502, "68683f3f7e7e2020", "bfe5692ec7f45a0ed6724cafe6613db7f5692ed7f45b8ee6724cafe6613dc7f5691ed7f45b8ee6724cafe5603dc7f56900000000000000000000000000000000"},
		{mx, dtype.BF16, 0, "7c777f00", "bfe5692ec7f45a0ed6724cafe6613dc7e5691ed7f45b8ed6724cafe5603dc7f5691ec6f35b8ed6624cafe5602dc7e45900000000000000000000000000000000"},
	} {
		m := block.New(c.typ, 2, 64)
		if err := block.EncodeFP4(m, x, []float32{5.375}, c.like); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(m.Plane(dtype.Scales)); got != c.scales {
			t.Errorf("%v of %v: scales %s, want %s", c.typ, c.like, got, c.scales)
		}
		if got := hex.EncodeToString(m.Plane(dtype.Codes)); got != c.codes {
			t.Errorf("%v of %v: codes %s, want %s", c.typ, c.like, got, c.codes)
		}
		if all := m.Plane(dtype.NestedScales); c.number != 0 && !slices.Equal(floats32(all), []float32{c.number, c.number}) {
			t.Errorf("%v of %v: numbers %v, want %v", c.typ, c.like, floats32(all), c.number)
		}
	}
	two, apart := block.New(nv, 2, 64), block.New(nv, 1, 64) // two matrices, each with a number of its own
	if err := errors.Join(block.EncodeFP4(two, x, []float32{1, 5.375}, dtype.F32), block.EncodeFP4(apart, x[:64], []float32{1}, dtype.F32)); err != nil {
		t.Fatal(err)
	}
	if a, b := two.Plane(dtype.Codes)[:32], apart.Plane(dtype.Codes); !bytes.Equal(a, b) || !slices.Equal(floats32(two.Plane(dtype.NestedScales)), []float32{2688, 500.093017578125}) {
		t.Errorf("two matrices: codes %x and %x, numbers %v", a, b, floats32(two.Plane(dtype.NestedScales)))
	}
	x[5] = float32(math.NaN())
	if err := block.EncodeFP4(two, x, []float32{1}, dtype.F32); !errors.Is(err, block.ErrNotFinite) {
		t.Errorf("NaN: %v", err)
	}
}

func floats32(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	block.GetF32(out, b)
	return out
}
