package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// linearCase is one set of operands with plain copies of them.
type linearCase struct {
	n, in, out, r, k0 int // k0: first row of a view of a larger W
	t                 dtype.Type
	bf16, bias, pair  bool
	drop              *kernels.Drop
	alpha             float32
	x, w, u, b, dy    []float32 // w: decoded, only the rows of the view
	bb                []float32 // second pair of the backward [r, in]
	biases            []float32
}

func newLinearCase(t *testing.T, c *CPU, n, in, out int, typ dtype.Type) (*linearCase, kernels.Mat) {
	t.Helper()
	l := &linearCase{n: n, in: in, out: out, r: 5, k0: 3, t: typ, alpha: 1}
	l.x, l.u, l.b, l.biases = random(n*in), random(n*l.r), random(out*l.r), random(out)
	l.dy, l.bb = random(n*out), random(l.r*in)
	all := out + 2*l.k0
	m, w := encoded(t, typ, all, in)
	l.w = w[l.k0*in:][:out*in]
	mat, err := c.Load(kernels.Weights, typ, all, in, m.Data, kernels.Copy)
	if err != nil {
		t.Fatal(err)
	}
	return l, mat.RowsOf(l.k0, out)
}

// encoded is a random matrix of a storage type and its decoded values.
func encoded(t *testing.T, typ dtype.Type, rows, cols int) (blocks.Raw, []float32) {
	t.Helper()
	m, x := blocks.New(typ, rows, cols), random(rows*cols)
	switch typ.Kind {
	case dtype.F32:
		blocks.PutF32(m.Data, x)
		return m, x
	case dtype.BF16:
		blocks.PutBF16(m.Data, x)
		blocks.GetBF16(x, m.Data)
		return m, x
	case dtype.F16:
		blocks.PutF16(m.Data, x)
		blocks.GetF16(x, m.Data)
		return m, x
	}
	var importance []float32
	if blocks.NeedsImportance(typ.Kind) {
		importance = fill(cols, 1)
	}
	if err := blocks.Encode(m, x, importance); err != nil {
		t.Fatal(err)
	}
	blocks.DecodeAll(x, m)
	return m, x
}

func (l *linearCase) String() string {
	return fmt.Sprintf("%d×%d×%d %v bf16 %v bias %v pair %v drop %v", l.n, l.out, l.in, l.t, l.bf16, l.bias, l.pair, l.drop != nil)
}

func (l *linearCase) args(t *testing.T, c *CPU, w kernels.Mat) *kernels.LinearArgs {
	a := &kernels.LinearArgs{N: l.n, X: buffer(t, c, "x", l.x).buf(), W: w, Alpha: l.alpha, BF16: l.bf16, Drop: l.drop}
	if l.bias {
		a.Bias = buffer(t, c, "bias", l.biases).buf()
	}
	if l.pair {
		a.U = buffer(t, c, "u", l.u).buf()
		a.B = kernels.Mat{Buffer: buffer(t, c, "b", l.b).buf(), Rows: l.out, Cols: l.r, Of: l.out}
	}
	return a
}

// round is x rounded to bf16 where the case says so.
func (l *linearCase) round(x []float32) []float32 {
	y := append([]float32(nil), x...)
	if l.bf16 {
		roundBF16(y)
	}
	return y
}

func (l *linearCase) dropped(x []float32) []float32 {
	y := append([]float32(nil), x...)
	if l.drop != nil {
		for i := range l.n {
			l.drop.Apply(y[i*l.in:][:l.in], i64(l.drop.Key)[i], 0)
		}
	}
	return y
}

func (l *linearCase) forward() []float64 {
	y := mul64(l.round(l.dropped(l.x)), l.round(l.w), false, true, l.n, l.out, l.in)
	for i := range y {
		y[i] *= float64(l.alpha)
		if l.bias {
			y[i] += float64(l.biases[i%l.out])
		}
	}
	if l.pair {
		for i, v := range mul64(l.round(l.u), l.round(l.b), false, true, l.n, l.out, l.r) {
			y[i] += v
		}
	}
	return y
}

func dropOf(t *testing.T, c *CPU, n int) *kernels.Drop {
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I64), n)
	if err != nil {
		t.Fatal(err)
	}
	for i := range i64(b) {
		i64(b)[i] = int64(i*7)<<32 | int64(i)
	}
	return &kernels.Drop{P: 0.25, Seed: 5, Step: 9, Site: 3, Key: b}
}

// tolerance of a product of k terms of size 1.
func tolerance(k int) float64 { return 1e-6 * math.Sqrt(float64(k)+20) }

func TestLinear(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{1, 64, 40}, {2, 96, 33}, {7, 128, 5}, {16, 64, 67}, {17, 64, 64}, {40, 320, 100}, {131, 64, 17}, {9, 576, 130}, {40, 500, 140}} {
			for i := range 32 {
				l, w := newLinearCase(t, c, s[0], s[1], s[2], dtype.Of([]dtype.Kind{dtype.F32, dtype.BF16}[i&1]))
				l.bf16, l.bias, l.pair = i&2 != 0, i&4 != 0, i&8 != 0
				if i&16 != 0 {
					l.drop, l.alpha = dropOf(t, c, l.n), 0.5
				}
				testForward(t, c, l, w)
			}
		}
	})
}

func testForward(t *testing.T, c *CPU, l *linearCase, w kernels.Mat) {
	t.Helper()
	want := l.forward()
	y := buffer(t, c, "y", fill(l.n*l.out, float32(math.NaN())))
	c.Linear(kernels.To(y.buf()), l.args(t, c, w))
	close64(t, l.String(), y.values(), want, tolerance(l.in))
	for i := range want {
		want[i] += 3
	}
	y = buffer(t, c, "y", fill(l.n*l.out, 3))
	c.Linear(kernels.Into(y.buf()), l.args(t, c, w))
	close64(t, l.String()+" add", y.values(), want, tolerance(l.in))
}

// Rows that are no multiple of anything.
func TestLinearOddSizes(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for n := 1; n <= 67; n += 3 {
			for _, k := range []int{1, 2, 15, 16, 17, 31, 33, 63, 67} {
				for _, kind := range []dtype.Kind{dtype.F32, dtype.F16, dtype.BF16} {
					l, w := newLinearCase(t, c, n, k, 1+(n*5+k)%67, dtype.Of(kind))
					l.bf16, l.pair = n%2 == 0, k%2 == 0
					testForward(t, c, l, w)
				}
			}
		}
	})
}

// storageTypes are the types a weight may have, with a number of columns that fits.
var storageTypes = []struct {
	t    dtype.Type
	cols int
}{
	{dtype.Of(dtype.F16), 67}, {dtype.Of(dtype.F16), 96}, {dtype.Of(dtype.F8E4M3), 67}, {dtype.Of(dtype.F8E5M2), 35},
	{dtype.Of(dtype.Q4_0), 96}, {dtype.Of(dtype.Q4_1), 96}, {dtype.Of(dtype.Q5_0), 96}, {dtype.Of(dtype.Q5_1), 96}, {dtype.Of(dtype.Q8_0), 96},
	{dtype.Of(dtype.Q2_K), 512}, {dtype.Of(dtype.Q3_K), 512}, {dtype.Of(dtype.Q4_K), 512}, {dtype.Of(dtype.Q5_K), 512}, {dtype.Of(dtype.Q6_K), 512},
	{dtype.Of(dtype.IQ4_NL), 96}, {dtype.Of(dtype.IQ4_XS), 512},
	{dtype.Of(dtype.IQ3_S), 256}, {dtype.Of(dtype.IQ3_XXS), 256}, {dtype.Of(dtype.IQ2_S), 256}, {dtype.Of(dtype.IQ2_XS), 512}, {dtype.Of(dtype.IQ2_XXS), 256},
	{dtype.Of(dtype.IQ1_M), 256}, {dtype.Of(dtype.IQ1_S), 512}, {dtype.Of(dtype.TQ2_0), 256}, {dtype.Of(dtype.TQ1_0), 256}, {dtype.Of(dtype.Q2_0), 192},
	{dtype.Of(dtype.Q1_0), 384}, {dtype.Of(dtype.MXFP4), 96}, {dtype.Of(dtype.NVFP4), 192},
	{dtype.Type{Kind: dtype.NF4, Group: 64}, 192}, {dtype.NF4Double, 320}, {dtype.NF4Double, 576}, {dtype.Type{Kind: dtype.NF4, Group: 64}, 100},
	{dtype.Type{Kind: dtype.NF4, Group: 128}, 256}, {dtype.Type{Kind: dtype.FP4, Group: 64}, 128},
	{dtype.Type{Kind: dtype.Int4, Group: 64, Scale: dtype.BF16, Flags: dtype.Zero}, 192}, {dtype.Type{Kind: dtype.Int4, Group: 128, Scale: dtype.F16}, 256},
	{dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F32, Flags: dtype.Zero}, 96}, {dtype.Type{Kind: dtype.Int8, Group: 64, Scale: dtype.BF16, Flags: dtype.Zero}, 192},
	{dtype.Type{Kind: dtype.Int8, Group: 32, Scale: dtype.F16}, 96}, {dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32}, 96},
	{dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32}, 66}, {dtype.Type{Kind: dtype.Int3, Group: 32, Scale: dtype.F16}, 96}, {dtype.Type{Kind: dtype.Int5, Group: 32, Scale: dtype.F16}, 96}, {dtype.Type{Kind: dtype.Int6, Group: 32, Scale: dtype.F16}, 96},
	{dtype.Type{Kind: dtype.Int2, Group: 64, Scale: dtype.F32, Flags: dtype.Zero}, 128},
	{dtype.Type{Kind: dtype.F8E4M3, Group: -1, Scale: dtype.BF16}, 96}, {dtype.Type{Kind: dtype.F8E4M3, Group: 128, Scale: dtype.F32}, 192},
	{dtype.Type{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}, 96}, {dtype.Type{Kind: dtype.F8E5M2, Group: 48, Scale: dtype.F16}, 67},
	{dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}, 96}, {dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested}, 96},
	{dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}, 320}, {dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F16}, 67},
}

func TestLinearStorageTypes(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		rows := []int{1, 5, 19, 70}
		if testing.Short() {
			rows = []int{1, 19}
		}
		for _, s := range storageTypes {
			for _, n := range rows {
				for _, bf16 := range []bool{false, true} {
					l, w := newLinearCase(t, c, n, s.cols, 45, s.t)
					l.bf16 = bf16
					testForward(t, c, l, w)
					testBackward(t, c, l, w)
				}
			}
			testDequantize(t, c, s.t, s.cols)
		}
	})
}

func testDequantize(t *testing.T, c *CPU, typ dtype.Type, cols int) {
	t.Helper()
	m, x := encoded(t, typ, 40, cols)
	mat, err := c.Load(kernels.Weights, typ, 40, cols, m.Data, kernels.Borrow)
	if err != nil {
		t.Fatal(err)
	}
	out := buffer(t, c, "dequantized", fill(30*cols, 1))
	c.Dequantize(out.buf(), mat.RowsOf(7, 30))
	for i, v := range out.values() {
		if v != x[7*cols+i] {
			t.Fatalf("%v: element %d decodes to %g, want %g", typ, i, v, x[7*cols+i])
		}
	}
}

func TestLinearBackward(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{1, 64, 40}, {7, 128, 5}, {33, 67, 64}, {40, 320, 100}, {300, 64, 17}, {270, 33, 39}} {
			for i := range 16 {
				l, w := newLinearCase(t, c, s[0], s[1], s[2], dtype.Of([]dtype.Kind{dtype.F32, dtype.BF16}[i&1]))
				l.bf16, l.pair = i&2 != 0, i&4 != 0
				if i&8 != 0 {
					l.drop, l.alpha = dropOf(t, c, l.n), 0.5
				}
				testBackward(t, c, l, w)
			}
		}
	})
}

func testBackward(t *testing.T, c *CPU, l *linearCase, w kernels.Mat) {
	t.Helper()
	a := l.args(t, c, w)
	if l.pair {
		a.B = kernels.Mat{Buffer: buffer(t, c, "b", l.bb).buf(), Rows: l.r, Cols: l.in, Of: l.r}
	}
	dy := buffer(t, c, "dy", l.dy)
	dx, dw, db := l.backward()
	for _, add := range []bool{false, true} {
		old := float32(math.NaN())
		if add {
			old = 3
		}
		gx, gw, gb := buffer(t, c, "dx", fill(l.n*l.in, old)), buffer(t, c, "dw", fill(l.in*l.out, old)), buffer(t, c, "db", fill(l.out, old))
		c.LinearBackward(kernels.Dst{Buffer: gx.buf(), Add: add}, kernels.Dst{Buffer: gw.buf(), Add: add}, kernels.Dst{Buffer: gb.buf(), Add: add}, dy.buf(), a)
		what := fmt.Sprintf("%v add %v", l, add)
		close64(t, what+" dx", gx.values(), plus(dx, old, add), tolerance(l.out))
		close64(t, what+" dw", gw.values(), plus(dw, old, add), tolerance(l.n))
		close64(t, what+" db", gb.values(), plus(db, old, add), tolerance(l.n))
	}
	a.X = nil // not needed for dx alone
	if l.drop == nil {
		gx := buffer(t, c, "dx", fill(l.n*l.in, 1))
		c.LinearBackward(kernels.To(gx.buf()), kernels.Dst{}, kernels.Dst{}, dy.buf(), a)
		close64(t, l.String()+" dx alone", gx.values(), dx, tolerance(l.out))
	}
}

func plus(x []float64, v float32, add bool) []float64 {
	y := append([]float64(nil), x...)
	for i := range y {
		if add {
			y[i] += float64(v)
		}
	}
	return y
}

func (l *linearCase) backward() (dx, dw, db []float64) {
	dx = mul64(l.round(l.dy), l.round(l.w), false, false, l.n, l.in, l.out)
	mask := fill(l.n*l.in, 1)
	mask = l.dropped(mask)
	for i := range dx {
		dx[i] *= float64(l.alpha) * float64(mask[i])
	}
	if l.pair {
		for i, v := range mul64(l.round(l.u), l.round(l.bb), false, false, l.n, l.in, l.r) {
			dx[i] += v
		}
	}
	dw = mul64(l.round(l.dy), l.round(l.dropped(l.x)), true, false, l.out, l.in, l.n)
	for i := range dw {
		dw[i] *= float64(l.alpha)
	}
	db = make([]float64, l.out)
	for i, v := range l.dy {
		db[i%l.out] += float64(v)
	}
	return dx, dw, db
}

func TestLinearSameBitsAtAnyThreads(t *testing.T) {
	defer par.SetThreads(0)
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, n := range []int{3, 260} {
			l, w := newLinearCase(t, c, n, 160, 200, dtype.Of(dtype.BF16))
			l.bias, l.pair, l.bf16, l.drop = true, true, true, dropOf(t, c, n)
			a := l.args(t, c, w)
			sameBits(t, fmt.Sprint("linear ", n), func() []float32 {
				y := buffer(t, c, "y", fill(n*200, 1))
				c.Linear(kernels.Into(y.buf()), a)
				return y.values()
			})
			a.B = kernels.Mat{Buffer: buffer(t, c, "b", l.bb).buf(), Rows: l.r, Cols: l.in, Of: l.r}
			dy := buffer(t, c, "dy", l.dy)
			sameBits(t, fmt.Sprint("backward ", n), func() []float32 {
				dx, dw, db := buffer(t, c, "dx", fill(n*160, 1)), buffer(t, c, "dw", fill(160*200, 1)), buffer(t, c, "db", fill(200, 1))
				c.LinearBackward(kernels.To(dx.buf()), kernels.To(dw.buf()), kernels.To(db.buf()), dy.buf(), a)
				return append(append(append([]float32(nil), dx.values()...), dw.values()...), db.values()...)
			})
		}
	})
}

// A row of a product of bf16 has the same bits whatever rows are computed with
// it, and a column whatever columns: neither blocks nor tiles change a sum.
func TestLinearSameBitsInAnyBlock(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		b := newBench(t)
		for _, s := range [][3]int{{1150, 300, 70}, {50, 70, 2100}} {
			n, out, in := s[0], s[1], s[2]
			x, w := b.half(b.random(n*in)), b.random(out*in)
			product := func(n, cols int) []float32 {
				y := b.empty(n * cols)
				b.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: x, W: kernels.Mat{Buffer: w, Rows: cols, Cols: in, Of: out}, BF16: true, Bias: w})
				return f32(y)
			}
			all := product(n, out)
			for _, part := range [][2]int{{17, out}, {n, 19}, {33, 65}} {
				got := product(part[0], part[1])
				for i, v := range got {
					if w := all[i/part[1]*out+i%part[1]]; math.Float32bits(v) != math.Float32bits(w) {
						t.Fatalf("%v, part %v: element %d is %g, %g among all", s, part, i, v, w)
					}
				}
			}
		}
	})
}
