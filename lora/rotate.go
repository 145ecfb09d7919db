package lora

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels/par"
)

// rotation is a block-diagonal map of a layer's inputs: row vectors become x·R with
// blocks R [n, n] of n inputs each, which lie together after a permutation.
type rotation struct {
	n, blocks int
	share     bool            // one block for all
	perm      []int           // input perm[c] is where column c of what is rotated comes from; nil: c
	w         *autograd.Param // [blocks·n, n]: Rᵀ of each block; with share [n, n]
}

// forward returns x·R.
func (r *rotation) forward(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	rows, in, n := x.Rows(), x.Cols(), r.n
	if r.share {
		all := regroup(t, x, n, n, rows*r.blocks, func(i int) int { return i })
		turned := t.Linear(all, r.w, nil)
		t.Done(all)
		defer t.Done(turned)
		return regroup(t, turned, n, in, rows*r.blocks, func(i int) int { return i })
	}
	// The rows of one block lie together, as those of an expert do.
	byBlock, piece := make([]int32, rows*r.blocks), n
	for i := range byBlock {
		byBlock[i] = int32(i%rows*r.blocks + i/rows)
	}
	back := func(i int) int { return i%r.blocks*rows + i/r.blocks }
	if r.perm != nil {
		piece = 1
		byBlock = make([]int32, rows*in)
		inverse := make([]int, in)
		for i := range byBlock {
			c := i/(rows*n)*n + i%n
			byBlock[i] = int32(i/n%rows*in + r.perm[c])
		}
		for c, from := range r.perm {
			inverse[from] = c
		}
		back = func(i int) int { c := inverse[i%in]; return (c/n*rows+i/in)*n + c%n }
	}
	group := make([]int32, r.blocks+1)
	for i := range group {
		group[i] = int32(i * rows)
	}
	route := &autograd.Routed{Token: t.Upload(byBlock, len(byBlock)), Group: t.Upload(group, len(group))}
	sorted := t.Regroup(x, route.Token, piece, n)
	turned := t.ExpertLinear(sorted, route, r.w, nil)
	t.Done(sorted, route.Token, route.Group)
	defer t.Done(turned)
	return regroup(t, turned, piece, in, len(byBlock), back)
}

// square is a matrix [n, n] in float64.
type square []float64

func (a square) times(b square, n int) square {
	out := make(square, n*n)
	for i := range n {
		for k := range n {
			x := a[i*n+k]
			if x == 0 {
				continue
			}
			for j := range n {
				out[i*n+j] += float64(x * b[k*n+j])
			}
		}
	}
	return out
}

func (a square) transposed(n int) square {
	out := make(square, n*n)
	for i := range a {
		out[i%n*n+i/n] = a[i]
	}
	return out
}

// plus is x·identity + y·a.
func (a square) plus(n int, x, y float64) square {
	out := make(square, n*n)
	for i, v := range a {
		out[i] = float64(y * v)
		if i%(n+1) == 0 {
			out[i] += x
		}
	}
	return out
}

// inverse is a⁻¹ by elimination with pivots.
func (a square) inverse(n int) square {
	m, out := append(square(nil), a...), make(square, n*n).plus(n, 1, 0)
	for c := range n {
		best := c
		for r := c + 1; r < n; r++ {
			if math.Abs(m[r*n+c]) > math.Abs(m[best*n+c]) {
				best = r
			}
		}
		for _, x := range []square{m, out} {
			for j := range n {
				x[c*n+j], x[best*n+j] = x[best*n+j], x[c*n+j]
			}
		}
		p := 1 / m[c*n+c]
		for _, x := range []square{m, out} {
			for j := range n {
				x[c*n+j] *= p
			}
		}
		for r := range n {
			f := m[r*n+c]
			if r == c || f == 0 {
				continue
			}
			for _, x := range []square{m, out} {
				for j := range n {
					x[r*n+j] -= float64(f * x[c*n+j])
				}
			}
		}
	}
	return out
}

// cayley makes a rotation of a skew-symmetric matrix Q: (I-Q)·(I+Q)⁻¹, or PEFT's
// Neumann series of so many terms, which turns the other way: I + 2Q + 2Q² + … with
// the last power once.
type cayley struct{ terms int } // 0: exact

// coefficients are those of Q, Q², …
func (c cayley) coefficients() []float64 {
	var out []float64
	if c.terms > 1 {
		out = append(out, 2)
	}
	if c.terms > 2 {
		out = append(out, 2)
		for range c.terms - 4 {
			out = append(out, 2)
		}
		out = append(out, 1)
	}
	return out
}

// of is R of Q.
func (c cayley) of(q square, n int) square {
	if c.terms == 0 {
		return q.plus(n, 1, -1).times(q.plus(n, 1, 1).inverse(n), n)
	}
	return q.times(c.inner(q, n)[0], n).plus(n, 1, 1)
}

// inner are the matrices of Horner's rule: R = I + Q·H0, H0 = c1·I + Q·H1, …, of
// coefficients c.
func (c cayley) inner(q square, n int) []square {
	coef := c.coefficients()
	out := make([]square, max(len(coef), 1))
	next := make(square, n*n)
	out[0] = next
	for i := len(coef) - 1; i >= 0; i-- {
		next = q.times(next, n).plus(n, coef[i], 1)
		out[i] = next
	}
	return out
}

// back is the gradient of Q for the gradient g of R.
func (c cayley) back(q, g square, n int) square {
	if c.terms == 0 { // dR = -(I+R)·dQ·(I+Q)⁻¹
		inv := q.plus(n, 1, 1).inverse(n)
		left := q.plus(n, 1, -1).times(inv, n).plus(n, 1, 1)
		out := left.transposed(n).times(g, n).times(inv.transposed(n), n)
		return out.plus(n, 0, -1)
	}
	out, qt := make(square, n*n), q.transposed(n)
	for _, h := range c.inner(q, n) {
		for i, v := range g.times(h.transposed(n), n) {
			out[i] += v
		}
		g = qt.times(g, n)
	}
	return out
}

// blocks calls f for each of count blocks, in parallel.
func blocks(count int, f func(b int)) {
	par.For(count, 1, func(lo, hi int) {
		for b := lo; b < hi; b++ {
			f(b)
		}
	})
}

// store puts R of block b, transposed, into w [blocks·n, n].
func (a square) store(w []float32, b, n int) {
	for i, v := range a {
		w[b*n*n+i%n*n+i/n] = float32(v)
	}
}

// gradientOf is the gradient of R of block b where that of w is given.
func gradientOf(dw []float32, b, n int) square {
	g := make(square, n*n)
	for i := range g {
		g[i] = float64(dw[b*n*n+i%n*n+i/n])
	}
	return g
}

// rotateRow makes row·Rᵀ of each block of a row, in place.
func rotateRow(row []float32, r []square, n int) {
	tmp := make([]float64, n)
	for b := 0; b*n < len(row); b++ {
		m := r[b%len(r)]
		part := row[b*n : (b+1)*n]
		for i := range tmp {
			tmp[i] = 0
			for j, x := range part {
				tmp[i] += float64(x) * m[i*n+j]
			}
		}
		for i, x := range tmp {
			part[i] = float32(x)
		}
	}
}
