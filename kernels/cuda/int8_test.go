package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

// int8Types are the types of weights that have kernels of int8.cu, and the names of these.
var int8Types = []struct {
	t    dtype.Type
	name string
}{
	{dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.BF16, Flags: dtype.Zero}, "int4"}, {dtype.Type{Kind: dtype.Int4, Group: 128, Scale: dtype.F16}, "int4"}, {dtype.Type{Kind: dtype.Int4, Group: -1}, "int4"},
	{dtype.Type{Kind: dtype.Int8, Group: 64, Scale: dtype.F16}, "int8"}, {dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.BF16}, "int8"},
	{dtype.Of(dtype.Q8_0), "q8_0"}, {dtype.Of(dtype.Q4_0), "q4_0"}, {dtype.Of(dtype.Q4_1), "q4_1"}, {dtype.Of(dtype.Q4_K), "q4_k"},
}

// round8 is x [rows, k] as codes of 8 bits with a scale for every 32 make it.
func round8(x []float32) []float64 {
	y := make([]float64, len(x))
	for at := 0; at < len(x); at += 32 {
		var most float32
		for _, v := range x[at : at+32] {
			most = max(most, float32(math.Abs(float64(v))))
		}
		if most == 0 {
			continue
		}
		by, scale := 127/most, float64(most*(1/float32(127)))
		for i, v := range x[at : at+32] {
			y[at+i] = math.RoundToEven(float64(v*by)) * scale
		}
	}
	return y
}

// TestInt8: products of x rounded to 8 bits are those in float64 of what it is rounded to, for every type of weights and
// either size of tile and few rows, with tails in every direction, rows of a weight, a bias and experts, whatever the order of blocks.
func TestInt8(t *testing.T) {
	defer func(n int) { busy = n }(busy)
	rng := rand.New(rand.NewPCG(21, 22))
	for i, typ := range int8Types {
		for j, s := range []struct{ m, n, k, busy, tile, parts int }{{40, 72, 768, 128, 64, 1}, {66, 70, 256, 1, 128, 1}, {130, 136, 512, 1, 128, 1}, {75, 21, 256, 128, 64, 3}, {17, 5, 96, 1, 64, 1}, {16, 70, 768, 128, 0, 1}, {5, 33, 96, 128, 0, 1}, {13, 9, 512, 128, 0, 3}} {
			if !dtype.Fits(typ.t, s.k) {
				continue
			}
			c, sim := interpreted(t)
			sim.Profile, sim.Reverse, busy = true, (i+j)%2 == 0, s.busy
			c.useInt8(true)
			const skipped = 3 // rows of the weight above ours
			raw, w, err := thinWeight(rng, typ.t, skipped+s.parts*s.n, s.k)
			if err != nil {
				t.Fatal(err)
			}
			w = w[skipped*s.k:]
			kind := []dtype.Kind{dtype.BF16, dtype.F16}[i%2]
			x, xv := halfBuffer(t, c, rng, kind, s.m*s.k)
			if j%2 == 1 {
				clear(xv[s.k : 2*s.k]) // a row of zeros
				x = upload(t, c, xv)
			}
			bias, got := normals(rng, s.parts*s.n), make([]float32, s.m*s.n)
			a := &kernels.LinearArgs{N: s.m, X: x, Bias: upload(t, c, bias), Alpha: 0.5, Fast: true}
			ends := []int32{0, int32(s.m)}
			if s.parts > 1 {
				ends = []int32{0, 5, 5, int32(s.m)} // one expert has no rows
				g, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(ends))
				if err != nil {
					t.Fatal(err)
				}
				c.Upload(g, kernels.Bytes(ends))
				a.Group, a.Experts = g, s.parts
			}
			err = c.Run(func() error {
				m, err := c.Load(kernels.Weights, typ.t, skipped+s.parts*s.n, s.k, raw.Data, kernels.Copy)
				if err != nil {
					return err
				}
				a.W = m.RowsOf(skipped, s.parts*s.n)
				y := upload(t, c, got)
				c.Linear(kernels.To(y), a)
				return c.Download(kernels.Bytes(got), y)
			})
			what := fmt.Sprintf("%v %d×%d×%d, %d parts", typ.t, s.m, s.n, s.k, s.parts)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			xr := round8(xv)
			for e := range s.parts {
				for row := int(ends[e]); row < int(ends[e+1]); row++ {
					for col := range s.n {
						var want, size float64
						for p := range s.k {
							q := xr[row*s.k+p] * float64(w[(e*s.n+col)*s.k+p]) / 2
							want, size = want+q, size+q*q
						}
						want += float64(bias[e*s.n+col])
						if v := got[row*s.n+col]; !(math.Abs(float64(v)-want) <= 1e-5*(1+math.Sqrt(size))) {
							t.Fatalf("%s: element %d,%d is %v, want %v", what, row, col, v, want)
						}
					}
				}
			}
			name := fmt.Sprintf("int8_%s_%d", typ.name, s.tile)
			if s.tile == 0 {
				name = "int8_" + typ.name + "_few"
			}
			if n := sim.Counts[name]; n == nil || n.Tensor < int64(s.m*s.n*s.k) || len(sim.Counts) != 2 {
				t.Errorf("%s: %s did %+v of %v", what, name, n, sim.Counts)
			} else if n.SharedPasses != n.SharedLeast {
				t.Errorf("%s: %d bank conflicts", what, n.SharedPasses-n.SharedLeast)
			}
			c.Close()
		}
	}
}

// TestInt8Rows: what is not finite stays so, in its row alone; what has no kernel is computed by others.
func TestInt8Rows(t *testing.T) {
	const n, k = 8, 64
	for i, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.NaN()), float32(math.Inf(-1))} {
		m := []int{20, 20, 6, 6}[i]
		c, _ := interpreted(t)
		c.useInt8(true)
		x, got := make([]float32, m*k), make([]float32, m*n)
		for i := range x {
			x[i] = 1
		}
		x[3*k+40] = bad
		err := c.Run(func() error {
			w, err := c.wholeWeights(n, k, func(i int) int { return i%7 - 3 })
			if err != nil {
				return err
			}
			y := upload(t, c, got)
			c.Linear(kernels.To(y), &kernels.LinearArgs{N: m, X: upload(t, c, x), W: w, Fast: true})
			return c.Download(kernels.Bytes(got), y)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if finite := v-v == 0; finite == (i/n == 3) {
				t.Errorf("%v: element %d,%d is %v", bad, i/n, i%n, v)
			}
		}
		c.Close()
	}
	for _, typ := range []dtype.Type{{Kind: dtype.Int8, Group: 32, Flags: dtype.Zero}, {Kind: dtype.Int4, Group: 16}, {Kind: dtype.Int4, Group: 96}, {Kind: dtype.Int4, Group: 32, Flags: dtype.Perm},
		dtype.Of(dtype.Q6_K), dtype.Of(dtype.F32), nf4, {Kind: dtype.Int3, Group: 32}} {
		if name := int8Kernel(typ, 100, 768); name != "" {
			t.Errorf("%v has %s", typ, name)
		}
	}
}

// TestInt8Linear runs the methods that multiply with x rounded to 8 bits where that is allowed.
func TestInt8Linear(t *testing.T) {
	t.Setenv(Int8Variable, "1")
	c, sim := interpreted(t)
	defer c.Close()
	sim.Profile = true
	kerneltest.RunPart(t, c, there(kerneltest.Part{Most: 1 << 19, MostBF16: 1 << 18, Only: []string{"Linear"}}))
	for _, name := range []string{"int8_q8_0_64", "int8_q4_0_64", "int8_q4_k_64", "int8_q8_0_few", "int8_q4_1_few", "int8_q4_k_few"} {
		if n := sim.Counts[name]; n == nil {
			t.Errorf("%s did not run", name)
		}
	}
}

// TestInt8Chosen: they are used where they are asked for, where the earlier run used them, or where they are clearly faster
// and compute right; what was chosen is part of the level; and what cannot be is said by name.
func TestInt8Chosen(t *testing.T) {
	smallProbes(t)
	t.Setenv(LibraryVariable, "0")
	t.Setenv(SolverVariable, "0")
	for _, c := range []struct {
		env         string
		slower      float32 // launches of other kernels take so many times as long
		from, other string
		earlier     string
		level       string // "": an error of exit code code
		code        int
		says        string
	}{
		{"", 3, "", "", "", "sm_80+int8few+int8", 0, "products of few rows of answers with quantized weights by int8 (1.50 times as fast as without; TUNE_INT8=0"},
		{"", 2, "", "", "", "sm_80+int8", 0, "none of few rows by int8 (1.00 times as fast as without, more than 1.1 is needed; TUNE_INT8=1 takes it), products of many rows of answers with quantized weights by int8 (2.00 times"},
		{"auto", 1, "", "", "", "sm_80", 0, "none of many rows by int8 (1.00 times as fast as without, more than 1.1 is needed; TUNE_INT8=1 takes it"},
		{"0", 2, "", "", "sm_80+int8few+int8", "sm_80", 0, "none of few rows by int8 (TUNE_INT8=0)"},
		{"1", 1, "", "", "sm_80", "sm_80+int8few+int8", 0, "(TUNE_INT8=1)"},
		{"1", 0, "", "", "", "sm_80+int8few+int8", 0, "(TUNE_INT8=1)"},
		{"2", 1, "", "", "", "", int(fail.Usage), "TUNE_INT8=2: known are 0, 1 and auto"},
		{"", 0, "", "", "", "sm_80", 0, "none of few rows by int8 (the device has no clock)"},
		{"", 1, "", "", "sm_80+int8few+int8", "sm_80+int8few+int8", 0, "(this run was begun with it)"},
		{"", 1, "", "", "sm_80+int8", "sm_80+int8", 0, "none of few rows by int8 (this run was begun without), products of many rows of answers with quantized weights by int8 (this run was begun with it)"},
		{"", 0, "", "", "sm_80+int8few+int8", "sm_80+int8few+int8", 0, "(this run was begun with it)"},
		{"", 2, "", "", "sm_80+cublasLt-13.1.0", "sm_80", 0, "none of few rows by int8 (this run was begun without), none of many rows by int8 (this run was begun without)"},
		{"", 2, "1262485504", "0", "", "sm_80", 0, "int8 computes wrong: element "},
		{"1", 2, "1262485504", "0", "", "", int(fail.Limit), "int8 computes wrong: element "},
		{"", 2, "1262485504", "0", "sm_80+int8few+int8", "", int(fail.Limit), "int8 computes wrong: element "},
	} {
		what := fmt.Sprintf("%q, %v times, %q, %q", c.env, c.slower, c.from, c.earlier)
		t.Setenv(Int8Variable, c.env)
		measured.Clear()
		d := newTimed("int8", c.slower)
		d.from, d.other = c.from, c.other
		b, err := OpenOn("cuda:0", func() (driver.Driver, error) { return d, nil }, Options{Level: c.earlier})
		switch {
		case c.level == "":
			if fail.Code(err) != c.code || !strings.Contains(fail.Hint(err), "TUNE_INT8") && c.code != int(fail.Usage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v (exit %d, hint %q), want %q", what, err, fail.Code(err), fail.Hint(err), c.says)
			}
		case err != nil:
			t.Errorf("%s: %v", what, err)
		default:
			if in := b.Info(); in.Level != c.level || in.Address != "cuda/"+c.level || !strings.Contains(b.Describe(), c.says) {
				t.Errorf("%s: level %q, %q, want %q with %q", what, in.Level, b.Describe(), c.level, c.says)
			}
			b.Close()
		}
		if n := d.Leaks(); err == nil && n != 0 {
			t.Errorf("%s: %d bytes are still allocated", what, n)
		}
	}
}
