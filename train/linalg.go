package train

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// square is a square matrix of float64 by rows, small enough for this side.
type square struct {
	n int
	v []float64
}

func newSquare(n int) square { return square{n, make([]float64, n*n)} }

func (m square) row(i int) []float64 { return m.v[i*m.n : (i+1)*m.n] }

// eigen returns the eigenvalues of the symmetric matrix a, descending, and their
// vectors as rows: Householder's tridiagonal form, then QL steps with implicit
// shifts (Golub, Van Loan, Matrix Computations, 8.3).
func eigen(a square) ([]float64, square) {
	d, e, q := tridiagonal(a)
	implicitQL(d, e, q)
	order := make([]int, a.n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(d[j], d[i]) })
	values, vectors := make([]float64, a.n), newSquare(a.n)
	for i, o := range order {
		values[i] = d[o]
		copy(vectors.row(i), q.row(o))
	}
	return values, vectors
}

// tridiagonal returns the diagonal d and what lies below it, e[i] beside d[i] and
// d[i+1], of Q·A·Qᵀ, with Q by rows.
func tridiagonal(m square) (d, e []float64, q square) {
	n := m.n
	a, q := square{n, slices.Clone(m.v)}, newSquare(n)
	for i := range n {
		q.v[i*n+i] = 1
	}
	d, e = make([]float64, n), make([]float64, n)
	v, w := make([]float64, n), make([]float64, n)
	for k := 0; k+2 < n; k++ {
		var norm float64
		for i := k + 1; i < n; i++ {
			v[i] = a.v[i*n+k]
			norm += v[i] * v[i]
		}
		norm = math.Sqrt(norm)
		if norm == 0 {
			continue
		}
		if v[k+1] > 0 {
			norm = -norm
		}
		v[k+1] -= norm
		var vv float64
		for i := k + 1; i < n; i++ {
			vv += v[i] * v[i]
		}
		// A ← H·A·H with H = 1 - 2vvᵀ/vᵀv, as A - v·wᵀ - w·vᵀ
		par.For(n-k-1, reflectGrain(n), func(lo, hi int) {
			for i := k + 1 + lo; i < k+1+hi; i++ {
				w[i] = 2 / vv * dot64(a.row(i)[k+1:], v[k+1:])
			}
		})
		half := dot64(v[k+1:], w[k+1:]) / vv
		for i := k + 1; i < n; i++ {
			w[i] -= half * v[i]
		}
		par.For(n-k-1, reflectGrain(n), func(lo, hi int) {
			for i := k + 1 + lo; i < k+1+hi; i++ {
				row := a.row(i)
				for j := k + 1; j < n; j++ {
					row[j] -= v[i]*w[j] + w[i]*v[j]
				}
			}
		})
		a.v[(k+1)*n+k], a.v[k*n+k+1] = norm, norm
		// Q ← H·Q
		u := make([]float64, n)
		for i := k + 1; i < n; i++ {
			for j, x := range q.row(i) {
				u[j] += v[i] * x
			}
		}
		par.For(n-k-1, reflectGrain(n), func(lo, hi int) {
			for i := k + 1 + lo; i < k+1+hi; i++ {
				row, f := q.row(i), 2/vv*v[i]
				for j := range row {
					row[j] -= f * u[j]
				}
			}
		})
	}
	for i := range n {
		d[i] = a.v[i*n+i]
		if i+1 < n {
			e[i] = a.v[(i+1)*n+i]
		}
	}
	return d, e, q
}

// reflectGrain is the number of rows of length n that are one piece of work.
func reflectGrain(n int) int { return max(1, 16384/max(n, 1)) }

// implicitQL makes the tridiagonal matrix (d, e) diagonal and turns the rows of q
// along.
func implicitQL(d, e []float64, q square) {
	n := len(d)
	for l := range n {
		for range 60 {
			m := l
			for ; m+1 < n; m++ {
				if s := math.Abs(d[m]) + math.Abs(d[m+1]); math.Abs(e[m]) <= 1e-16*s {
					break
				}
			}
			if m == l {
				break
			}
			g := (d[l+1] - d[l]) / (2 * e[l])
			g = d[m] - d[l] + e[l]/(g+math.Copysign(math.Hypot(g, 1), g))
			s, c, p := 1.0, 1.0, 0.0
			for i := m - 1; i >= l; i-- {
				f, b := s*e[i], c*e[i]
				r := math.Hypot(f, g)
				if e[i+1] = r; r == 0 {
					d[i+1] -= p
					e[m] = 0
					break
				}
				s, c = f/r, g/r
				g = d[i+1] - p
				r = (d[i]-g)*s + 2*c*b
				p = s * r
				d[i+1] = g + p
				g = c*r - b
				x, y := q.row(i+1), q.row(i)
				for k := range x {
					x[k], y[k] = s*y[k]+c*x[k], c*y[k]-s*x[k]
				}
				if i == l {
					d[l] -= p
					e[l], e[m] = g, 0
				}
			}
		}
	}
}

func dot64(a, b []float64) float64 {
	var t float64
	for i, x := range a {
		t += x * b[i]
	}
	return t
}

// orthonormal makes the n vectors of a, rows of length d, orthonormal in their
// order: Gram and Schmidt, twice.
func orthonormal(a []float64, n, d int) {
	h := make([]float64, n)
	for j := range n {
		v := a[j*d : (j+1)*d]
		for range 2 {
			par.For(j, reflectGrain(d), func(lo, hi int) {
				for i := lo; i < hi; i++ {
					h[i] = dot64(a[i*d:(i+1)*d], v)
				}
			})
			par.For(d, 1024, func(lo, hi int) {
				for i := range j {
					q, f := a[i*d:(i+1)*d], h[i]
					for k := lo; k < hi; k++ {
						v[k] -= f * q[k]
					}
				}
			})
		}
		norm := math.Sqrt(dot64(v, v))
		if norm == 0 { // what is left has no direction of its own
			continue
		}
		for k := range v {
			v[k] /= norm
		}
	}
}

// normal fills x with normal numbers times size that depend on the seed, the step
// and the site alone.
func normal(x []float64, seed uint64, step, site int, size float64) {
	d := kernels.Drop{Seed: seed, Step: uint32(step), Site: uint32(site)}
	row := d.DropRow(-1)
	for i := range x {
		u := (float64(kernels.DropWord(row, 2*i)) + 1) / (1 << 32)
		t := float64(kernels.DropWord(row, 2*i+1)) / (1 << 32)
		x[i] = size * math.Sqrt(-2*math.Log(u)) * math.Cos(2*math.Pi*t)
	}
}
