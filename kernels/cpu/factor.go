package cpu

import (
	"math"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// factorBlock is the number of columns factored together.
const factorBlock = 64

// Factor: u [n,n] upper with (H + damp·I)⁻¹ = uᵀ·u, that is u = U⁻¹ where
// H + damp·I = U·Uᵀ, in float64 inside. Only the lower triangle of h is read.
//
// U is the Cholesky factor taken from the bottom right: with J reversing rows,
// U = J·L·J where L·Lᵀ = J·H·J. So J·H·J is factored as usual, L inverted, and
// the result written reversed.
func (c *CPU) Factor(u, h kernels.Buffer, n int, damp float32) error {
	want("factor: u", u, n*n)
	want("factor: h", h, n*n)
	s := c.workspace(2 * n * n)
	defer s.free()
	f := &factor{n: n, a: f64Of(s.take(2 * n * n)), inv: make([]float64, roundUp(n, factorBlock)*factorBlock)}
	f.load(f32(h), damp)
	for j := 0; j < n; j += factorBlock {
		if !f.column(j) {
			return kernels.ErrNotPositive
		}
	}
	f.invert()
	f.store(f32(u))
	return nil
}

// factor is the state of one call. While it runs, blocks of a below the
// diagonal hold L, and rows of a from the diagonal on hold (L⁻¹)ᵀ; inv holds
// the inverses of the diagonal blocks of L, row-major, one after another.
type factor struct {
	n      int
	a, inv []float64
}

func f64Of(x []float32) []float64 {
	return unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(x))), len(x)/2)
}

// load sets the lower triangle to J·(H+damp·I)·J.
func (f *factor) load(h []float32, damp float32) {
	n := f.n
	par.For(n, factorBlock, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for j := range i + 1 {
				f.a[i*n+j] = float64(h[(n-1-j)*n+n-1-i])
			}
			f.a[i*n+i] += float64(damp)
		}
	})
}

// diag is the inverse of diagonal block j, width columns a row.
func (f *factor) diag(j int) []float64 { return f.inv[j*factorBlock:] }

// column makes block column j of L from the columns before it.
func (f *factor) column(j int) bool {
	n, b := f.n, min(factorBlock, f.n-j)
	f.reduce(j, j, b)
	if !f.pivot(j, b) {
		return false
	}
	inv := f.diag(j)
	rest := n - j - b
	par.For(rest, 32, func(lo, hi int) {
		r, m := j+b+lo, hi-lo
		f.reduceRows(r, m, j, b)
		var out [32 * factorBlock]float64
		products64(out[:], factorBlock, f.a[r*n+j:], n, m, inv, factorBlock, b, b)
		for i := range m {
			copy(f.a[(r+i)*n+j:][:b], out[i*factorBlock:])
		}
	})
	return true
}

func (f *factor) reduce(r, j, b int) { f.reduceRows(r, b, j, b) }

// reduceRows: A[r…r+m, j…j+b) -= L[r…, 0…j)·L[j…, 0…j)ᵀ.
func (f *factor) reduceRows(r, m, j, b int) {
	n := f.n
	if j == 0 {
		return
	}
	var out [factorBlock * factorBlock]float64
	products64(out[:], factorBlock, f.a[r*n:], n, m, f.a[j*n:], n, b, j)
	for i := range m {
		row := f.a[(r+i)*n+j:][:b]
		for x, v := range out[i*factorBlock:][:b] {
			row[x] -= v
		}
	}
}

// pivot factors diagonal block j, and puts the inverse of the factor into inv
// and, transposed, into a.
func (f *factor) pivot(j, b int) bool {
	n, inv := f.n, f.diag(j)
	a := f.a[j*n+j:]
	for r := range b {
		row := a[r*n:][:r+1]
		for c := range r + 1 {
			s := row[c]
			for k, v := range a[c*n:][:c] {
				s -= v * row[k]
			}
			if c < r {
				row[c] = s / a[c*n+c]
				continue
			}
			if !(s > 0) || math.IsInf(s, 1) {
				return false
			}
			row[c] = math.Sqrt(s)
		}
	}
	clear(inv[:b*factorBlock])
	for r := range b {
		out := inv[r*factorBlock:]
		for k := range r {
			l := a[r*n+k]
			for c, v := range inv[k*factorBlock:][:k+1] {
				out[c] -= l * v
			}
		}
		d := a[r*n+r]
		for c := range r {
			out[c] /= d
		}
		out[r] = 1 / d
	}
	for r := range b {
		for c := range b {
			a[c*n+r] = inv[r*factorBlock+c]
		}
	}
	return true
}

// invert makes (L⁻¹)ᵀ above the diagonal: with X = L⁻¹, block (i,j) of X is
// -inv(Lii)·Σ_k L[i,k]·X[k,j]. Block columns of X are independent.
func (f *factor) invert() {
	n := f.n
	par.For(n, factorBlock, func(j0, j1 int) {
		var sum, out [factorBlock * factorBlock]float64
		for i := j1; i < n; i += factorBlock {
			b := min(factorBlock, n-i)
			products64(sum[:], factorBlock, f.a[j0*n+j0:], n, j1-j0, f.a[i*n+j0:], n, b, i-j0)
			products64(out[:], factorBlock, sum[:], factorBlock, j1-j0, f.diag(i), factorBlock, b, b)
			for r := range j1 - j0 {
				to := f.a[(j0+r)*n+i:][:b]
				for q, v := range out[r*factorBlock:][:b] {
					to[q] = -v
				}
			}
		}
	})
}

// store writes J·L⁻¹·J, zeros below the diagonal.
func (f *factor) store(u []float32) {
	n := f.n
	par.For(n, factorBlock, func(lo, hi int) {
		for p := lo; p < hi; p++ {
			row := u[p*n:][:n]
			clear(row[:p])
			for q := p; q < n; q++ {
				row[q] = float32(f.a[(n-1-q)*n+n-1-p])
			}
		}
	})
}

// products64: c[i][j] = Σ_k a[i][k]·b[j][k] for m rows of a and n of b, k terms.
func products64(c []float64, ldc int, a []float64, lda, m int, b []float64, ldb, n, k int) {
	for i := 0; i < m; i += 4 {
		for j := 0; j < n; j += 4 {
			if m-i >= 4 && n-j >= 4 && tile64(k, a[i*lda:], lda, b[j*ldb:], ldb, c[i*ldc+j:], ldc) {
				continue
			}
			for r := i; r < min(i+4, m); r++ {
				for q := j; q < min(j+4, n); q++ {
					c[r*ldc+q] = dot64(a[r*lda:][:k], b[q*ldb:][:k])
				}
			}
		}
	}
}

func dot64(a, b []float64) float64 {
	var s0, s1 float64
	b = b[:len(a)]
	for i, v := range a {
		if i&1 == 0 {
			s0 += v * b[i]
		} else {
			s1 += v * b[i]
		}
	}
	return s0 + s1
}
