package kerneltest

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// gatherCase chooses k rows of a table [v, c] for each of n results.
type gatherCase struct {
	v, c, n, k int
	weighted   bool
}

func testGather(s *suite) {
	for _, c := range []gatherCase{
		{v: 5, c: 7, n: 9}, {v: 300, c: 576, n: 40}, {v: 3, c: 1, n: 1}, {v: 4, c: 16, n: 0},
		{v: 6, c: 37, n: 11, k: 3}, {v: 6, c: 37, n: 11, k: 3, weighted: true}, {v: 90, c: 200, n: 130, k: 8, weighted: true}, {v: 9, c: 5, n: 7, weighted: true},
	} {
		if s.large(c.v * c.n * max(c.k, 1) * c.c / 16) {
			continue
		}
		s.in(fmt.Sprintf("%+v", c), func(s *suite) { s.gather(c) })
	}
	s.in("decodes", func(s *suite) {
		for _, t := range []dtype.Type{dtype.Of(dtype.BF16), dtype.Of(dtype.F16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0)} {
			m, want := s.weights(t, 9, 64, 1)
			part := m.RowsOf(3, 4)
			one := &kernels.GatherArgs{N: 3, Table: part, Idx: s.ints([]int32{2, 0, 3})}
			rows := append(append(append([]float64{}, want[5*64:6*64]...), want[3*64:4*64]...), want[6*64:7*64]...)
			s.check([]result{{name: t.String(), n: len(rows), want: rows, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Gather(d[0], one) })
			two := &kernels.GatherArgs{N: 1, K: 2, Table: part, Idx: s.ints([]int32{1, 2}), Weight: s.up([]float64{0.5, -2})}
			sum := make([]float64, 64)
			for i := range sum {
				sum[i] = 0.5*want[4*64+i] - 2*want[5*64+i]
			}
			s.check([]result{{name: t.String() + " summed", n: 64, want: sum, tol: 1e-6}}, func(d []kernels.Dst) { s.b.Gather(d[0], two) })
			dy := s.normal(64, 1)
			dyb := s.up(dy)
			dw := []float64{dot(dy, want[4*64:5*64]), dot(dy, want[5*64:6*64])}
			s.check([]result{{name: t.String() + " dweight", n: 2, want: dw, tol: f32Tol}}, func(d []kernels.Dst) {
				s.b.GatherBackward(kernels.Dst{}, d[0], dyb, two)
			})
		}
	})
	s.in("bf16", func(s *suite) {
		const v, c, n, k = 5, 67, 9, 2
		table, dy, idx := s.twin(v*c), s.twin(n*c), s.ints(s.choices(v, n*k))
		weight := s.up(s.normal(n*k, 1))
		args := func(half bool) *kernels.GatherArgs {
			return &kernels.GatherArgs{N: n, K: k, Table: kernels.Mat{Buffer: table.pick(half), Rows: v, Cols: c, Of: v}, Idx: idx, Weight: weight}
		}
		s.halves([]int{n * c}, func(half bool, d []kernels.Dst) { s.b.Gather(d[0], args(half)) })
		s.halves([]int{v * c}, func(half bool, d []kernels.Dst) { s.b.GatherBackward(d[0], kernels.Dst{}, dy.pick(half), args(half)) })
	})
}

// choices draws n of v rows.
func (s *suite) choices(v, n int) []int32 {
	idx := make([]int32, n)
	for i := range idx {
		idx[i] = int32(s.rng.IntN(v))
	}
	return idx
}

func (s *suite) gather(c gatherCase) {
	k := max(c.k, 1)
	table, dy, weight := s.normal(c.v*c.c, 1), s.normal(c.n*c.c, 1), make([]float64, c.n*k)
	idx := s.choices(c.v, c.n*k)
	a := &kernels.GatherArgs{N: c.n, K: c.k, Table: kernels.Mat{Buffer: s.up(table), Rows: c.v, Cols: c.c, Of: c.v}, Idx: s.ints(idx)}
	for i := range weight {
		weight[i] = 1
	}
	if c.weighted {
		weight = s.normal(c.n*k, 1)
		a.Weight = s.up(weight)
	}
	y, dtable, dweight := make([]float64, c.n*c.c), make([]float64, c.v*c.c), make([]float64, c.n*k)
	for i, r := range idx {
		row, g := table[int(r)*c.c:][:c.c], dy[i/k*c.c:][:c.c]
		dweight[i] = dot(row, g)
		for j := range c.c {
			y[i/k*c.c+j] += weight[i] * row[j]
			dtable[int(r)*c.c+j] += weight[i] * g[j]
		}
	}
	s.check([]result{{name: "y", n: len(y), want: y, tol: 2e-6}}, func(d []kernels.Dst) { s.b.Gather(d[0], a) })
	dyb := s.up(dy)
	s.check([]result{
		{name: "dtable", n: len(dtable), want: dtable, tol: 2e-6},
		{name: "dweight", n: len(dweight), want: dweight, tol: f32Tol},
	}, func(d []kernels.Dst) { s.b.GatherBackward(d[0], d[1], dyb, a) })
}
