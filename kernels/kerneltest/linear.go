package kerneltest

import (
	"encoding/binary"
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// matmul64 is op(a)·op(b): a [m,k] or, with ta, [k,m]; b [k,n] or, with tb, [n,k].
func matmul64(a, b []float64, ta, tb bool, m, n, k int) []float64 {
	c := make([]float64, m*n)
	for i := range m {
		for j := range n {
			var s float64
			for p := range k {
				x, y := i*k+p, p*n+j
				if ta {
					x = p*m + i
				}
				if tb {
					y = j*k + p
				}
				s += a[x] * b[y]
			}
			c[i*n+j] = s
		}
	}
	return c
}

func scaled(x []float64, f float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = f * v
	}
	return y
}

func plus(x, y []float64) []float64 {
	z := append([]float64{}, x...)
	for i, v := range y {
		z[i] += v
	}
	return z
}

// linearCase is one product of Linear in all its parts.
type linearCase struct {
	n, in, out, r int // r 0: no second pair
	t             dtype.Type
	bias          bool
	bf16, f16     bool
	alpha         float32
	drop          float32
}

func (c linearCase) String() string {
	return fmt.Sprintf("%d×%d→%d %v r%d bias %v bf16 %v f16 %v alpha %v drop %v", c.n, c.in, c.out, c.t, c.r, c.bias, c.bf16, c.f16, c.alpha, c.drop)
}

func testLinear(s *suite) {
	f32, nf4 := dtype.Of(dtype.F32), dtype.NF4Double
	for _, c := range []linearCase{
		{n: 1, in: 1, out: 1, t: f32},
		{n: 1, in: 64, out: 97, t: f32, bias: true},
		{n: 3, in: 35, out: 16, t: f32, r: 8, alpha: 0.5},
		{n: 20, in: 67, out: 33, t: f32, r: 3, bias: true},
		{n: 20, in: 67, out: 33, t: f32, bf16: true},
		{n: 75, in: 130, out: 70, t: dtype.Of(dtype.BF16), bias: true, bf16: true},
		{n: 9, in: 67, out: 33, t: f32, bf16: true, r: 5},
		{n: 40, in: 130, out: 70, t: f32, bf16: true, r: 16, alpha: 0.5},
		{n: 40, in: 96, out: 70, t: nf4, bf16: true, r: 5, bias: true, drop: 0.25, alpha: 2},
		{n: 5, in: 67, out: 33, t: f32, f16: true, r: 5, bias: true},
		{n: 3, in: 64, out: 33, t: dtype.Of(dtype.F16), f16: true},
		{n: 40, in: 130, out: 70, t: f32, f16: true, r: 16, alpha: 0.5},
		{n: 40, in: 96, out: 70, t: nf4, f16: true, r: 5, bias: true, drop: 0.25, alpha: 2},
		{n: 40, in: 96, out: 50, t: f32, drop: 0.25, alpha: 2, r: 4},
		{n: 5, in: 96, out: 8, t: f32, drop: 0.5},
		{n: 600, in: 24, out: 17, t: f32, drop: 0.1},
		{n: 17, in: 64, out: 40, t: dtype.Of(dtype.F16)},
		{n: 2, in: 128, out: 65, t: nf4, r: 8},
		{n: 33, in: 128, out: 65, t: nf4, r: 16, bias: true},
		{n: 30, in: 64, out: 20, t: dtype.Of(dtype.Q4_0)},
		{n: 30, in: 64, out: 20, t: dtype.Of(dtype.Q4_1)},
		{n: 1, in: 256, out: 20, t: dtype.Of(dtype.Q8_0)},
		{n: 30, in: 256, out: 20, t: dtype.Of(dtype.Q4_K)},
		{n: 30, in: 256, out: 20, t: dtype.Of(dtype.Q6_K)},
		{n: 30, in: 128, out: 24, t: dtype.Type{Kind: dtype.Int4, Group: 64, Scale: dtype.F16, Flags: dtype.Zero}},
		{n: 3, in: 128, out: 24, t: dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.BF16}},
	} {
		if s.largeProduct(c.bf16 || c.f16, c.n*c.in*c.out) {
			continue
		}
		s.in(c.String(), func(s *suite) { s.linear(c) })
	}
	s.in("fast", testFast)
	s.in("rows of a weight", func(s *suite) {
		w, wx := s.weights(dtype.NF4Double, 40, 64, 1)
		x := s.normal(12*64, 1)
		a := &kernels.LinearArgs{N: 12, X: s.up(x), W: w.RowsOf(7, 20).RowsOf(2, 9)}
		want := matmul64(x, wx[9*64:18*64], false, true, 12, 9, 64)
		s.check([]result{{name: "y", n: 12 * 9, want: want, tol: f32Tol}}, func(d []kernels.Dst) { s.b.Linear(d[0], a) })
	})
}

// testFast: rounded operands give about the product, for every number of rows.
func testFast(s *suite) {
	const in, out = 256, 37
	for _, t := range []dtype.Type{dtype.Of(dtype.F32), dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_1), dtype.Of(dtype.Q4_K), dtype.Of(dtype.IQ3_S), dtype.Of(dtype.MXFP4), dtype.NF4Double,
		{Kind: dtype.Int4, Group: 128, Scale: dtype.F16, Flags: dtype.Zero}, {Kind: dtype.Int8, Group: -1}, {Kind: dtype.Int8, Group: 64, Flags: dtype.Zero}} {
		w, wx := s.weights(t, out, in, 1)
		for _, n := range []int{1, 3, 16, 40} {
			if s.large(n * in * out) {
				continue
			}
			x := s.normal(n*in, 1)
			a := &kernels.LinearArgs{N: n, X: s.up(x), W: w, Fast: true}
			want := matmul64(x, wx, false, true, n, out, in)
			s.check([]result{{name: fmt.Sprintf("%v, %d rows", t, n), n: n * out, want: want, tol: fastTol}}, func(d []kernels.Dst) { s.b.Linear(d[0], a) })
		}
	}
}

// fastTol is of x rounded to 8 bits, or of both operands to bf16: several
// standard deviations of the sum of so many errors.
const fastTol = 0.05

// bf16Tol allows for products of two rounded numbers that another backend
// rounds after each addition of a pair; the operands are rounded in the reference.
const bf16Tol = 2e-3

func roundBF16(x []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(block.FromBF16(block.BF16(float32(v))))
	}
	return y
}

// f16Tol allows for sums of products of two halves, which are exact, that are cut
// where tensor cores add several at a time.
const f16Tol = 1e-4

func roundF16(x []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(block.FromF16(block.F16(float32(v))))
	}
	return y
}

// dropped is x [n, width] as d leaves it.
func dropped(d *kernels.Drop, keys []int64, x []float64, width int) []float64 {
	if d == nil {
		return x
	}
	y := append([]float64{}, x...)
	row := make([]float32, width)
	for i, k := range keys {
		for j := range row {
			row[j] = 1
		}
		d.Apply(row, k, 0)
		for j, f := range row {
			y[i*width+j] *= float64(f)
		}
	}
	return y
}

func (s *suite) drop(p float32, n int) (*kernels.Drop, []int64) {
	if p == 0 {
		return nil, nil
	}
	keys, raw := make([]int64, n), make([]byte, 8*n)
	for i := range keys {
		keys[i] = int64(s.rng.Uint64() >> 1)
		binary.LittleEndian.PutUint64(raw[8*i:], uint64(keys[i]))
	}
	b := s.alloc(dtype.I64, n)
	s.b.Upload(b, raw)
	return &kernels.Drop{P: p, Seed: 9, Step: 3, Site: 5, Key: b}, keys
}

func (s *suite) linear(c linearCase) {
	w, wx := s.weights(c.t, c.out, c.in, 1)
	x, dy := s.normal(c.n*c.in, 1), s.normal(c.n*c.out, 1)
	drop, keys := s.drop(c.drop, c.n)
	a := &kernels.LinearArgs{N: c.n, X: s.up(x), W: w, Alpha: c.alpha, BF16: c.bf16, F16: c.f16, Drop: drop}
	alpha, tol, round := float64(c.alpha), f32Tol, func(x []float64) []float64 { return x }
	if alpha == 0 {
		alpha = 1
	}
	switch {
	case c.bf16:
		tol, round = bf16Tol, roundBF16
	case c.f16:
		tol, round = f16Tol, roundF16
	}
	xd := dropped(drop, keys, x, c.in)
	want := scaled(matmul64(round(xd), round(wx), false, true, c.n, c.out, c.in), alpha)
	if c.bias {
		bias := s.normal(c.out, 1)
		a.Bias = s.up(bias)
		for i := range want {
			want[i] += bias[i%c.out]
		}
	}
	back := *a
	dx := scaled(matmul64(round(dy), round(wx), false, false, c.n, c.in, c.out), alpha)
	if drop != nil {
		dx = dropped(drop, keys, dx, c.in)
	}
	if c.r > 0 {
		u, b := s.normal(c.n*c.r, 1), s.normal(c.out*c.r, 1)
		a.U, a.B = s.up(u), kernels.Mat{Buffer: s.up(b), Rows: c.out, Cols: c.r, Of: c.out}
		want = plus(want, matmul64(round(u), round(b), false, true, c.n, c.out, c.r))
		du, ba := s.normal(c.n*c.r, 1), s.normal(c.r*c.in, 1)
		back.U, back.B = s.up(du), kernels.Mat{Buffer: s.up(ba), Rows: c.r, Cols: c.in, Of: c.r}
		dx = plus(dx, matmul64(round(du), round(ba), false, false, c.n, c.in, c.r))
	}
	s.check([]result{{name: "y", n: len(want), want: want, tol: tol}}, func(d []kernels.Dst) { s.b.Linear(d[0], a) })

	dw := scaled(matmul64(round(dy), round(xd), true, false, c.out, c.in, c.n), alpha)
	dbias := make([]float64, c.out)
	for i, v := range dy {
		dbias[i%c.out] += v
	}
	dyb := s.up(dy)
	s.check([]result{
		{name: "dx", n: len(dx), want: dx, tol: tol},
		{name: "dw", n: len(dw), want: dw, tol: tol},
		{name: "dbias", n: c.out, want: dbias, tol: f32Tol},
	}, func(d []kernels.Dst) { s.b.LinearBackward(d[0], d[1], d[2], dyb, &back) })
}
