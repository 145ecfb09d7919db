package train

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// soap is AdamW in the eigenbases of the averages of G·Gᵀ and Gᵀ·G (Vyas et al.
// 2024, arXiv:2409.11321). The first step builds them and changes nothing. A side
// longer than max_precondition_dim has no basis, nor has what is no target.
type soap struct {
	*optimizer
	m       map[*param]*rotated
	scratch workspace
}

// rotated is the state of one parameter.
type rotated struct {
	m, v        kernels.Buffer // as AdamW's; v and the direction are in the bases
	left, right *basis         // nil: none
}

// basis is of one side: the average of Gram matrices and its eigenvectors, both
// [n, n], the vectors as columns.
type basis struct {
	n       int
	gram, q kernels.Buffer
}

func newSOAP(o *optimizer) matrixRule { return &soap{optimizer: o, m: map[*param]*rotated{}} }

func (s *soap) takes(*param) bool { return true }

func (s *soap) add(p *param) (err error) {
	f32 := dtype.Of(dtype.F32)
	r := &rotated{}
	s.m[p] = r
	if r.m, err = s.keep("m of "+p.Name, f32, p.Len()); err != nil {
		return err
	}
	if r.v, err = s.keep("v of "+p.Name, f32, p.Len()); err != nil {
		return err
	}
	if p.matrix {
		if r.left, err = s.basis(p, "left", p.Rows); err != nil {
			return err
		}
		if r.right, err = s.basis(p, "right", p.Cols); err != nil {
			return err
		}
	}
	return s.scratch.want(s.optimizer, p.Len(), p.Len(), p.Len(), p.Len())
}

func (s *soap) basis(p *param, side string, n int) (*basis, error) {
	if n > value(s.c.OptimArgs.MaxPreconditionDim, 10000) {
		return nil, nil
	}
	b := &basis{n: n}
	var err error
	if b.gram, err = s.keep(side+" gram of "+p.Name, dtype.Of(dtype.F32), n*n); err == nil {
		b.q, err = s.keep(side+" basis of "+p.Name, dtype.Of(dtype.F32), n*n)
	}
	return b, err
}

func (s *soap) step(p *param, step int, lr float64, clip float32) error {
	r, a := s.m[p], &s.c.OptimArgs
	if err := s.dev.Run(func() error {
		s.dev.Add(kernels.To(p.Grad), &kernels.AddArgs{N: p.Len(), A: p.Grad, Alpha: clip})
		return nil
	}); err != nil {
		return err
	}
	if step > 1 {
		if err := s.update(p, r, step, lr); err != nil {
			return err
		}
	}
	if err := s.dev.Run(func() error { s.grams(p, r); return nil }); err != nil {
		return err
	}
	turned := make([][]int, 2)
	for i, b := range []*basis{r.left, r.right} {
		if b == nil {
			continue
		}
		var err error
		if step == 1 {
			err = s.first(b)
		}
		if err == nil && step > 1 && (step-1)%value(a.PreconditionFrequency, 10) == 0 {
			turned[i], err = s.refresh(b)
		}
		if err != nil {
			return err
		}
	}
	return s.reorder(p, r, turned[0], turned[1])
}

// update makes AdamW's step in the bases.
func (s *soap) update(p *param, r *rotated, step int, lr float64) error {
	n := p.Len()
	g, m, move, tmp := s.dev.Slice(s.scratch[0], 0, n), s.dev.Slice(s.scratch[1], 0, n), s.dev.Slice(s.scratch[2], 0, n), s.dev.Slice(s.scratch[3], 0, n)
	rule := s.plain.OptimRule
	step-- // the first one moved no average
	t := float64(step)
	root := math.Sqrt(1 - math.Pow(rule.Beta2, t))
	rule.Eps /= root
	normalize := value(s.c.OptimArgs.NormalizeGradient, false)
	size := lr
	if normalize {
		size = 1
	}
	err := s.dev.Run(func() error {
		s.rotate(g, p.Grad, tmp, p, r, false)
		s.rotate(m, r.m, tmp, p, r, false)
		s.dev.Fill(move, 0)
		span := kernels.OptimSpan{P: move, G: g, State: []kernels.Buffer{m, r.v}, Rows: p.Rows, Cols: p.Cols, LR: size}
		s.dev.Optim(&kernels.OptimArgs{OptimRule: rule, Spans: []kernels.OptimSpan{span}, Step: step})
		s.rotate(g, move, tmp, p, r, true)
		s.dev.Add(kernels.To(r.m), &kernels.AddArgs{N: n, A: r.m, B: p.Grad, Alpha: float32(rule.Beta1), Beta: float32(1 - rule.Beta1)})
		return nil
	})
	if err != nil {
		return err
	}
	factor := 1.0
	if normalize { // the direction has RMS 1 before the correction of the bias
		norm, err := s.normOf(g, n)
		if err != nil {
			return err
		}
		bias := root / (1 - math.Pow(rule.Beta1, t))
		factor = lr * bias / (norm/math.Sqrt(float64(n)) + 1e-30)
	}
	return s.dev.Run(func() error {
		keep := 1 - lr*p.decay
		s.dev.Add(kernels.To(p.Buffer), &kernels.AddArgs{N: n, A: p.Buffer, B: g, Alpha: float32(keep), Beta: float32(keep * factor)})
		return nil
	})
}

// rotate makes y = Qlᵀ·x·Qr, or with back y = Ql·x·Qrᵀ; y, x and tmp are three.
func (s *soap) rotate(y, x, tmp kernels.Buffer, p *param, r *rotated, back bool) {
	if r.left != nil {
		out := tmp
		if r.right == nil {
			out = y
		}
		s.dev.Gemm(kernels.To(out), &kernels.GemmArgs{A: r.left.q, B: x, TA: !back, M: p.Rows, N: p.Cols, K: p.Rows, Alpha: 1})
		x = out
	}
	switch {
	case r.right != nil:
		s.dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: x, B: r.right.q, TB: back, M: p.Rows, N: p.Cols, K: p.Cols, Alpha: 1})
	case r.left == nil:
		s.copy(y, x, p.Len())
	}
}

// grams moves the averages towards this step's.
func (s *soap) grams(p *param, r *rotated) {
	beta := value(s.c.OptimArgs.ShampooBeta, *s.c.AdamBeta2)
	for _, b := range []*basis{r.left, r.right} {
		if b == nil {
			continue
		}
		a := &kernels.GemmArgs{A: p.Grad, B: p.Grad, TB: true, M: b.n, N: b.n, K: p.Cols, Alpha: float32(1 - beta)}
		if b == r.right {
			a.TA, a.TB, a.K = true, false, p.Rows
		}
		s.dev.Add(kernels.To(b.gram), &kernels.AddArgs{N: b.n * b.n, A: b.gram, Alpha: float32(beta)})
		s.dev.Gemm(kernels.Into(b.gram), a)
	}
}

// first makes a basis of the eigenvectors.
func (s *soap) first(b *basis) error {
	gram, err := s.download(b.gram, b.n)
	if err != nil {
		return err
	}
	_, vectors := eigen(gram)
	return s.upload(b.q, vectors.v, b.n)
}

// refresh turns a basis towards the eigenvectors by one power and returns where
// each of its vectors was: they are sorted by what they measure.
func (s *soap) refresh(b *basis) ([]int, error) {
	gram, err := s.download(b.gram, b.n)
	if err != nil {
		return nil, err
	}
	q, err := s.download(b.q, b.n) // vectors as columns
	if err != nil {
		return nil, err
	}
	n := b.n
	rows := make([]float64, n*n) // gram·vector, by vector
	size, order := make([]float64, n), make([]int, n)
	for j := range n {
		order[j] = j
		column := make([]float64, n)
		for i := range n {
			column[i] = q.v[i*n+j]
		}
		for i := range n {
			rows[j*n+i] = dot64(gram.row(i), column)
		}
		size[j] = dot64(rows[j*n:(j+1)*n], column)
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(size[j], size[i]) })
	sorted := make([]float64, 0, n*n)
	for _, j := range order {
		sorted = append(sorted, rows[j*n:(j+1)*n]...)
	}
	orthonormal(sorted, n, n)
	return order, s.upload(b.q, sorted, n)
}

// reorder puts the second moments of p where their vectors went.
func (s *soap) reorder(p *param, r *rotated, left, right []int) error {
	if left == nil && right == nil {
		return nil
	}
	old, v := make([]float32, p.Len()), make([]float32, p.Len())
	return s.dev.Run(func() error {
		if err := s.dev.Download(kernels.Bytes(old), r.v); err != nil {
			return err
		}
		at := func(order []int, i int) int {
			if order == nil {
				return i
			}
			return order[i]
		}
		for i := range p.Rows {
			for j := range p.Cols {
				v[i*p.Cols+j] = old[at(left, i)*p.Cols+at(right, j)]
			}
		}
		s.dev.Upload(r.v, kernels.Bytes(v))
		return nil
	})
}

func (s *soap) download(b kernels.Buffer, n int) (square, error) {
	v := make([]float32, n*n)
	err := s.dev.Run(func() error { return s.dev.Download(kernels.Bytes(v), b) })
	out := newSquare(n)
	for i, x := range v {
		out.v[i] = float64(x)
	}
	return out, err
}

// upload stores the rows of vectors as columns.
func (s *soap) upload(b kernels.Buffer, vectors []float64, n int) error {
	v := make([]float32, n*n)
	for i := range n {
		for j := range n {
			v[j*n+i] = float32(vectors[i*n+j])
		}
	}
	return s.dev.Run(func() error { s.dev.Upload(b, kernels.Bytes(v)); return nil })
}
