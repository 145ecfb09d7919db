package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// mvTypes are the types whose products of few rows have kernels of their own.
var mvTypes = []dtype.Type{
	dtype.Of(dtype.F32), dtype.Of(dtype.F16), dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1), dtype.Of(dtype.Q5_0), dtype.Of(dtype.Q5_1),
	dtype.Of(dtype.IQ4_NL), dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q5_K), dtype.Of(dtype.Q6_K), dtype.Of(dtype.Q2_K), dtype.Of(dtype.Q3_K), dtype.Of(dtype.IQ4_XS),
	dtype.Of(dtype.IQ3_S), dtype.Of(dtype.IQ3_XXS), dtype.Of(dtype.IQ2_S), dtype.Of(dtype.IQ2_XS), dtype.Of(dtype.IQ2_XXS), dtype.Of(dtype.IQ1_M), dtype.Of(dtype.IQ1_S),
	dtype.Of(dtype.TQ2_0), dtype.Of(dtype.TQ1_0), dtype.Of(dtype.Q2_0), dtype.Of(dtype.Q1_0), dtype.Of(dtype.MXFP4), dtype.Of(dtype.NVFP4),
	{Kind: dtype.NF4, Group: 64}, dtype.NF4Double, {Kind: dtype.FP4, Group: 64},
	{Kind: dtype.Int4, Group: 128, Scale: dtype.F16}, {Kind: dtype.Int4, Group: 64, Scale: dtype.BF16, Flags: dtype.Zero},
	{Kind: dtype.Int2, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int3, Group: 128, Scale: dtype.F16},
	{Kind: dtype.Int4, Group: -1}, {Kind: dtype.Int8, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: 128, Scale: dtype.BF16},
}

// exact8 is a row that 8 bits hold: integers, the largest of every 32 is 127.
func exact8(x []float32, rng *rand.Rand) {
	for i := range x {
		x[i] = float32(rng.IntN(255) - 127)
		if i%32 == 7 {
			x[i] = 127 - 254*float32(rng.IntN(2))
		}
	}
}

// Where rounding x loses nothing the products of integers equal those of
// floats, for any number of rows and any part of the weight; rows of x do not
// see each other.
func TestMatVec(t *testing.T) {
	c := New(Options{})
	for _, l := range level.Supported() {
		for _, typ := range mvTypes {
			for _, cols := range []int{256, 1792} {
				t.Run(fmt.Sprintf("%v %v %d", l, typ, cols), func(t *testing.T) {
					defer level.Force(l)()
					testMatVec(t, c, typ, cols)
				})
			}
		}
	}
}

func testMatVec(t *testing.T, c *CPU, typ dtype.Type, cols int) {
	const rows, most = 45, 16
	rng := rand.New(rand.NewPCG(1, uint64(cols)))
	w, values := mvWeights(t, c, typ, rows, cols, rng)
	defer c.Free(w.Buffer)
	x := make([]float32, most*cols)
	exact8(x, rng)
	clear(x[3*cols+32:][:32]) // a block of zeros
	xb := upload(t, c, x)
	defer c.Free(xb)
	few := most // rows of x from which on they are multiplied one by one
	switch {
	case typ.Kind == dtype.F32 || typ.Kind == dtype.BF16 && level.Current() == level.AVX512BF16:
		few = thinLeast - 1
	case typ.Kind == dtype.BF16:
		few = mvTileRows[0]
	}
	step := 1
	if testing.Short() {
		step = 5
	}
	var all []float32
	for n := most; n > 0; n -= step {
		for _, part := range [][2]int{{0, rows}, {3, 19}} {
			m := w.RowsOf(part[0], part[1])
			y := upload(t, c, make([]float32, n*m.Rows+1))
			f32(y)[n*m.Rows] = 77
			c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: xb, W: m, Fast: true})
			got := f32(y)
			for i := range n {
				for r := range m.Rows {
					var want, size float64
					for k, v := range values[(part[0]+r)*cols:][:cols] {
						want += float64(v) * float64(x[i*cols+k])
						size += math.Abs(float64(v) * float64(x[i*cols+k]))
					}
					if d := math.Abs(float64(got[i*m.Rows+r]) - want); !(d <= 2e-5*size) {
						t.Fatalf("%d rows of x, row %d·%d: %v, want %v", n, i, part[0]+r, got[i*m.Rows+r], want)
					}
				}
			}
			if got[n*m.Rows] != 77 {
				t.Fatal("written past the result")
			}
			if part[0] == 0 && (n == most || n == few) { // more rows are packed: TestThin
				all = append(all[:0], got...)
			} else if part[0] == 0 {
				for i := range n * rows {
					if got[i] != all[i] {
						t.Fatalf("element %d of %d rows is %v, of more rows %v", i, n, got[i], all[i])
					}
				}
			}
			c.Free(y)
		}
	}
}

// Where x is not rounded the products are those of floats, too, and a row's bits do
// not depend on the rows beside it. Every type has both kernels.
func TestMatVecExact(t *testing.T) {
	if level.Current() < level.AVX512 {
		t.Skip("no kernel at this level")
	}
	c := New(Options{})
	const rows, cols, most = 21, 1792, 7
	rng := rand.New(rand.NewPCG(2, 3))
	for _, typ := range mvTypes {
		w, values := mvWeights(t, c, typ, rows, cols, rng)
		x := make([]float32, most*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		xb, y, one := upload(t, c, x), upload(t, c, make([]float32, most*rows)), upload(t, c, make([]float32, rows))
		a := &kernels.LinearArgs{N: most, X: xb, W: w}
		for _, fast := range []bool{true, false} {
			if a.Fast = fast; newMVWeight(a) == nil {
				t.Errorf("%v: no kernel, fast %v", typ, fast)
			}
		}
		c.Linear(kernels.To(y), a)
		for i := range most {
			for r := range rows {
				var want, size float64
				for k, v := range values[r*cols:][:cols] {
					want += float64(v) * float64(x[i*cols+k])
					size += math.Abs(float64(v) * float64(x[i*cols+k]))
				}
				if v := f32(y)[i*rows+r]; !(math.Abs(float64(v)-want) <= 1e-6*size) {
					t.Errorf("%v: row %d·%d is %v, want %v", typ, i, r, v, want)
				}
			}
		}
		a.N = 1
		c.Linear(kernels.To(one), a)
		if typ.Kind != dtype.F32 { // more rows are packed: TestThin
			equalBits(t, typ, 0, f32(one), f32(y)[:rows])
		}
		for _, b := range []kernels.Buffer{w.Buffer, xb, y, one} {
			c.Free(b)
		}
	}
}

// mvWeights is a random weight and its values.
func mvWeights(t testing.TB, c *CPU, typ dtype.Type, rows, cols int, rng *rand.Rand) (kernels.Mat, []float32) {
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	raw := blocks.New(typ, rows, cols)
	if place, ok := fewBitScales[typ.Kind]; ok {
		randomBlocks(raw, place, rng)
	} else if err := blocks.Encode(raw, x, nil); err != nil {
		t.Fatal(err)
	}
	w, err := c.Load(kernels.Weights, typ, rows, cols, raw.Data, kernels.Borrow)
	if err != nil {
		t.Fatal(err)
	}
	blocks.DecodeAll(x, raw)
	return w, x
}

// fewBitScales is where the scale of a block lies: an f16, of which IQ1_M has a nibble
// in each of four words, an exponent of MXFP4, or bytes of NVFP4, which may be any.
var fewBitScales = map[dtype.Kind]int{
	dtype.IQ3_S: 0, dtype.IQ3_XXS: 0, dtype.IQ2_S: 0, dtype.IQ2_XS: 0, dtype.IQ2_XXS: 0, dtype.IQ1_M: 48, dtype.IQ1_S: 0,
	dtype.TQ2_0: 64, dtype.TQ1_0: 52, dtype.Q2_0: 0, dtype.Q1_0: 0, dtype.MXFP4: 0, dtype.NVFP4: 0,
}

// randomBlocks fills a matrix with every code there is, scales between 2^-7 and 2
// apart, half of them negative.
func randomBlocks(m blocks.Raw, place int, rng *rand.Rand) {
	size := m.Type.Kind.Info().Bytes
	for i := range m.Data {
		m.Data[i] = byte(rng.Uint32())
	}
	for at := 0; at < len(m.Data); at += size {
		b := m.Data[at+place:]
		scale := uint16(rng.IntN(8)+8)<<10 | uint16(rng.IntN(1<<10)) | uint16(rng.IntN(2))<<15
		switch m.Type.Kind {
		case dtype.NVFP4:
		case dtype.MXFP4:
			b[0] = byte(120 + rng.IntN(9))
		case dtype.IQ1_M:
			for i := range 4 {
				b[2*i+1] = b[2*i+1]&15 | byte(scale>>(4*i)&15<<4)
			}
		default:
			b[0], b[1] = byte(scale), byte(scale>>8)
		}
	}
}

func upload(t testing.TB, c *CPU, x []float32) kernels.Buffer {
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), len(x))
	if err != nil {
		t.Fatal(err)
	}
	copy(f32(b), x)
	return b
}

// Rounding x to 8 bits costs about a 250th of its largest elements.
func TestFastIsClose(t *testing.T) {
	c := New(Options{})
	const rows, cols, n = 64, 512, 5
	rng := rand.New(rand.NewPCG(1, 2))
	for _, typ := range mvTypes {
		w, _ := mvWeights(t, c, typ, rows, cols, rng)
		x := make([]float32, n*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		xb, y, z := upload(t, c, x), upload(t, c, make([]float32, n*rows)), upload(t, c, make([]float32, n*rows))
		c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: xb, W: w, Alpha: 2, Fast: true})
		c.Linear(kernels.Into(y), &kernels.LinearArgs{N: n, X: xb, W: w, Alpha: -1, Fast: true})
		c.Linear(kernels.To(z), &kernels.LinearArgs{N: n, X: xb, W: w})
		var d, s float64
		for i, v := range f32(z) {
			d += math.Pow(float64(f32(y)[i]-v), 2)
			s += math.Pow(float64(v), 2)
		}
		if e := math.Sqrt(d / s); !(e < 0.01) {
			t.Errorf("%v: relative error %.3g", typ, e)
		}
		for _, b := range []kernels.Buffer{w.Buffer, xb, y, z} {
			c.Free(b)
		}
	}
}

// Products of few rows with a weight that no cache holds: weights read a second
// as a share of the bandwidth that a plain sum over the same bytes reaches, and
// rows a second as a multiple of those of one row alone.
func BenchmarkMatVec(b *testing.B) {
	c := New(Options{})
	for _, typ := range mvTypes {
		for _, fast := range []bool{true, false} {
			var one float64
			for _, n := range []int{1, 2, 4, 8, 16} {
				b.Run(fmt.Sprintf("%v/%s/%d", typ, map[bool]string{true: "int8", false: "exact"}[fast], n), func(b *testing.B) {
					rows := float64(n) / benchMatVec(b, c, typ, n, fast)
					if n == 1 {
						one = rows
					}
					b.ReportMetric(rows/one, "×1")
				})
			}
		}
	}
}

// benchMatVec returns the seconds of a call.
func benchMatVec(b *testing.B, c *CPU, t dtype.Type, n int, fast bool) float64 {
	const cols, size = 2048, 192 << 20
	rows := size / dtype.Size(t, 256, cols) * 256
	w := benchWeight(b, c, t, rows, cols)
	x, y := benchBuffer(b, c, n*cols), benchBuffer(b, c, n*rows)
	mem := view[float32](w.Buffer.(*Buf).mem[:size/2])
	var sums, products time.Duration
	for b.Loop() {
		began := time.Now()
		par.For(len(mem), 1<<16, func(lo, hi int) { sink(vec.Sum(mem[lo:hi])) })
		sums += time.Since(began)
		began = time.Now()
		c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: x, W: w, Fast: fast})
		products += time.Since(began)
	}
	bytes := float64(dtype.Size(t, rows, cols))
	call := products.Seconds() / float64(b.N)
	b.ReportMetric(bytes/call/1e9, "GB/s")
	b.ReportMetric(bytes/call/(4*float64(len(mem)*b.N)/sums.Seconds()), "share")
	for _, p := range []kernels.Buffer{w.Buffer, x, y} {
		c.Free(p)
	}
	return call
}
