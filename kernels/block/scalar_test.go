package block_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestScalars compares with torch's and ggml's conversions (golden/blocks/scalars).
func TestScalars(t *testing.T) {
	all := readST(t, testdir.Shared(t, "golden/blocks/scalars/scalars.safetensors"))
	// Floats of 32 bits are stored as torch stores them.
	stored := all["float16/x_f32"].Data
	x := make([]float32, len(stored)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(stored[4*i:]))
	}
	m := block.New(dtype.Of(dtype.F32), 1, len(x))
	t.Run("F32/encode", func(t *testing.T) {
		if err := block.Encode(m, x, nil); err != nil || !bytes.Equal(m.Data, stored) {
			t.Errorf("other bytes, %v", err)
		}
	})
	t.Run("F32/decode", func(t *testing.T) {
		y := make([]float32, len(x))
		if block.DecodeAll(y, block.Raw{Type: m.Type, Rows: m.Rows, Cols: m.Cols, Data: stored}); !sameBits(y, x) {
			t.Error("other values")
		}
	})
	for kind, f := range map[dtype.Kind]struct {
		name string
		to   func(float32) uint16
	}{dtype.F16: {"float16", block.F16}, dtype.BF16: {"bfloat16", block.BF16}} {
		t.Run(kind.String()+"/encode", func(t *testing.T) {
			for i, v := range all[f.name+"/x_f32"].f32() {
				want := binary.LittleEndian.Uint16(all[f.name+"/encode_bits_ggml"].Data[2*i:])
				if got := f.to(v); got != want {
					t.Errorf("%v (%08x) gives %04x, want %04x", v, math.Float32bits(v), got, want)
				}
			}
		})
	}
	t.Run("F16/decode", func(t *testing.T) {
		for i, want := range all["float16/decode_every_5th_f32"].f32() {
			if got := block.FromF16(uint16(5 * i)); !sameBits([]float32{got}, []float32{want}) {
				t.Errorf("%04x is %v, want %v", 5*i, got, want)
			}
		}
	})
	for kind, f := range map[dtype.Kind]struct {
		name string
		to   func(float32) uint8
		from func(uint8) float32
	}{
		dtype.F8E4M3: {"float8_e4m3fn", block.E4M3, block.FromE4M3},
		dtype.F8E5M2: {"float8_e5m2", block.E5M2, block.FromE5M2},
		dtype.F8E8M0: {"float8_e8m0fnu", block.E8M0, block.FromE8M0},
	} {
		t.Run(kind.String()+"/encode", func(t *testing.T) {
			for _, in := range []string{"f32", "bf16", "f16"} {
				want := all[f.name+"/encode_"+in].Data
				for i, v := range widen(all[f.name+"/x_"+in]) {
					if got := f.to(v); got != want[i] && v == v {
						t.Errorf("%v gives %02x, want %02x", v, got, want[i])
					} else if v != v && got&0x7f != 0x7f {
						t.Errorf("NaN gives %02x", got)
					}
				}
			}
		})
		t.Run(kind.String()+"/decode", func(t *testing.T) {
			for i, want := range all[f.name+"/decode_f32"].f32() {
				if got := f.from(uint8(i)); !sameBits([]float32{got}, []float32{want}) {
					t.Errorf("%02x is %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestScaleBytes: every byte that the scale of MXFP4 or NVFP4 can be, as ggml
// decodes it (golden/blocks/scalars).
func TestScaleBytes(t *testing.T) {
	all := readST(t, testdir.Shared(t, "golden/blocks/scalars/scalars.safetensors"))
	for name, k := range map[string]dtype.Kind{"mxfp4": dtype.MXFP4, "nvfp4": dtype.NVFP4} {
		m := block.Raw{Type: dtype.Of(k), Rows: 256, Cols: k.Info().Block, Data: all[name+"/blocks"].Data}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		got, want := make([]float32, m.Rows*m.Cols), all[name+"/decode_f32"].f32()
		block.DecodeAll(got, m)
		for i := range m.Rows {
			if a, b := got[i*m.Cols:][:m.Cols], want[i*m.Cols:][:m.Cols]; !sameBits(a, b) {
				t.Errorf("%s: scale %#02x decodes to %v, want %v", name, i, a, b)
			}
		}
	}
}

// TestHalfAll: every half and every bfloat16 survives a round trip.
func TestHalfAll(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		if v := block.FromF16(h); v == v && block.F16(v) != h {
			t.Fatalf("f16 %04x is %v, comes back as %04x", h, v, block.F16(v))
		}
		if v := block.FromBF16(h); v == v && block.BF16(v) != h {
			t.Fatalf("bf16 %04x is %v, comes back as %04x", h, v, block.BF16(v))
		}
	}
	for i := range 256 {
		b := uint8(i)
		if v := block.FromE4M3(b); v == v && block.E4M3(v) != b {
			t.Fatalf("e4m3 %02x is %v, comes back as %02x", b, v, block.E4M3(v))
		}
		if v := block.FromE5M2(b); v == v && block.E5M2(v) != b {
			t.Fatalf("e5m2 %02x is %v, comes back as %02x", b, v, block.E5M2(v))
		}
	}
	if v := block.FromF16(1); v != float32(math.Ldexp(1, -24)) {
		t.Errorf("smallest half is %v", v)
	}
}

// TestJoin: blocks of GGUF made of codes and scales have their values, those of negative scales too, and
// make them again; what is no number is said.
func TestJoin(t *testing.T) {
	codes, scales, b := make([]byte, 32), []byte{0x38, 0xb8, 1, 0x7e}, make([]byte, 36)
	for i := range codes {
		codes[i] = byte(37 * i)
	}
	if !block.JoinNVFP4(b, codes, scales) {
		t.Fatal("NVFP4: a number was said to be none")
	}
	got := make([]float32, 64)
	block.DecodeAll(got, block.Raw{Type: dtype.Of(dtype.NVFP4), Rows: 1, Cols: 64, Data: b})
	for i, v := range got {
		if want := block.FromE2M1(codes[i/2]>>(i%2*4)&15) * block.FromE4M3(scales[i/16]); v != want {
			t.Errorf("NVFP4: value %d is %g, expected %g", i, v, want)
		}
	}
	scales[1] = 0x38
	again, of := make([]byte, 32), make([]byte, 4)
	block.JoinNVFP4(b, codes, scales)
	block.SplitNVFP4(again, of, b)
	if !bytes.Equal(again, codes) || !bytes.Equal(of, scales) {
		t.Errorf("NVFP4: %x %x came back as %x %x", codes, scales, again, of)
	}
	for _, s := range []byte{0x7f, 0xff} {
		if scales[2] = s; block.JoinNVFP4(b, codes, scales) {
			t.Errorf("NVFP4: %x is taken for a number", s)
		}
	}
	mx := make([]byte, 17)
	if !block.JoinMXFP4(mx, codes, 125) {
		t.Fatal("MXFP4: a number was said to be none")
	}
	block.DecodeAll(got[:32], block.Raw{Type: dtype.Of(dtype.MXFP4), Rows: 1, Cols: 32, Data: mx})
	for i, v := range got[:32] {
		if want := block.FromE2M1(codes[i/2]>>(i%2*4)&15) / 4; v != want {
			t.Errorf("MXFP4: value %d is %g, expected %g", i, v, want)
		}
	}
	if block.JoinMXFP4(mx, codes, 255) {
		t.Error("MXFP4: 255 is taken for a number")
	}
}
