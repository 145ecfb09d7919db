package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// Decoding by units equals package block, in rows and in strips, and goes by
// units where it should.
func TestUnitsEqualBlock(t *testing.T) {
	byUnits := map[string]bool{}
	for _, s := range storageTypes {
		m, _ := encoded(t, s.t, 37, s.cols)
		u := unitsOf(&m)
		if u == nil {
			continue
		}
		byUnits[s.t.Kind.String()] = true
		want, got := make([]float32, s.cols), make([]float32, s.cols)
		strip := make([]float32, 37*40)
		for row := range 37 {
			for col := 0; col < s.cols; col += 32 {
				n := min(s.cols-col, 32*(1+row%5))
				blocks.Decode(want[:n], m, row, col, n)
				u.rowOf(got[:n], row, col, n)
				equalBits(t, s.t, row, got[:n], want[:n])
			}
		}
		for col := 0; col < s.cols; col += 32 {
			u.strip(strip, 40, 3, 34, col)
			for row := range 34 {
				blocks.Decode(want[:32], m, row+3, col, 32)
				equalBits(t, s.t, row+3, strip[row*40:][:32], want[:32])
			}
		}
	}
	if !haveUnits() {
		return
	}
	kinds := []dtype.Kind{dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1, dtype.Q8_0, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K, dtype.IQ4_NL, dtype.NF4, dtype.FP4, dtype.Int4, dtype.F8E4M3, dtype.F4E2M1}
	if haveColumns() {
		kinds = append(kinds, dtype.Q2_K, dtype.Q3_K, dtype.IQ4_XS)
	}
	for _, k := range kinds {
		if !byUnits[k.String()] {
			t.Errorf("%v is not decoded by units", k)
		}
	}
}

// Decoders of whole blocks of few bits equal package block for any bytes, also where
// scales are infinite or no numbers.
func TestFewRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for _, typ := range mvTypes {
		k := typ.Kind
		if _, ok := fewBitScales[k]; !ok {
			continue
		}
		m := blocks.New(dtype.Of(k), 9, 1024)
		for i := range m.Data {
			m.Data[i] = byte(rng.Uint32())
		}
		want, got := make([]float32, 512), fill(513, 7)
		for row := range m.Rows {
			for _, part := range [][2]int{{0, 512}, {512, 256}, {768, 256}} {
				col, n := part[0], part[1]
				if !fewRow(got[:n], &m, row, col) {
					if level.Current() >= level.AVX512 {
						t.Fatalf("%v has no decoder", k)
					}
					continue
				}
				blocks.Decode(want[:n], m, row, col, n)
				for i, v := range want[:n] {
					if g := got[i]; v != g && (v == v || g == g) {
						t.Fatalf("%v: row %d element %d is %g, want %g", k, row, col+i, g, v)
					}
				}
			}
		}
		if fewRow(got[:32], &m, 0, 32) || got[512] != 7 {
			t.Errorf("%v: half a unit is decoded, or more than was asked for", k)
		}
	}
}

// Every byte of small floats decodes as package block has it, also what is no number.
func TestUnitsOfFloats(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, typ := range []dtype.Type{{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}, {Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}} {
			m := blocks.New(typ, 256, 512)
			for _, plane := range []int{dtype.Codes, dtype.Scales} {
				p := m.Plane(plane)
				for i := range p {
					p[i] = byte(i + i/256)
				}
			}
			nested := m.Plane(dtype.NestedScales)
			for i := 0; i < len(nested); i += 4 {
				blocks.PutF32(nested[i:], []float32{float32(i) + 0.7})
			}
			u := unitsOf(&m)
			if u == nil {
				continue
			}
			want, got := make([]float32, m.Cols), make([]float32, m.Cols)
			for row := range m.Rows {
				blocks.Decode(want, m, row, 0, m.Cols)
				u.rowOf(got, row, 0, m.Cols)
				for i, v := range want {
					if v != got[i] && (v == v || got[i] == got[i]) {
						t.Fatalf("%v: row %d element %d is %g, want %g", typ, row, i, got[i], v)
					}
				}
			}
		}
	})
}

// equalBits compares all bits but the sign of a zero.
func equalBits(t *testing.T, typ dtype.Type, row int, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if v != got[i] {
			t.Fatalf("%v: row %d element %d is %g, want %g", typ, row, i, got[i], v)
		}
	}
}

func TestRoundBF16(t *testing.T) {
	x := random(3000)
	for i := range 2000 { // ties and their neighbours
		x[i] = math.Float32frombits(math.Float32bits(x[i])&^0xffff | [4]uint32{0x8000, 0x7fff, 0x8001, 0}[i%4])
	}
	inf := float32(math.Inf(1))
	copy(x, []float32{0, inf, -inf, math.MaxFloat32, math.SmallestNonzeroFloat32, -1e-40, float32(math.Copysign(0, -1))})
	want := append([]float32(nil), x...)
	roundBF16Generic(want)
	for _, l := range level.Supported() {
		func() {
			defer level.Force(l)()
			for n := 0; n < 70; n++ {
				y := append([]float32(nil), x[n:]...)
				roundBF16(y[:len(y)-n])
				for i, v := range y {
					w := x[n+i]
					if i < len(y)-n {
						w = want[n+i]
					}
					if math.Float32bits(v) != math.Float32bits(w) {
						t.Fatalf("%v: %x rounds to %x, want %x", l, math.Float32bits(x[n+i]), math.Float32bits(v), math.Float32bits(w))
					}
				}
			}
		}()
	}
	nan := []float32{math.Float32frombits(0x7f800001), math.Float32frombits(0xffc00000), math.Float32frombits(0x7fffffff)}
	roundBF16(nan)
	for i, v := range nan {
		if v == v {
			t.Errorf("NaN %d became %g", i, v)
		}
	}
}

func TestDropRow(t *testing.T) {
	d := &kernels.Drop{P: 0.3, Seed: 1 << 63, Step: 4, Site: 5}
	eachLevel(t, func(t *testing.T) {
		for n := range 70 {
			for col := range 5 {
				want, got := random(80), random(80)
				d.Apply(want[:n], -3<<32|int64(n), col)
				dropRow(got[:n], d, -3<<32|int64(n), col)
				equalBits(t, dtype.Type{}, n, got, want)
			}
		}
	})
}

func TestHalves(t *testing.T) {
	m, want := encoded(t, dtype.Of(dtype.F16), 1, 500)
	for n := range 67 {
		dst := fill(70, 9)
		if !halvesTo(dst[:n], m.Data[2*n:]) {
			continue
		}
		equalBits(t, m.Type, n, dst[:n], want[n:2*n])
		if dst[n] != 9 {
			t.Fatalf("%d halves: wrote past the end", n)
		}
	}
}
