package kerneltest

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// expertsCase is a grouped Linear: rows by expert.
type expertsCase struct {
	rows       []int
	in, out, r int // r 0: no second pair
	t          dtype.Type
	bias, bf16 bool
	drop       float32
	half       bool // x, u, dy are bf16
}

func testExperts(s *suite) {
	f32 := dtype.Of(dtype.F32)
	for _, c := range []expertsCase{
		{rows: []int{3}, in: 5, out: 4, t: f32},
		{rows: []int{2, 0, 40, 1}, in: 35, out: 17, t: f32, r: 3, bias: true},
		{rows: []int{0, 20, 0, 5, 0}, in: 64, out: 33, t: f32, r: 4, drop: 0.25},
		{rows: []int{18, 30}, in: 64, out: 40, t: dtype.Of(dtype.BF16), bf16: true, r: 8, half: true},
		{rows: []int{0, 70, 3, 0, 20}, in: 67, out: 35, t: f32, bf16: true, r: 5, bias: true, drop: 0.25},
		{rows: []int{7, 0, 19}, in: 128, out: 24, t: dtype.NF4Double, bias: true},
		{rows: []int{1, 1, 0, 25}, in: 256, out: 20, t: dtype.Of(dtype.Q4_K), r: 2},
		{rows: []int{2, 0, 30}, in: 64, out: 20, t: dtype.Of(dtype.Q8_0)},
		{rows: []int{0, 0}, in: 8, out: 3, t: f32, bias: true},
	} {
		n := 0
		for _, r := range c.rows {
			n += r
		}
		if s.largeProduct(c.bf16, n*c.in*c.out/5) {
			continue
		}
		s.in(fmt.Sprintf("%+v", c), func(s *suite) { s.experts(c) })
	}
}

// group uploads the offsets of so many rows each.
func (s *suite) group(rows []int) (b kernels.Buffer, n int) {
	off := []int32{0}
	for _, r := range rows {
		n += r
		off = append(off, int32(n))
	}
	return s.ints(off), n
}

// byExpert joins f of every expert's first row, rows and number.
func byExpert(rows []int, f func(e, lo, n int) []float64) []float64 {
	var out []float64
	lo := 0
	for e, n := range rows {
		out = append(out, f(e, lo, n)...)
		lo += n
	}
	return out
}

// values uploads x as float32 or bf16, rounding x as it does.
func (s *suite) values(x []float64, half bool) kernels.Buffer {
	if half {
		return s.half(x)
	}
	return s.up(x)
}

// sortedDrop is drop of rows that lie in the order opposite to their tokens',
// with the keys of the rows.
func (s *suite) sortedDrop(p float32, n int) (*kernels.Drop, []int64) {
	d, keys := s.drop(p, n)
	if d == nil {
		return nil, nil
	}
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(n - 1 - i)
	}
	d.Rows = s.ints(rows)
	slices.Reverse(keys)
	return d, keys
}

func (s *suite) experts(c expertsCase) {
	group, n := s.group(c.rows)
	parts := len(c.rows)
	w, wx := s.weights(c.t, parts*c.out, c.in, 1)
	x, dy := s.normal(n*c.in, 1), s.normal(n*c.out, 1)
	xb, dyb := s.values(x, c.half), s.values(dy, c.half)
	drop, keys := s.sortedDrop(c.drop, n)
	a := &kernels.LinearArgs{N: n, X: xb, W: w, BF16: c.bf16, Drop: drop, Group: group, Experts: parts}
	tol, round := f32Tol, func(x []float64) []float64 { return x }
	if c.bf16 {
		tol, round = bf16Tol, roundBF16
	}
	xd := dropped(drop, keys, x, c.in)
	bias := make([]float64, parts*c.out)
	if c.bias {
		bias = s.normal(parts*c.out, 1)
		a.Bias = s.up(bias)
	}
	back := *a
	u, b := s.normal(n*c.r, 1), s.normal(parts*c.out*c.r, 1)
	du, ba := s.normal(n*c.r, 1), s.normal(parts*c.r*c.in, 1)
	if c.r > 0 {
		a.U, a.B = s.values(u, c.half), kernels.Mat{Buffer: s.up(b), Rows: parts * c.out, Cols: c.r, Of: parts * c.out}
		back.U, back.B = s.values(du, c.half), kernels.Mat{Buffer: s.up(ba), Rows: parts * c.r, Cols: c.in, Of: parts * c.r}
	}
	part := func(x []float64, e, size int) []float64 { return x[e*size : (e+1)*size] }
	y := byExpert(c.rows, func(e, lo, k int) []float64 {
		y := matmul64(round(xd[lo*c.in:(lo+k)*c.in]), round(part(wx, e, c.out*c.in)), false, true, k, c.out, c.in)
		y = plus(y, matmul64(round(u[lo*c.r:(lo+k)*c.r]), round(part(b, e, c.out*c.r)), false, true, k, c.out, c.r))
		for i := range y {
			y[i] += part(bias, e, c.out)[i%c.out]
		}
		return y
	})
	dx := byExpert(c.rows, func(e, lo, k int) []float64 {
		dx := matmul64(round(dy[lo*c.out:(lo+k)*c.out]), round(part(wx, e, c.out*c.in)), false, false, k, c.in, c.out)
		if drop != nil {
			dx = dropped(drop, keys[lo:lo+k], dx, c.in)
		}
		return plus(dx, matmul64(round(du[lo*c.r:(lo+k)*c.r]), round(part(ba, e, c.r*c.in)), false, false, k, c.in, c.r))
	})
	dw := byExpert(c.rows, func(e, lo, k int) []float64 {
		return matmul64(round(dy[lo*c.out:(lo+k)*c.out]), round(xd[lo*c.in:(lo+k)*c.in]), true, false, c.out, c.in, k)
	})
	db := byExpert(c.rows, func(e, lo, k int) []float64 {
		sum := make([]float64, c.out)
		for i := range k * c.out {
			sum[i%c.out] += dy[lo*c.out+i]
		}
		return sum
	})
	s.check([]result{{name: "y", n: len(y), want: y, tol: tol}}, func(d []kernels.Dst) { s.b.Linear(d[0], a) })
	s.check([]result{
		{name: "dx", n: len(dx), want: dx, tol: tol}, {name: "dw", n: len(dw), want: dw, tol: tol},
		{name: "dbias", n: len(db), want: db, tol: f32Tol},
	}, func(d []kernels.Dst) { s.b.LinearBackward(d[0], d[1], d[2], dyb, &back) })
}
