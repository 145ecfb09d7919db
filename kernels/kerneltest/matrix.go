package kerneltest

import (
	"errors"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func testGemm(s *suite) {
	for _, c := range []struct{ m, n, k int }{{1, 1, 1}, {3, 5, 7}, {17, 33, 20}, {64, 64, 64}, {100, 70, 150}, {5, 40, 0}, {16, 200, 300}} {
		if s.large(c.m * c.n * c.k) {
			continue
		}
		for i := range 4 {
			ta, tb := i&1 > 0, i&2 > 0
			a, b := s.normal(c.m*c.k, 1), s.normal(c.k*c.n, 1)
			want := scaled(matmul64(a, b, ta, tb, c.m, c.n, c.k), 0.75)
			ab, bb := s.up(a), s.up(b)
			s.check([]result{{name: fmt.Sprintf("%d×%d×%d %v %v", c.m, c.n, c.k, ta, tb), n: c.m * c.n, want: want, tol: f32Tol}},
				func(d []kernels.Dst) {
					s.b.Gemm(d[0], &kernels.GemmArgs{A: ab, B: bb, TA: ta, TB: tb, M: c.m, N: c.n, K: c.k, Alpha: 0.75})
				})
			args := &kernels.GemmArgs{TA: ta, TB: tb, M: c.m, N: c.n, K: c.k, Alpha: 0.75}
			args.LDA, args.LDB = wider(args.ShapeA()), wider(args.ShapeB())
			args.A, args.B = s.up(spread(a, args.LDA, args.LDA-3)), s.up(spread(b, args.LDB, args.LDB-3))
			s.check([]result{{name: fmt.Sprintf("%d×%d×%d %v %v, parts of rows", c.m, c.n, c.k, ta, tb), n: c.m * c.n, want: want, tol: f32Tol}},
				func(d []kernels.Dst) { s.b.Gemm(d[0], args) })
		}
	}
}

// wider is a distance of rows longer than they are.
func wider(_, cols, _ int) int { return cols + 3 }

// spread lays out rows of cols elements ld apart, with others between them that a
// product must not read.
func spread(x []float64, ld, cols int) []float64 {
	if cols == 0 {
		return nil
	}
	var out []float64
	for at := 0; at < len(x); at += cols {
		for len(out)%ld != 0 {
			out = append(out, math.NaN())
		}
		out = append(out, x[at:at+cols]...)
	}
	return out
}

func testGram(s *suite) {
	s.in("groups", func(s *suite) {
		const rows, cols = 50, 33
		x := s.normal(rows*cols, 1)
		groups, at := s.offsets(rows)
		var want []float64
		for g := range 3 {
			part := x[int(at[g])*cols : int(at[g+1])*cols]
			want = append(want, matmul64(part, part, true, false, cols, cols, len(part)/cols)...)
		}
		xb := s.up(x)
		s.once("write", []result{{name: "h", n: len(want), want: want, tol: f32Tol}}, []mode{writing},
			func(d []kernels.Dst) {
				s.b.Gram(d[0], &kernels.GramArgs{Rows: rows, Cols: cols, X: xb, Groups: groups})
			})
	})
	for _, c := range []struct{ rows, cols int }{{1, 1}, {5, 40}, {300, 33}, {70, 130}} {
		if s.large(c.rows * c.cols * c.cols) {
			continue
		}
		x := s.normal(c.rows*c.cols, 1)
		xb := s.up(x)
		want := matmul64(x, x, true, false, c.cols, c.cols, c.rows)
		name := fmt.Sprintf("%d×%d", c.rows, c.cols)
		s.once("write", []result{{name: name, n: len(want), want: want, tol: f32Tol}}, []mode{writing},
			func(d []kernels.Dst) { s.b.Gram(d[0], &kernels.GramArgs{Rows: c.rows, Cols: c.cols, X: xb}) })
		h := s.up(want) // what a Gram matrix is added to is symmetric
		s.b.Gram(kernels.Into(h), &kernels.GramArgs{Rows: c.rows, Cols: c.cols, X: xb})
		s.close(name+" (add)", s.get(h), scaled(want, 2), f32Tol)
	}
}

// testFactor checks what the result is for: uᵀ·u·(H + damp·I) = I, u upper.
func testFactor(s *suite) {
	for _, n := range []int{1, 3, 64, 150, 300} {
		if s.large(n * n * n / 32) {
			continue
		}
		x := s.normal((n+40)*n, 1)
		h := scaled(matmul64(x, x, true, false, n, n, n+40), 1/float64(n))
		hb, ub := s.up(h), s.alloc(dtype.F32, n*n)
		const damp = 0.125
		if err := s.b.Factor(ub, hb, n, damp); err != nil {
			s.Fatalf("n %d: %v", n, err)
		}
		s.close("h afterwards", s.get(hb), h, 0)
		if err := s.b.Factor(hb, hb, n, damp); err != nil {
			s.Fatalf("n %d: in place of h: %v", n, err)
		}
		s.sameValues("in place of h", s.get(hb), s.get(ub))
		u := make([]float64, n*n)
		for i, v := range s.get(ub) {
			if i/n > i%n && v != 0 {
				s.Fatalf("n %d: u[%d,%d] is %v, below the diagonal", n, i/n, i%n, v)
			}
			u[i] = float64(v)
		}
		for i := range n {
			h[i*n+i] += damp
		}
		unit := matmul64(matmul64(u, u, true, false, n, n, n), h, false, false, n, n, n)
		for i, v := range unit {
			want := 0.0
			if i/n == i%n {
				want = 1
			}
			if !(math.Abs(v-want) < 1e-3) {
				s.Fatalf("n %d: uᵀ·u·H is %v at %d,%d", n, v, i/n, i%n)
			}
		}
	}
	bad := s.up([]float64{1, 2, 2, 1})
	if err := s.b.Factor(bad, bad, 2, 0); !errors.Is(err, kernels.ErrNotPositive) {
		s.Errorf("a matrix that is not positive definite: %v", err)
	}
	s.close("a matrix that is not positive definite", s.get(bad), []float64{1, 2, 2, 1}, 0)
}

// testGPTQ follows the block's own codes in float64: each must be a nearest one
// for the weight as the errors before it have left it.
func testGPTQ(s *suite) {
	for _, c := range []struct{ rows, cols, most int }{{1, 1, 15}, {70, 32, 15}, {33, 128, 7}, {64, 128, 255}} {
		s.in(fmt.Sprintf("%d×%d max %d", c.rows, c.cols, c.most), func(s *suite) { s.gptq(c.rows, c.cols, c.most) })
	}
}

func (s *suite) gptq(rows, cols, most int) {
	n := rows * cols
	w, scale, zero, u := s.normal(n, 1), make([]float64, n), make([]float64, n), s.normal(cols*cols, 0.1)
	for i := range n {
		scale[i], zero[i] = 6/float64(most)*(0.5+s.rng.Float64()), float64(s.rng.IntN(most+1))
	}
	for j := range cols {
		u[j*cols+j] = 1 + s.rng.Float64()
	}
	codes := s.alloc(dtype.U8, n)
	g := &kernels.GPTQArgs{Rows: rows, Cols: cols, W: s.up(w), Err: s.alloc(dtype.F32, n), U: s.up(u), Codes: codes, Scale: s.up(scale), Zero: s.up(zero), MaxCode: most}
	s.b.GPTQBlock(g)
	q := make([]byte, n)
	if err := s.b.Download(q, codes); err != nil {
		s.Fatal(err)
	}
	dq, errs := make([]float64, n), make([]float64, n)
	for j := range cols {
		for r := range rows {
			i := j*rows + r
			exact := w[i]/scale[i] + zero[i]
			code := float64(q[i])
			clamped := math.Min(math.Max(exact, 0), float64(most))
			if math.Abs(code-clamped) > 0.501 || code > float64(most) {
				s.Fatalf("column %d row %d: code %v for %v", j, r, code, exact)
			}
			dq[i] = (code - zero[i]) * scale[i]
			errs[i] = (w[i] - dq[i]) / u[j*cols+j]
			for k := j + 1; k < cols; k++ {
				w[k*rows+r] -= errs[i] * u[j*cols+k]
			}
		}
	}
	s.close("w", s.get(g.W), dq, 1e-5)
	s.close("err", s.get(g.Err), errs, 1e-4)
}

func testDequantize(s *suite) {
	for _, t := range storageTypes() {
		if s.lacks(t) {
			continue
		}
		m, want := s.weights(t, 11, 256, 1)
		y := s.alloc(dtype.F32, 11*256)
		s.b.Dequantize(y, m)
		s.close(t.String(), s.get(y), want, 0)
		part := s.b.Slice(y, 0, 4*256)
		s.b.Dequantize(part, m.RowsOf(3, 4))
		s.close(t.String()+" rows", s.get(part), want[3*256:7*256], 0)
	}
}
