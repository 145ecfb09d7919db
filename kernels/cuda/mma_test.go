package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMMA: products of 16-bit numbers on tensor cores are those in float64, for
// either type, size of tile and orientation, with rows that are whole 16 bytes and
// that are not, and whatever the order of blocks; by warpgroups, too.
func TestMMA(t *testing.T) {
	defer func(n int) { busy = n }(busy)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, k := range []dtype.Kind{dtype.BF16, dtype.F16} {
		for _, s := range []struct {
			m, n, k, busy int
			groups        bool
			kernel        string
		}{
			{40, 72, 104, 128, false, "mma_%s_64"}, {66, 70, 35, 1, false, "mma_%s_128"}, {130, 136, 72, 1, false, "mma_%s_128"},
			{40, 72, 104, 1, true, "mma_%s_64"}, {66, 150, 35, 1, true, "wgmma_%s"}, {130, 264, 392, 1, true, "wgmma_%s"},
		} {
			for _, ta := range []bool{false, true} {
				for _, tb := range []bool{false, true} {
					c, sim := interpreted(t)
					sim.Profile, sim.Reverse, sim.Hopper = true, ta != tb, s.groups
					busy, c.groups.on = s.busy, s.groups
					a, av := halfBuffer(t, c, rng, k, s.m*s.k)
					b, bv := halfBuffer(t, c, rng, k, s.k*s.n)
					y, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), s.m*s.n)
					if err != nil {
						t.Fatal(err)
					}
					got := make([]float32, s.m*s.n)
					err = c.Run(func() error {
						c.Gemm(kernels.To(y), &kernels.GemmArgs{A: a, B: b, M: s.m, N: s.n, K: s.k, TA: ta, TB: tb, Alpha: 0.5})
						return c.Download(kernels.Bytes(got), y)
					})
					what := fmt.Sprintf("%v %d×%d×%d ta %v tb %v", k, s.m, s.n, s.k, ta, tb)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					for j, v := range got {
						row, col, want := j/s.n, j%s.n, 0.0
						for p := range s.k {
							x, z := row*s.k+p, p*s.n+col
							if ta {
								x = p*s.m + row
							}
							if tb {
								z = col*s.k + p
							}
							want += float64(av[x]) * float64(bv[z]) / 2
						}
						if math.Abs(float64(v)-want) > 1e-5*math.Sqrt(float64(s.k)) {
							t.Fatalf("%s: element %d,%d is %v, want %v", what, row, col, v, want)
						}
					}
					name := fmt.Sprintf(s.kernel, orientation(flag(ta), flag(tb), k))
					if n := sim.Counts[name]; n == nil || n.Tensor < int64(s.m*s.n*s.k) {
						t.Errorf("%s: %s did %+v", what, name, n)
					} else if n.SharedPasses != n.SharedLeast {
						t.Errorf("%s: %d bank conflicts", what, n.SharedPasses-n.SharedLeast)
					}
					c.Close()
				}
			}
		}
	}
}

// halfBuffer is n numbers of kind k on the device, and their values.
func halfBuffer(t *testing.T, c *CUDA, rng *rand.Rand, k dtype.Kind, n int) (kernels.Buffer, []float32) {
	t.Helper()
	b, err := c.Alloc(kernels.Activations, dtype.Of(k), n)
	if err != nil {
		t.Fatal(err)
	}
	bits, values := make([]uint16, n), make([]float32, n)
	for i := range bits {
		v := float32(rng.NormFloat64())
		if k == dtype.BF16 {
			bits[i] = block.BF16(v)
			values[i] = block.FromBF16(bits[i])
		} else {
			bits[i] = block.F16(v)
			values[i] = block.FromF16(bits[i])
		}
	}
	raw := make([]byte, 0, 2*n)
	for _, h := range bits {
		raw = binary.LittleEndian.AppendUint16(raw, h)
	}
	c.Upload(b, raw)
	return b, values
}

// roundTF32 rounds to 10 bits behind the point, halves away from zero, by arithmetic.
func roundTF32(x float32) float32 {
	f, e := math.Frexp(float64(x))
	return float32(math.Ldexp(math.Round(math.Ldexp(f, 11)), e-11))
}

// TestTF32: with the variable products of f32 are those of operands rounded to tf32, in every orientation, for either
// size of tile, with rows that are whole 16 bytes and that are not; without it those of f32, never of a kernel of tf32.
func TestTF32(t *testing.T) {
	defer func(n int) { busy = n }(busy)
	rng := rand.New(rand.NewPCG(5, 7))
	some := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	for _, s := range []struct{ m, n, k, busy, tile int }{{40, 72, 44, 128, 64}, {66, 70, 35, 1, 128}, {132, 136, 20, 1, 128}} {
		for i := range 8 {
			ta, tb, on := i&1 != 0, i&2 != 0, i&4 != 0
			t.Setenv(TF32Variable, map[bool]string{true: "1"}[on])
			c, sim := interpreted(t)
			sim.Profile, sim.Reverse, sim.Hopper, busy = true, ta != tb, true, s.busy
			c.groups.on = true // which have no f32
			av, bv, got := some(s.m*s.k), some(s.k*s.n), make([]float32, s.m*s.n)
			var bufs []kernels.Buffer
			for _, x := range [][]float32{av, bv, got} {
				b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), len(x))
				if err != nil {
					t.Fatal(err)
				}
				c.Upload(b, kernels.Bytes(x))
				bufs = append(bufs, b)
			}
			err := c.Run(func() error {
				c.Gemm(kernels.To(bufs[2]), &kernels.GemmArgs{A: bufs[0], B: bufs[1], M: s.m, N: s.n, K: s.k, TA: ta, TB: tb, Alpha: 0.5})
				return c.Download(kernels.Bytes(got), bufs[2])
			})
			what := fmt.Sprintf("%d×%d×%d ta %v tb %v tf32 %v", s.m, s.n, s.k, ta, tb, on)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for j, v := range got {
				row, col, want := j/s.n, j%s.n, 0.0
				for p := range s.k {
					x, z := row*s.k+p, p*s.n+col
					if ta {
						x = p*s.m + row
					}
					if tb {
						z = col*s.k + p
					}
					a, b := av[x], bv[z]
					if on {
						a, b = roundTF32(a), roundTF32(b)
					}
					want += float64(a) * float64(b) / 2
				}
				if math.Abs(float64(v)-want) > 1e-5 {
					t.Fatalf("%s: element %d,%d is %v, want %v", what, row, col, v, want)
				}
			}
			name := "gemm"
			if on {
				name = fmt.Sprintf("mma_%s_%d", orientation(flag(ta), flag(tb), dtype.F32), s.tile)
			}
			n := sim.Counts[name]
			if n == nil || on && n.Tensor < int64(s.m*s.n*s.k) {
				t.Fatalf("%s: %s did %+v", what, name, n)
			}
			if on && n.SharedPasses != n.SharedLeast {
				t.Errorf("%s: %d bank conflicts", what, n.SharedPasses-n.SharedLeast)
			}
			for other := range sim.Counts {
				if !on && strings.Contains(other, "tf32") {
					t.Errorf("%s: %s ran", what, other)
				}
			}
			c.Close()
		}
	}
}

// TestTF32Linear: layers with experts or dropout, a bias and a second pair, and their gradients, of whole numbers, which tf32
// holds, as on the processor.
func TestTF32Linear(t *testing.T) {
	whole := func(o *operands, n int) kernels.Buffer {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(o.rng.IntN(9) - 4)
		}
		return o.buffer(dtype.F32, kernels.Bytes(x))
	}
	run := beside(func(o *operands) {
		const n, in, out, r, parts = 50, 30, 26, 5, 2
		for _, grouped := range []bool{false, true} {
			a := &kernels.LinearArgs{N: n, X: whole(o, n*in), U: whole(o, n*r), Alpha: 2}
			back := &kernels.LinearArgs{N: n, X: a.X, U: a.U, Alpha: 2}
			p := 1
			if grouped {
				p = parts
				a.Group, a.Experts = o.ints(0, 21, n), p
				back.Group, back.Experts = a.Group, p
			} else {
				key, err := o.Alloc(kernels.Activations, dtype.Of(dtype.I64), n)
				if err != nil {
					panic(kernels.Failed{Err: err})
				}
				tokens := make([]int64, n)
				for i := range tokens {
					tokens[i] = int64(i)
				}
				o.Upload(key, kernels.Bytes(tokens))
				a.Drop = &kernels.Drop{P: 0.5, Seed: 3, Key: key}
				back.Drop = a.Drop
			}
			a.Bias = whole(o, p*out)
			a.W, a.B = kernels.Mat{Buffer: whole(o, p*out*in), Rows: p * out, Cols: in}, kernels.Mat{Buffer: whole(o, p*out*r), Rows: p * out, Cols: r}
			back.W, back.B = a.W, kernels.Mat{Buffer: whole(o, p*r*in), Rows: p * r, Cols: in}
			o.Linear(o.out(n*out), a)
			o.LinearBackward(o.out(n*in), o.out(p*out*in), kernels.Dst{}, whole(o, n*out), back)
		}
	})
	t.Setenv(TF32Variable, "1")
	c, sim := interpreted(t)
	defer c.Close()
	sim.Profile = true
	if err := run(c); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"mma_nt_tf32_64", "mma_nn_tf32_64", "mma_tn_tf32_64"} {
		if n := sim.Counts[name]; n == nil || n.Launches != 2 {
			t.Errorf("%s: %+v", name, n)
		}
	}
	if sim.Counts["gemm"] != nil {
		t.Error("gemm ran, too")
	}
}

// TestTF32Chosen: the variable is part of the level and of what doctor shows; other values are errors of exit code 2.
func TestTF32Chosen(t *testing.T) {
	for value, level := range map[string]string{"": "sm_80", "0": "sm_80", "1": "sm_80+tf32", "yes": "", "2": "", "auto": ""} {
		t.Setenv(TF32Variable, value)
		c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 24), nil }, Options{Level: "sm_80+tf32"})
		if level == "" {
			if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "TUNE_TF32="+value+": known are 0 and 1") {
				t.Errorf("%q: %v (exit %d)", value, err, fail.Code(err))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if in := c.Info(); in.Level != level || in.Address != "cuda/"+level || strings.Contains(c.Describe(), "products of f32 rounded to tf32 (TUNE_TF32=1)") != (value == "1") {
			t.Errorf("%q: level %q, %q", value, in.Level, c.Describe())
		}
		c.Close()
	}
}
