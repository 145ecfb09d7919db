package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// The 4-bit floats of folders.
var (
	mxfp4Folder = dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}
	nvfp4Folder = dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}
)

// thinTypes are the storage types that products of few rows have kernels for.
var thinTypes = []dtype.Type{
	dtype.Of(dtype.F32), dtype.Of(dtype.BF16), dtype.Of(dtype.F16), nf4, dtype.NF4Double, {Kind: dtype.FP4, Group: 128},
	dtype.Of(dtype.F8E4M3), {Kind: dtype.F8E4M3, Group: -1}, {Kind: dtype.F8E5M2, Group: 32, Scale: dtype.F16},
	{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}, {Kind: dtype.F8E4M3, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested}, mxfp4Folder, nvfp4Folder, {Kind: dtype.F4E2M1, Group: -1}, {Kind: dtype.F4E2M1, Group: 64, Scale: dtype.BF16},
	{Kind: dtype.Int4, Group: 32, Scale: dtype.BF16, Flags: dtype.Zero}, {Kind: dtype.Int4, Group: 128, Scale: dtype.F16}, {Kind: dtype.Int4, Group: -1},
	{Kind: dtype.Int8, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: -1, Scale: dtype.BF16},
	dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1), dtype.Of(dtype.Q5_0), dtype.Of(dtype.Q5_1), dtype.Of(dtype.Q8_0),
	dtype.Of(dtype.Q2_K), dtype.Of(dtype.Q3_K), dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q5_K), dtype.Of(dtype.Q6_K), dtype.Of(dtype.IQ4_NL), dtype.Of(dtype.IQ4_XS), dtype.Of(dtype.MXFP4), dtype.Of(dtype.NVFP4),
}

// thinWeight is a matrix of random numbers in a storage type, and its values.
func thinWeight(rng *rand.Rand, t dtype.Type, rows, cols int) (block.Raw, []float32, error) {
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	raw := block.New(t, rows, cols)
	if err := block.Encode(raw, x, nil); err != nil {
		return raw, nil, err
	}
	block.DecodeAll(x, raw)
	return raw, x, nil
}

// TestThin: products of 1 to 16 rows with every storage type are those in float64, for
// rows that are no whole number of a warp's columns, slices of the sum, rows of x in every
// type, a second pair and a bias; by the kernel that is meant, without bank conflicts
// beyond those of copies that nobody shares.
func TestThin(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for i, typ := range thinTypes {
		for _, s := range []struct{ m, n, k int }{{1, 21, 1280}, {3, 9, 2304}, {16, 5, 512}, {1, 1, 352}} {
			if i%3 != 0 && s.m == 16 || s.k == 352 && (!dtype.Fits(typ, s.k) || typ.Group > 32 || typ.Kind == dtype.NVFP4) {
				continue
			}
			c, sim := interpreted(t)
			sim.Profile, sim.Reverse = true, i%2 == 0
			raw, w, err := thinWeight(rng, typ, s.n, s.k)
			if err != nil {
				t.Fatal(err)
			}
			kind := []dtype.Kind{dtype.BF16, dtype.F16}[i%2]
			x, xv := halfBuffer(t, c, rng, kind, s.m*s.k)
			if s.m == 3 {
				x = upload(t, c, xv)
			}
			const r = 5
			uv, bv, bias := normals(rng, s.m*r), normals(rng, s.n*r), normals(rng, s.n)
			got := make([]float32, s.m*s.n)
			err = c.Run(func() error {
				m, err := c.Load(kernels.Weights, typ, s.n, s.k, raw.Data, kernels.Copy)
				if err != nil {
					return err
				}
				y, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), s.m*s.n)
				if err != nil {
					return err
				}
				c.Linear(kernels.To(y), &kernels.LinearArgs{N: s.m, X: x, W: m, Bias: upload(t, c, bias), U: upload(t, c, uv),
					B: kernels.Mat{Buffer: upload(t, c, bv), Rows: s.n, Cols: r, Of: s.n}, Alpha: 0.5})
				return c.Download(kernels.Bytes(got), y)
			})
			what := fmt.Sprintf("%v %d rows, %d←%d", typ, s.m, s.n, s.k)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for j, v := range got {
				row, col := j/s.n, j%s.n
				var want, size float64
				for p := range s.k {
					q := float64(xv[row*s.k+p]) * float64(w[col*s.k+p]) / 2
					want, size = want+q, size+q*q
				}
				want += float64(bias[col])
				for p := range r {
					want += float64(uv[row*r+p]) * float64(bv[col*r+p])
				}
				if !(math.Abs(float64(v)-want) <= 1e-5*math.Sqrt(size)) {
					t.Fatalf("%s: element %d,%d is %v, want %v", what, row, col, v, want)
				}
			}
			for name, n := range sim.Counts {
				if name[:5] != "thin_" || len(sim.Counts) != 1 {
					t.Errorf("%s: ran %s", what, name)
				}
				if n.SharedPasses > 2*n.SharedLeast {
					t.Errorf("%s: %d passes over banks, %d are enough", what, n.SharedPasses, n.SharedLeast)
				}
			}
			c.Close()
		}
	}
}

func normals(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// upload is a buffer of x on the device.
func upload(t *testing.T, c *CUDA, x []float32) kernels.Buffer {
	t.Helper()
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), len(x))
	if err != nil {
		t.Fatal(err)
	}
	c.Upload(b, kernels.Bytes(x))
	return b
}

// TestThinExperts: rows are multiplied with the part of the weights that is their
// expert's, with its bias and second pair; one expert has no rows, one more than a block.
func TestThinExperts(t *testing.T) {
	const experts, out, k, r = 3, 6, 512, 3
	group := []int32{0, 2, 2, 8}
	rng := rand.New(rand.NewPCG(13, 14))
	for _, typ := range []dtype.Type{nf4, dtype.Of(dtype.Q8_0), {Kind: dtype.Int4, Group: 32, Scale: dtype.F16, Flags: dtype.Zero}} {
		c, sim := interpreted(t)
		sim.Profile = true
		raw, w, err := thinWeight(rng, typ, experts*out, k)
		if err != nil {
			t.Fatal(err)
		}
		n := int(group[experts])
		x, u, b, bias := normals(rng, n*k), normals(rng, n*r), normals(rng, experts*out*r), normals(rng, experts*out)
		got := make([]float32, n*out)
		err = c.Run(func() error {
			m, err := c.Load(kernels.Weights, typ, experts*out, k, raw.Data, kernels.Copy)
			if err != nil {
				return err
			}
			g, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(group))
			if err != nil {
				return err
			}
			c.Upload(g, kernels.Bytes(group))
			y := upload(t, c, got)
			c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: upload(t, c, x), W: m, Bias: upload(t, c, bias), U: upload(t, c, u),
				B: kernels.Mat{Buffer: upload(t, c, b), Rows: experts * out, Cols: r, Of: experts * out}, Group: g, Experts: experts})
			return c.Download(kernels.Bytes(got), y)
		})
		if err != nil {
			t.Fatalf("%v: %v", typ, err)
		}
		for i, v := range got {
			row, e := i/out, 0
			for int(group[e+1]) <= row {
				e++
			}
			part := e*out + i%out
			want := float64(bias[part])
			for p := range k {
				want += float64(x[row*k+p]) * float64(w[part*k+p])
			}
			for p := range r {
				want += float64(u[row*r+p]) * float64(b[part*r+p])
			}
			if !(math.Abs(float64(v)-want) <= 1e-3) {
				t.Fatalf("%v: element %d is %v, want %v", typ, i, v, want)
			}
		}
		if len(sim.Counts) != 1 || sim.Counts["gemm"] != nil {
			t.Errorf("%v: ran %v", typ, sim.Counts)
		}
		c.Close()
	}
}
