package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
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
