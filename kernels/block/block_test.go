package block_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// types are one of every kind and flag that can be encoded.
var types = []dtype.Type{
	dtype.Of(dtype.F32), dtype.Of(dtype.F16), dtype.Of(dtype.BF16), dtype.Of(dtype.F8E4M3), dtype.Of(dtype.F8E5M2),
	dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1), dtype.Of(dtype.Q5_0), dtype.Of(dtype.Q5_1), dtype.Of(dtype.Q8_0),
	dtype.Of(dtype.Q2_K), dtype.Of(dtype.Q3_K), dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q5_K), dtype.Of(dtype.Q6_K),
	dtype.Of(dtype.IQ4_NL), dtype.Of(dtype.IQ4_XS),
	dtype.Of(dtype.IQ3_S), dtype.Of(dtype.IQ3_XXS), dtype.Of(dtype.IQ2_S), dtype.Of(dtype.IQ2_XS), dtype.Of(dtype.IQ2_XXS), dtype.Of(dtype.IQ1_M), dtype.Of(dtype.IQ1_S),
	dtype.Of(dtype.TQ2_0), dtype.Of(dtype.TQ1_0), dtype.Of(dtype.Q2_0), dtype.Of(dtype.Q1_0), dtype.Of(dtype.MXFP4), dtype.Of(dtype.NVFP4),
	{Kind: dtype.NF4, Group: 64}, {Kind: dtype.FP4, Group: 128}, dtype.NF4Double, {Kind: dtype.FP4, Group: 64, Flags: dtype.Nested},
	{Kind: dtype.Int2, Group: 32, Scale: dtype.F16}, {Kind: dtype.Int2, Group: 64, Scale: dtype.F32, Flags: dtype.Zero},
	{Kind: dtype.Int3, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int3, Group: -1, Scale: dtype.BF16},
	{Kind: dtype.Int5, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int6, Group: -1, Scale: dtype.BF16}, {Kind: dtype.Int6, Group: 32, Scale: dtype.F16, Flags: dtype.Perm},
	{Kind: dtype.Int4, Group: 128, Scale: dtype.BF16}, {Kind: dtype.Int4, Group: 32, Scale: dtype.F16, Flags: dtype.Zero},
	{Kind: dtype.Int4, Group: 64, Scale: dtype.F16, Flags: dtype.Zero | dtype.Perm}, {Kind: dtype.Int8, Group: -1, Scale: dtype.F32},
	{Kind: dtype.Int8, Group: 128, Scale: dtype.F16, Flags: dtype.Perm},
	{Kind: dtype.F8E4M3, Group: 128, Scale: dtype.F32}, {Kind: dtype.F8E5M2, Group: -1, Scale: dtype.BF16},
}

// noise is n values like those of a weight matrix.
func noise(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 7))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * 0.05)
	}
	return x
}

// even is the importance that type t cannot do without: the same of all columns;
// nil for a type that can.
func even(t dtype.Type, cols int) []float32 {
	if !block.NeedsImportance(t.Kind) {
		return nil
	}
	return slices.Repeat([]float32{1}, cols)
}

// encoded makes a matrix of type t; the columns of a permuted one are dealt
// round to its groups. Types that need importance get even's for nil.
func encoded(t testing.TB, ty dtype.Type, rows, cols int, x, w []float32) block.Raw {
	t.Helper()
	m := block.New(ty, rows, cols)
	for c := range len(m.Plane(dtype.PermIndex)) / 4 {
		m.Plane(dtype.PermIndex)[4*c] = byte(c % ty.Groups(cols))
	}
	if w == nil {
		w = even(ty, cols)
	}
	if err := block.Encode(m, x, w); err != nil {
		t.Fatalf("%v: %v", ty, err)
	}
	return m
}

// TestParts: any part decodes to the same bits as the whole, for every type.
func TestParts(t *testing.T) {
	const rows, cols = 3, 512
	x := noise(rows*cols, 1)
	for _, ty := range types {
		m := encoded(t, ty, rows, cols, x, nil)
		if err := m.Check(); err != nil {
			t.Errorf("%v: %v", ty, err)
		}
		all := make([]float32, rows*cols)
		block.DecodeAll(all, m)
		unit := ty.Kind.Info().Unit
		for _, n := range []int{unit, 3 * unit, 160, 256, cols} {
			if n%unit != 0 {
				continue
			}
			for r := range rows {
				for c := 0; c+n <= cols; c += n {
					dst := make([]float32, n+1)
					dst[n] = 42
					block.Decode(dst, m, r, c, n)
					if !slices.Equal(dst[:n], all[r*cols+c:][:n]) || dst[n] != 42 {
						t.Fatalf("%v: %d elements from (%d, %d) differ", ty, n, r, c)
					}
				}
			}
		}
	}
}

// TestOddBooks: rows of NF4 of odd length share bytes and blocks.
func TestOddBooks(t *testing.T) {
	for _, ty := range []dtype.Type{{Kind: dtype.NF4, Group: 63}, dtype.NF4Double, {Kind: dtype.FP4, Group: 64}} {
		const rows, cols = 7, 65
		x := noise(rows*cols, 2)
		m, flat := encoded(t, ty, rows, cols, x, nil), encoded(t, ty, 1, rows*cols, x, nil)
		a, b := make([]float32, len(x)), make([]float32, len(x))
		block.DecodeAll(a, m)
		block.DecodeAll(b, flat)
		if !slices.Equal(a, b) {
			t.Errorf("%v: rows of 65 decode unlike the flat tensor", ty)
		}
	}
}

// TestError bounds the relative error of every type on normal noise.
func TestError(t *testing.T) {
	limit := map[int]float64{2: 0.45, 3: 0.22, 4: 0.12, 5: 0.06, 6: 0.03, 8: 0.03, 16: 0.002, 32: 1e-9}
	bits := map[dtype.Kind]int{dtype.Q2_K: 2, dtype.Q3_K: 3, dtype.Q5_0: 5, dtype.Q5_1: 5, dtype.Q5_K: 5, dtype.Q6_K: 6,
		dtype.Q8_0: 8, dtype.F8E4M3: 6, dtype.F8E5M2: 5, dtype.F16: 16, dtype.BF16: 16, dtype.F32: 32, dtype.Int2: 1, dtype.FP4: 3}
	low := map[dtype.Kind]float64{dtype.IQ3_S: 0.18, dtype.IQ3_XXS: 0.23, dtype.IQ2_S: 0.29, dtype.IQ2_XS: 0.32, dtype.IQ2_XXS: 0.37, dtype.IQ1_M: 0.6, dtype.IQ1_S: 0.52,
		dtype.TQ2_0: 0.85, dtype.TQ1_0: 0.85, dtype.Q2_0: 0.75, dtype.Q1_0: 0.62}
	const rows, cols = 4, 512
	x := noise(rows*cols, 3)
	for _, ty := range types {
		b := bits[ty.Kind]
		if b == 0 {
			b = ty.Bits()
		}
		if b == 0 {
			b = 4
		}
		m := encoded(t, ty, rows, cols, x, nil)
		y := make([]float32, len(x))
		block.DecodeAll(y, m)
		var e, s float64
		for i := range x {
			d := float64(x[i] - y[i])
			e, s = e+d*d, s+float64(x[i])*float64(x[i])
		}
		got, want := math.Sqrt(e/s), limit[b]
		if ty.Kind == dtype.Int2 {
			want = 1
		} else if ty.Kind == dtype.Int3 {
			want = 0.35
		} else if ty.Kind == dtype.Int4 {
			want = 0.16
		} else if ty.Kind == dtype.Int5 {
			want = 0.08
		} else if ty.Kind == dtype.Int6 {
			want = 0.05
		} else if l, ok := low[ty.Kind]; ok {
			want = l
		}
		if !(got < want) {
			t.Errorf("%v: relative error %.4f, expected below %.3f", ty, got, want)
		}
	}
}

// TestThreads: the same bytes at any number of threads.
func TestThreads(t *testing.T) {
	defer par.SetThreads(0)
	const rows, cols = 96, 768
	x, w := noise(rows*cols, 4), noise(cols, 5)
	for i := range w {
		w[i] *= w[i]
	}
	for _, ty := range types {
		var first []byte
		for _, n := range []int{1, 2, 5} {
			par.SetThreads(n)
			m := encoded(t, ty, rows, cols, x, w)
			if first == nil {
				first = m.Data
			} else if string(first) != string(m.Data) {
				t.Errorf("%v: other bytes with %d threads", ty, n)
			}
		}
	}
}

func TestEncodeRows(t *testing.T) {
	const rows, cols = 5, 512
	x := noise(rows*cols, 6)
	for _, ty := range types {
		if ty.Kind == dtype.NF4 || ty.Kind == dtype.FP4 || ty.Flags&dtype.Perm != 0 {
			continue
		}
		whole, parts := encoded(t, ty, rows, cols, x, nil), block.New(ty, rows, cols)
		for _, r := range [][2]int{{3, 2}, {0, 1}, {1, 2}} {
			if err := block.EncodeRows(parts, r[0], r[1], x[r[0]*cols:(r[0]+r[1])*cols], even(ty, cols)); err != nil {
				t.Fatal(err)
			}
		}
		if string(whole.Data) != string(parts.Data) {
			t.Errorf("%v: rows on their own give other bytes", ty)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	x := noise(512, 8)
	x[300] = float32(math.NaN())
	for _, ty := range types {
		if !ty.Quantized() {
			continue
		}
		m := block.New(ty, 2, 256)
		if err := block.Encode(m, x, even(ty, 256)); !errors.Is(err, block.ErrNotFinite) {
			t.Errorf("%v: NaN gives %v", ty, err)
		}
	}
	x[300] = 3e38
	if err := block.Encode(block.New(dtype.Of(dtype.Q4_K), 2, 256), x, nil); !errors.Is(err, block.ErrNotFinite) {
		t.Errorf("3e38 gives %v", err)
	}
	if err := block.Encode(block.New(dtype.Of(dtype.Q4_K), 2, 256), noise(512, 8), append(make([]float32, 255), -1)); err == nil {
		t.Error("negative importance is accepted")
	}
	if err := block.Encode(block.New(dtype.Of(dtype.NF4), 2, 256), noise(512, 8), nil); err == nil {
		t.Error("NF4 without block size is accepted")
	}
	if err := block.Encode(block.New(dtype.Of(dtype.IQ2_XS), 2, 256), noise(512, 8), nil); err == nil {
		t.Error("IQ2_XS without importance is accepted")
	}
	if err := block.Encode(block.New(dtype.Of(dtype.I32), 2, 256), noise(512, 8), nil); err == nil {
		t.Error("floats are encoded as I32")
	}
}

// FuzzDecode: any bytes of the right length decode, wherever they are read.
func FuzzDecode(f *testing.F) {
	f.Add(uint8(0), []byte{1, 2, 3})
	f.Add(uint8(27), []byte{0xff, 0x80, 0x7c})
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		ty := types[int(which)%len(types)]
		m := block.New(ty, 3, 512)
		for i := range m.Data {
			if len(b) > 0 {
				m.Data[i] = b[i%len(b)] + byte(i/len(b))
			}
		}
		dst := make([]float32, 512)
		unit := ty.Kind.Info().Unit
		for r := range 3 {
			block.Decode(dst, m, r, 0, 512)
			block.Decode(dst, m, r, 512-unit, unit)
		}
		_ = m.Check()
	})
}

// FuzzEncode: finite values either fail or decode to finite values.
func FuzzEncode(f *testing.F) {
	f.Add(uint8(12), uint64(1), float32(1))
	f.Add(uint8(17), uint64(2), float32(1e30))
	f.Fuzz(func(t *testing.T, which uint8, seed uint64, scale float32) {
		ty := types[int(which)%len(types)]
		x := noise(512, seed)
		for i := range x {
			if x[i] *= scale; x[i] != x[i] || math.IsInf(float64(x[i]), 0) {
				return
			}
		}
		m := block.New(ty, 1, 512)
		if err := block.Encode(m, x, even(ty, 512)); err != nil || !ty.Quantized() {
			return
		}
		y := make([]float32, 512)
		block.DecodeAll(y, m)
		for i, v := range y {
			if ty.HasPlanes() {
				break // scales of half precision may overflow
			}
			if v != v || math.IsInf(float64(v), 0) && math.Abs(float64(x[i])) < 1e38 {
				t.Fatalf("%v: %v decodes to %v", ty, x[i], v)
			}
		}
	})
}

// BenchmarkEncode is the rate of the encoders on one thread, in bytes of f32
// input, and for those with vector kernels how many times that of plain Go.
func BenchmarkEncode(b *testing.B) {
	defer par.SetThreads(0)
	par.SetThreads(1)
	const rows, cols = 64, 2304
	x, w := noise(rows*cols, 9), noise(cols, 10)
	for i := range w {
		w[i] *= w[i]
	}
	for _, ty := range types {
		blocks := ty.Kind.Info().Family == dtype.GGML
		for _, im := range [][]float32{nil, w} {
			if im != nil && !block.Weighs(ty.Kind) || im == nil && block.NeedsImportance(ty.Kind) || ty.Flags&dtype.Perm != 0 {
				continue
			}
			m := block.New(ty, rows, cols)
			run := func() {
				if err := block.Encode(m, x, im); err != nil {
					b.Fatal(err)
				}
			}
			b.Run(fmt.Sprintf("%v/importance=%v", ty, im != nil), func(b *testing.B) {
				plain := time.Duration(math.MaxInt64)
				restore := level.Force(level.Generic)
				for range 3 {
					t := time.Now()
					run()
					plain = min(plain, time.Since(t))
				}
				restore()
				b.SetBytes(4 * rows * cols)
				for b.Loop() {
					run()
				}
				if blocks {
					b.ReportMetric(float64(plain)*float64(b.N)/float64(b.Elapsed()), "times-plain")
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	const rows, cols = 16, 2048
	x, dst := noise(rows*cols, 11), make([]float32, cols)
	for _, ty := range types {
		m := encoded(b, ty, rows, cols, x, nil)
		b.Run(ty.String(), func(b *testing.B) {
			b.SetBytes(4 * rows * cols)
			for b.Loop() {
				for r := range rows {
					block.Decode(dst, m, r, 0, cols)
				}
			}
		})
	}
}
