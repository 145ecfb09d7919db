package lora

import (
	"errors"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// Settings of leading: columns beside those asked for, the size of matrices that are
// taken whole, steps at most, how far a step may move what was found, and below which
// distance not coming nearer for so many steps is rounding.
const (
	svdExtra  = 16
	svdWhole  = 96
	svdSteps  = 300
	svdStill  = 3e-7
	svdNoise  = 1e-4
	svdWindow = 8
)

// leading returns the r largest singular values of w [rows, cols] f32, a buffer of
// dev, with their vectors: u [rows, r] and v [cols, r]. It is subspace iteration with
// 2r+16 columns and a Rayleigh-Ritz step each time (Halko, Martinsson, Tropp 2011,
// arXiv:0909.4061, section 4.5): products with w run on the device, what is as narrow
// as the columns in float64. It ends when the directions stand still, or after so many rounds. Call it inside
// Run.
func leading(dev kernels.Backend, w kernels.Buffer, rows, cols, r, rounds int) (u []float32, s []float64, v []float32, err error) {
	k := min(2*r+svdExtra, rows, cols)
	if small := min(rows, cols); small <= svdWhole {
		k = small
	}
	r = min(r, k)
	x, err := scratch(dev, cols*k)
	if err != nil {
		return nil, nil, nil, err
	}
	defer dev.Free(x)
	y, err := scratch(dev, rows*k)
	if err != nil {
		return nil, nil, nil, err
	}
	defer dev.Free(y)
	basis := firstBasis(cols, k) // columns of X
	var found settling
	left := make([][]float64, k)
	for step := 0; ; step++ {
		dev.Upload(x, kernels.Bytes(rowsOf(basis)))
		dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: w, B: x, M: rows, N: k, K: cols, Alpha: 1})
		got, err := values(dev, y)
		if err != nil {
			return nil, nil, nil, err
		}
		for j := range left {
			left[j] = make([]float64, rows)
			for i := range left[j] {
				left[j][i] = float64(got[i*k+j])
			}
		}
		squares, turn := eigen(gram(left), k)
		left, basis = turned(left, turn), turned(basis, turn)
		still := found.still(basis[:r])
		if whole := k == min(rows, cols) && step > 0; whole || still || step == rounds || squares[0] <= 0 {
			s = make([]float64, r)
			for j := range r {
				s[j] = math.Sqrt(max(squares[j], 0))
				for i := range left[j] {
					if left[j][i] /= s[j]; s[j] == 0 {
						left[j][i] = 0
					}
				}
			}
			return rowsOf(left[:r]), s, rowsOf(basis[:r]), nil
		}
		for j := range left { // the next basis is Wᵀ of these, each about as long
			if squares[j] > 0 {
				for i := range left[j] {
					left[j][i] /= squares[j]
				}
			}
		}
		dev.Upload(y, kernels.Bytes(rowsOf(left)))
		dev.Gemm(kernels.To(x), &kernels.GemmArgs{A: w, TA: true, B: y, M: cols, N: k, K: rows, Alpha: 1})
		if got, err = values(dev, x); err != nil {
			return nil, nil, nil, err
		}
		next := make([][]float64, k)
		for j := range next {
			next[j] = make([]float64, cols)
			for i := range next[j] {
				next[j][i] = float64(got[i*k+j])
			}
		}
		orthonormal(next)
		basis = next
	}
}

// firstBasis is k orthonormal columns of n numbers to begin an iteration with.
func firstBasis(n, k int) [][]float64 {
	x := make([][]float64, k)
	for j, c := range newStream(1, "singular vectors").normal(n*k, 1) {
		x[j%k] = append(x[j%k], float64(c))
	}
	orthonormal(x)
	return x
}

// settling follows the directions of an iteration from step to step.
type settling struct {
	found   [][]float64 // of the step before
	history []float64   // how far they moved
}

// still takes the directions of the next step, and reports whether they stand still or
// have stopped coming closer.
func (s *settling) still(next [][]float64) bool {
	moved, step := 1.0, len(s.history)
	if s.found != nil {
		moved = away(s.found, next)
	}
	s.found, s.history = next, append(s.history, moved)
	return moved < svdStill || step >= svdWindow && moved < svdNoise && moved > s.history[step-svdWindow]/2
}

// trailingMemory is what trailing takes with its operand of float32: the vectors in
// float64, and two matrices of their products.
func trailingMemory(rows, cols int) int64 {
	n := int64(min(rows, cols))
	return 12*int64(rows)*int64(cols) + 16*n*n
}

// trailing returns the r last of the min(rows, cols) singular values of w [rows, cols],
// the largest of them first, with their left vectors u [rows, r]. It works on the
// smaller Gram matrix in float64: small ones are decomposed, larger ones factored for
// subspace iteration with their inverse.
func trailing(w []float32, rows, cols, r int) (u []float32, s []float64, err error) {
	n, wide := min(rows, cols), rows <= cols
	if !slices.ContainsFunc(w, func(x float32) bool { return x != 0 }) { // of a counting backend, too
		return make([]float32, rows*r), make([]float64, r), nil
	}
	at := func(i, k int) float64 { // element k of vector i, of which there are n
		if wide {
			return float64(w[i*cols+k])
		}
		return float64(w[k*cols+i])
	}
	vectors := make([][]float64, n)
	par.For(n, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			vectors[i] = make([]float64, max(rows, cols))
			for k := range vectors[i] {
				vectors[i][k] = at(i, k)
			}
		}
	})
	g := gram(vectors)
	var squares []float64
	var basis [][]float64 // eigenvectors, the smallest eigenvalue first
	if n <= svdWhole {
		all, q := eigen(g, n)
		for j := n - 1; j >= n-r; j-- {
			c := make([]float64, n)
			for i := range c {
				c[i] = q[i*n+j]
			}
			squares, basis = append(squares, all[j]), append(basis, c)
		}
	} else if squares, basis, err = smallestOf(g, n, r); err != nil {
		return nil, nil, err
	}
	slices.Reverse(squares)
	slices.Reverse(basis)
	for _, x := range squares {
		s = append(s, math.Sqrt(max(x, 0)))
	}
	if wide {
		return rowsOf(basis), s, nil
	}
	left := make([][]float64, r)
	for j, c := range basis { // w·v/s
		left[j] = make([]float64, rows)
		for i := range rows {
			if s[j] > 0 {
				sum := 0.0
				for k, x := range c {
					sum += float64(float64(w[i*cols+k]) * x)
				}
				left[j][i] = sum / s[j]
			}
		}
	}
	return rowsOf(left), s, nil
}

// smallestOf returns the r smallest eigenvalues of the positive matrix g [n, n], not all 0, which
// is changed, the smallest first, with their vectors.
func smallestOf(g []float64, n, r int) (values []float64, vectors [][]float64, err error) {
	trace := 0.0
	for i := 0; i < len(g); i += n + 1 {
		trace += g[i]
	}
	shift := 1e-13 * trace / float64(n) // moves no vector
	for i := 0; i < len(g); i += n + 1 {
		g[i] += shift
	}
	if !cholesky(g, n) {
		return nil, nil, errors.New("lora: a matrix of products that is not positive")
	}
	k := min(2*r+svdExtra, n)
	x := firstBasis(n, k)
	var found settling
	for step := 0; ; step++ {
		y := make([][]float64, k)
		par.For(k, 1, func(lo, hi int) {
			for j := lo; j < hi; j++ {
				y[j] = slices.Clone(x[j])
				solve(g, y[j])
			}
		})
		t := make([]float64, k*k)
		for i := range k {
			for j := range i + 1 {
				t[i*k+j] = (dot(x[i], y[j]) + dot(x[j], y[i])) / 2
				t[j*k+i] = t[i*k+j]
			}
		}
		inverses, turn := eigen(t, k)
		x, y = turned(x, turn), turned(y, turn)
		if found.still(x[:r]) || step == svdSteps {
			for _, v := range inverses[:r] {
				values = append(values, 1/v-shift)
			}
			return values, x[:r], nil
		}
		x = y
		orthonormal(x)
	}
}

// cholesky makes the lower half of g [n, n] L with g = L·Lᵀ; false where g is not
// positive.
func cholesky(g []float64, n int) bool {
	for j := range n {
		row := g[j*n : j*n+j]
		d := g[j*n+j] - dot(row, row)
		if !(d > 0) {
			return false
		}
		d = math.Sqrt(d)
		g[j*n+j] = d
		par.For(n-j-1, max(1, 1<<15/(j+1)), func(lo, hi int) {
			for i := j + 1 + lo; i < j+1+hi; i++ {
				g[i*n+j] = (g[i*n+j] - dot(row, g[i*n:i*n+j])) / d
			}
		})
	}
	return true
}

// solve makes x the solution of L·Lᵀ·y = x.
func solve(l, x []float64) {
	n := len(x)
	for i := range n {
		x[i] = (x[i] - dot(l[i*n:i*n+i], x)) / l[i*n+i]
	}
	for i := n - 1; i >= 0; i-- {
		x[i] /= l[i*n+i]
		for j, v := range l[i*n : i*n+i] {
			x[j] -= float64(v * x[i])
		}
	}
}

// rowsOf is columns as a row-major matrix of float32.
func rowsOf(columns [][]float64) []float32 {
	k := len(columns)
	out := make([]float32, k*len(columns[0]))
	for j, c := range columns {
		for i, v := range c {
			out[i*k+j] = float32(v)
		}
	}
	return out
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i, v := range a {
		s += float64(v * b[i])
	}
	return s
}

// orthonormal makes columns orthonormal, twice over (modified Gram and Schmidt). A
// column that depends on those before it becomes zeros.
func orthonormal(columns [][]float64) {
	for j, c := range columns {
		before := math.Sqrt(dot(c, c))
		for range 2 {
			for _, q := range columns[:j] {
				d := dot(q, c)
				for i := range c {
					c[i] -= float64(d * q[i])
				}
			}
		}
		n := math.Sqrt(dot(c, c))
		if n <= 1e-12*before {
			clear(c)
			continue
		}
		for i := range c {
			c[i] /= n
		}
	}
}

// gram is the matrix [k, k] of products of columns.
func gram(columns [][]float64) []float64 {
	k := len(columns)
	out := make([]float64, k*k)
	par.For(k, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for j := range i + 1 {
				d := dot(columns[i], columns[j])
				out[i*k+j], out[j*k+i] = d, d
			}
		}
	})
	return out
}

// turned is columns times the matrix t [k, k].
func turned(columns [][]float64, t []float64) [][]float64 {
	k := len(columns)
	out := make([][]float64, k)
	par.For(k, 1, func(lo, hi int) {
		for j := lo; j < hi; j++ {
			out[j] = make([]float64, len(columns[0]))
			for l, c := range columns {
				f := t[l*k+j]
				for i, v := range c {
					out[j][i] += float64(f * v)
				}
			}
		}
	})
	return out
}

// away is the part of the directions now that lies outside those before.
func away(before, now [][]float64) float64 {
	sum := 0.0
	for _, c := range now {
		rest := slices.Clone(c)
		for _, q := range before {
			d := dot(q, c)
			for i := range rest {
				rest[i] -= float64(d * q[i])
			}
		}
		sum = max(sum, dot(rest, rest))
	}
	return math.Sqrt(sum)
}

// eigen returns the eigenvalues of a symmetric matrix [n, n], largest first, and the
// matrix whose columns are their vectors (cyclic Jacobi rotations). a is changed.
func eigen(a []float64, n int) (values []float64, vectors []float64) {
	q := make([]float64, n*n)
	for i := range n {
		q[i*n+i] = 1
	}
	for range 60 {
		off, all := 0.0, 0.0
		for i, v := range a {
			if all += float64(v * v); i%(n+1) != 0 {
				off += float64(v * v)
			}
		}
		if off <= 1e-30*all {
			break
		}
		for i := range n {
			for j := i + 1; j < n; j++ {
				rotate(a, q, n, i, j)
			}
		}
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case a[i*n+i] > a[j*n+j]:
			return -1
		case a[i*n+i] < a[j*n+j]:
			return 1
		}
		return 0
	})
	vectors = make([]float64, n*n)
	for to, from := range order {
		values = append(values, a[from*n+from])
		for i := range n {
			vectors[i*n+to] = q[i*n+from]
		}
	}
	return values, vectors
}

// rotate makes element i, j of a zero.
func rotate(a, q []float64, n, i, j int) {
	off := a[i*n+j]
	if off == 0 {
		return
	}
	theta := (a[j*n+j] - a[i*n+i]) / (2 * off)
	t := 1 / (math.Abs(theta) + math.Sqrt(float64(theta*theta)+1))
	if theta < 0 {
		t = -t
	}
	c := 1 / math.Sqrt(float64(t*t)+1)
	s := float64(t * c)
	for k := range n {
		x, y := a[k*n+i], a[k*n+j]
		a[k*n+i], a[k*n+j] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
	}
	for k := range n {
		x, y := a[i*n+k], a[j*n+k]
		a[i*n+k], a[j*n+k] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
		x, y = q[k*n+i], q[k*n+j]
		q[k*n+i], q[k*n+j] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
	}
}
