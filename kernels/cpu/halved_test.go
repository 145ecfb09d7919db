package cpu_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// TestHalfPrecision: products that round their operands to half precision have the
// bits of products of operands that were rounded before, forward and backward, at
// every level; what is too large for it is infinite.
func TestHalfPrecision(t *testing.T) {
	const n, in, out, r = 37, 96, 70, 5
	rng := rand.New(rand.NewPCG(3, 4))
	normal := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * math.Exp(-8*rng.Float64()*rng.Float64()*2)) // subnormal halves among them
		}
		return x
	}
	halves := func(x []float32) []float32 {
		y := make([]float32, len(x))
		for i, v := range x {
			y[i] = block.FromF16(block.F16(v))
		}
		return y
	}
	x, dy, u, b, du, back := normal(n*in), normal(n*out), normal(n*r), normal(out*r), normal(n*r), normal(r*in)
	for _, l := range level.Supported() {
		for _, k := range []dtype.Kind{dtype.F32, dtype.BF16, dtype.F16, dtype.Q8_0} {
			restore := level.Force(l)
			c := cpu.New(cpu.Options{})
			up := func(v []float32) kernels.Buffer {
				buf, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(v))
				if err != nil {
					t.Fatal(err)
				}
				c.Upload(buf, kernels.Bytes(v))
				return buf
			}
			w, err := c.Load(kernels.Weights, dtype.Of(k), out, in, nil, kernels.Copy)
			if err == nil {
				err = c.Quantize(w, up(halves(normal(out*in))), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			decoded := make([]float32, out*in)
			d := up(decoded)
			c.Dequantize(d, w)
			if err := c.Download(kernels.Bytes(decoded), d); err != nil {
				t.Fatal(err)
			}
			product := func(a *kernels.LinearArgs, dy, du, back []float32) []byte {
				var all []byte
				y, dx, dw := up(make([]float32, n*out)), up(make([]float32, n*in)), up(make([]float32, out*in))
				c.Linear(kernels.To(y), a)
				g := *a
				g.U, g.B = up(du), kernels.Mat{Buffer: up(back), Rows: r, Cols: in, Of: r}
				c.LinearBackward(kernels.To(dx), kernels.To(dw), kernels.Dst{}, up(dy), &g)
				for _, o := range []kernels.Buffer{y, dx, dw} {
					bits := make([]byte, 4*o.Len())
					if err := c.Download(bits, o); err != nil {
						t.Fatal(err)
					}
					all = append(all, bits...)
				}
				return all
			}
			args := func(f func([]float32) []float32, w kernels.Mat, f16 bool) *kernels.LinearArgs {
				return &kernels.LinearArgs{N: n, X: up(f(x)), W: w, U: up(f(u)), B: kernels.Mat{Buffer: up(f(b)), Rows: out, Cols: r, Of: out}, F16: f16}
			}
			same := func(x []float32) []float32 { return x }
			got := product(args(same, w, true), dy, du, back)
			before := kernels.Mat{Buffer: up(halves(decoded)), Rows: out, Cols: in, Of: out}
			want := product(args(halves, before, false), halves(dy), halves(du), halves(back))
			if !bytes.Equal(got, want) {
				t.Errorf("level %v, weights of %v: not the product of rounded operands", l, k)
			}
			if bytes.Equal(got, product(args(same, w, false), dy, du, back)) {
				t.Errorf("level %v, weights of %v: nothing was rounded", l, k)
			}
			large := args(same, w, true)
			large.X, large.U = up(append([]float32{7e4}, x[1:]...)), nil
			y := up(make([]float32, n*out))
			c.Linear(kernels.To(y), large)
			first := make([]float32, n*out)
			if err := c.Download(kernels.Bytes(first), y); err != nil {
				t.Fatal(err)
			}
			if v := float64(first[0]); !math.IsInf(v, 0) && !math.IsNaN(v) {
				t.Errorf("level %v, weights of %v: 70000 is %v, not infinite", l, k, v)
			}
			restore()
			c.Close()
		}
	}
}
