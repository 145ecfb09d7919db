package block_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// awkward are weights that reach the corners of the searches, by name.
func awkward(n int) map[string][]float32 {
	r := rand.New(rand.NewPCG(uint64(n), 11))
	fill := func(f func(i int) float32) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = f(i)
		}
		return x
	}
	normal := func(scale float64) func(int) float32 {
		return func(int) float32 { return float32(r.NormFloat64() * scale) }
	}
	outlier := normal(0.01)
	return map[string][]float32{
		"normal":   fill(normal(0.05)),
		"positive": fill(func(int) float32 { return float32(math.Abs(r.NormFloat64())) + 3 }),
		"negative": fill(func(int) float32 { return -float32(math.Abs(r.NormFloat64())) - 3 }),
		"zero":     fill(func(i int) float32 { return float32(math.Copysign(0, float64(i%3-1))) }),
		"constant": fill(func(i int) float32 { return float32(i/256%3-1) * 0.7 }),
		"denormal": fill(normal(1e-42)),
		"tiny":     fill(normal(1e-16)),
		"small":    fill(normal(3e-38)),
		"huge":     fill(normal(2e3)),
		"larger":   fill(normal(1e30)),
		"largest":  fill(func(int) float32 { return float32(r.NormFloat64()*0.2) * math.MaxFloat32 }),
		"whole":    fill(func(int) float32 { return float32(r.IntN(17) - 8) }),
		"halves":   fill(func(int) float32 { return float32(r.IntN(9)-4) / 2 }),
		"rare":     fill(func(i int) float32 { return float32(r.NormFloat64()) * float32(min(1, max(0, r.IntN(20)-18))) }),
		"scales":   fill(func(i int) float32 { return float32(r.NormFloat64() * math.Pow(10, float64(i/16%40-20))) }),
		"blocks":   fill(func(i int) float32 { return float32(r.NormFloat64()) * float32(i/32%3) }),
		"outlier": fill(func(i int) float32 {
			if r.IntN(40) == 0 {
				return float32(r.NormFloat64())
			}
			return outlier(i)
		}),
	}
}

// importances are weights of the columns, nil among them.
func importances(cols int) [][]float32 {
	r := rand.New(rand.NewPCG(uint64(cols), 13))
	out := [][]float32{nil}
	for _, scale := range []float64{1, 1e-30, 1e12, 0} {
		w := make([]float32, cols)
		for i := range w {
			w[i] = float32(math.Exp(4*r.NormFloat64()) * scale)
			if r.IntN(30) == 0 {
				w[i] = 0
			}
		}
		out = append(out, w)
	}
	return out
}

// TestLevels: every level writes the bytes of plain Go.
func TestLevels(t *testing.T) {
	if len(level.Supported()) == 1 {
		t.Skip("this processor runs plain Go only")
	}
	for _, ty := range types {
		if ty.Kind.Info().Family != dtype.GGML {
			continue
		}
		t.Run(ty.String(), func(t *testing.T) {
			n := ty.Kind.Info().Block
			shapes := [][2]int{{1, n}, {3, 5 * n}, {37, n}, {5, 11 * n}, {2, 32 * n}}
			if !block.HasLanes(ty.Kind) {
				shapes = [][2]int{{3, 2 * n}} // one block at a time on every level
			}
			for _, shape := range shapes {
				for name, x := range awkward(shape[0] * shape[1]) {
					for i, w := range importances(shape[1]) {
						if w == nil && block.NeedsImportance(ty.Kind) {
							continue
						}
						same(t, fmt.Sprintf("%s %v importance %d", name, shape, i), ty, shape[0], shape[1], x, w)
					}
				}
			}
		})
	}
}

// TestDecodeLevels: every level decodes any bytes to the values of plain Go.
func TestDecodeLevels(t *testing.T) {
	const rows, cols = 3, 1024
	r := rand.New(rand.NewPCG(3, 17))
	for _, ty := range types {
		if ty.Kind.Info().Family != dtype.GGML {
			continue
		}
		m := block.New(ty, rows, cols)
		for i := range m.Data {
			m.Data[i] = byte(r.Uint32())
		}
		var want []float32
		for _, l := range level.Supported() {
			restore := level.Force(l)
			got := make([]float32, rows*cols+1)
			for i := range rows {
				block.Decode(got[i*cols:], m, i, 0, cols)
				block.Decode(got[i*cols+96:], m, i, 96, 160) // a part that ends within a block
			}
			restore()
			if want == nil {
				want = got
			}
			if !sameBits(got, want) {
				t.Errorf("%v decodes to other values at %v", ty, l)
			}
		}
	}
}

// TestAwkward: types that take a block at a time decode to finite values, or say
// that they cannot hold the weights.
func TestAwkward(t *testing.T) {
	for _, ty := range types {
		if ty.Kind.Info().Family != dtype.GGML || block.HasLanes(ty.Kind) {
			continue
		}
		t.Run(ty.String(), func(t *testing.T) {
			const rows, cols = 2, 512
			for name, x := range awkward(rows * cols) {
				for i, w := range importances(cols) {
					if w == nil && block.NeedsImportance(ty.Kind) {
						continue
					}
					m, y := block.New(ty, rows, cols), make([]float32, rows*cols)
					if err := block.Encode(m, x, w); err != nil {
						if !errors.Is(err, block.ErrNotFinite) {
							t.Errorf("%s importance %d: %v", name, i, err)
						}
						continue
					}
					block.DecodeAll(y, m)
					for j, v := range y {
						if v-v != 0 {
							t.Fatalf("%s importance %d: %v decodes to %v", name, i, x[j], v)
						}
					}
				}
			}
		})
	}
}

func same(t *testing.T, name string, ty dtype.Type, rows, cols int, x, w []float32) {
	t.Helper()
	var want block.Raw
	var wantErr error
	for _, l := range level.Supported() {
		restore := level.Force(l)
		m := block.New(ty, rows, cols)
		err := block.Encode(m, x, w)
		restore()
		if l == level.Generic {
			want, wantErr = m, err
			continue
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s at %v: %v, plain %v", name, l, err, wantErr)
		}
		size := ty.Kind.Info().Bytes
		for i := 0; i < len(m.Data); i += size {
			if !bytes.Equal(m.Data[i:i+size], want.Data[i:i+size]) {
				t.Fatalf("%s at %v, block %d:\n got %x\nwant %x", name, l, i/size, m.Data[i:i+size], want.Data[i:i+size])
			}
		}
	}
}

// TestFiniteLevels: a value that is not finite is found wherever it lies.
func TestFiniteLevels(t *testing.T) {
	for _, l := range level.Supported() {
		restore := level.Force(l)
		for at := range 96 {
			x := make([]float32, 3*32)
			x[at] = float32(math.Inf(1 - at%2*2))
			if at%3 == 0 {
				x[at] = float32(math.NaN())
			}
			if err := block.Encode(block.New(dtype.Of(dtype.Q8_0), 3, 32), x, nil); !errors.Is(err, block.ErrNotFinite) {
				t.Errorf("%v: element %d: %v", l, at, err)
			}
		}
		restore()
	}
}

// TestFakeInt: every level rounds a group to the same values.
func TestFakeInt(t *testing.T) {
	for _, ty := range types {
		if ty.Kind.Info().Family != dtype.Int || ty.Flags&dtype.Perm != 0 {
			continue
		}
		for _, n := range []int{16, 48, 50, 128} {
			for name, x := range awkward(n) {
				for _, limit := range []float32{float32(math.Inf(1)), 0.03} {
					s := noise(n, 3)
					for i := range s {
						s[i] = 1 + s[i]*s[i]
					}
					var want []float32
					for _, l := range level.Supported() {
						restore := level.Force(l)
						got := make([]float32, n)
						block.FakeInt(got, x, s, limit, ty)
						restore()
						if want == nil {
							want = got
						}
						if !slices.EqualFunc(got, want, func(a, b float32) bool { return a == b || a != a && b != b }) {
							t.Fatalf("%v of %d %s at %v:\n got %v\nwant %v", ty, n, name, l, got, want)
						}
					}
				}
			}
		}
	}
}

// TestFakeIntCompressedTensors: inputs in float32 are rounded as compressed-tensors 0.20.1 rounds them, a dynamic scale for each row, also where the
// largest of a row lies half way between two codes (in bfloat16 the library divides in bfloat16, and differs by a step where that rounds):
//
//	a = QuantizationArgs(num_bits=bits, type="int", symmetric=True, dynamic=True, strategy="token")
//	s, z = compute_dynamic_scales_and_zp(x, a, None); fake_quantize(x, s, z, a)
func TestFakeIntCompressedTensors(t *testing.T) {
	x := []float32{-1.16999996, -0.25999999, 0.649999976, -1.16999996, 0.389999986, -0.779999971, 0.129999995, -1.03999996,
		-0.129999995, 0.779999971, -0.389999986, 0.519999981, -0.649999976, 0.25999999, -0.909999967, 0}
	one := make([]float32, len(x))
	for i := range one {
		one[i] = 1
	}
	for kind, want := range map[dtype.Kind][]float32{
		dtype.Int8: {-1.1745882, -0.25694117, 0.651529372, -1.1745882, 0.385411739, -0.779999971, 0.128470585, -1.03694117,
			-0.128470585, 0.779999971, -0.385411739, 0.523058832, -0.651529372, 0.25694117, -0.908470571, 0},
		dtype.Int4: {-1.24799991, -0.311999977, 0.623999953, -1.24799991, 0.311999977, -0.779999971, 0.155999988, -1.09199989,
			-0.155999988, 0.779999971, -0.311999977, 0.467999965, -0.623999953, 0.311999977, -0.93599993, 0},
	} {
		for _, l := range level.Supported() {
			restore := level.Force(l)
			got := make([]float32, len(x))
			block.FakeInt(got, x, one, float32(math.Inf(1)), dtype.Type{Kind: kind, Group: -1})
			restore()
			if !slices.Equal(got, want) {
				t.Errorf("%v at %v:\n got %v\nwant %v", kind, l, got, want)
			}
		}
	}
}
