package quant

import (
	"errors"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// hessian is XᵀX [n,n] over the inputs that a group of linear maps shares. GPTQ
// divides it by the number of tokens; no result depends on that factor.
type hessian struct {
	dev  kernels.Backend
	n    int
	buf  kernels.Buffer
	rows int
}

func newHessian(dev kernels.Backend, n int) (*hessian, error) {
	b, err := dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*n)
	return &hessian{dev: dev, n: n, buf: b}, err
}

// add takes rows more inputs x [rows, n].
func (h *hessian) add(x kernels.Buffer, rows int) {
	h.dev.Gram(kernels.Dst{Buffer: h.buf, Add: h.rows > 0}, &kernels.GramArgs{Rows: rows, Cols: h.n, X: x})
	h.rows += rows
}

func (h *hessian) free() { h.dev.Free(h.buf) }

// hessian is XᵀX of a layer's inputs, nil where it is not known.
func (in *inputs) hessian() *hessian {
	if in == nil {
		return nil
	}
	return in.h
}

// unscale makes it the matrix of the inputs divided by s.
func (h *hessian) unscale(v []float32) error {
	s := scratch{dev: h.dev}
	defer s.free()
	by, outer := s.up(v), s.alloc(dtype.F32, h.n*h.n)
	if s.err != nil {
		return s.err
	}
	h.dev.Gemm(kernels.To(outer), &kernels.GemmArgs{A: by, B: by, M: h.n, N: h.n, K: 1, Alpha: 1})
	h.dev.Divide(kernels.To(h.buf), &kernels.MulArgs{N: h.n, C: h.n, X: h.buf, S: outer})
	return nil
}

// energyBlock columns of a large H are multiplied at a time, and only by what is not
// above them, as H is symmetric: half the work.
const energyBlock = 1024

// energy is Σ over the rows w of (w·H·wᵀ): the squared output of w [rows, n].
func (h *hessian) energy(w kernels.Buffer, rows int) (float64, error) {
	s := scratch{dev: h.dev}
	defer s.free()
	width := h.n
	if width > 2*energyBlock {
		width = energyBlock
	}
	total, y, part := 0.0, s.alloc(dtype.F32, rows*width), w
	if width < h.n {
		part = s.alloc(dtype.F32, rows*width)
	}
	for at := 0; at < h.n && s.err == nil; at += width {
		cols, end := min(width, h.n-at), min(at+width, h.n)
		if width < h.n {
			h.dev.Copy2D(kernels.To(part), &kernels.Copy2DArgs{Rows: rows, Cols: cols, X: w, XOff: at, XStride: h.n, YStride: cols})
		}
		h.dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: part, B: h.from(at, at), LDB: h.n, M: rows, N: cols, K: cols, Alpha: 1})
		if end < h.n {
			h.dev.Gemm(kernels.Into(y), &kernels.GemmArgs{A: h.dev.Slice(w, end, rows*h.n-end), LDA: h.n, B: h.from(end, at), LDB: h.n,
				M: rows, N: cols, K: h.n - end, Alpha: 2})
		}
		sum, err := s.sum(kernels.SumXY, y, part, rows*cols)
		if err != nil {
			return 0, err
		}
		total += sum
	}
	return max(total, 0), s.err
}

// from is H from an element on.
func (h *hessian) from(row, col int) kernels.Buffer {
	at := row*h.n + col
	return h.dev.Slice(h.buf, at, h.n*h.n-at)
}

// Orders of the columns in GPTQ.
const (
	orderNone   = "none"
	orderGroup  = "group"  // by diagonal, groups run along the order: needs a g_idx
	orderStatic = "static" // by diagonal, groups and their scales fixed beforehand
	orderAware  = "aware"  // groups by their largest diagonal, columns within a group by theirs
)

// columnOrder lists the columns in the order GPTQ takes them, nil for their own.
func columnOrder(order string, diag []float32, group int) []int {
	n := len(diag)
	if order == orderNone || order == "" {
		return nil
	}
	perm := make([]int, n)
	for i := range perm {
		perm[i] = i
	}
	falling := func(a, b int) int {
		switch {
		case diag[a] > diag[b]:
			return -1
		case diag[a] < diag[b]:
			return 1
		}
		return 0
	}
	if order != orderAware || group < 0 {
		slices.SortStableFunc(perm, falling)
		return perm
	}
	var groups [][]int
	for at := 0; at < n; at += group {
		g := perm[at:min(at+group, n)]
		slices.SortStableFunc(g, falling)
		groups = append(groups, g)
	}
	slices.SortStableFunc(groups, func(a, b []int) int { return falling(a[0], b[0]) })
	return slices.Concat(groups...)
}

// factored is a Hessian made ready for GPTQ: columns ordered, dead ones marked,
// damped and factored. u is nil when no damping makes it positive definite.
type factored struct {
	h     *hessian
	perm  []int // nil: identity
	dead  []bool
	group int // columns that share a scale
	u     kernels.Buffer
	damp  float64 // share of the mean diagonal that was added
	add   float64 // what was added to the diagonal
}

// column is the column at a place of the order.
func (f *factored) column(place int) int {
	if f.perm == nil {
		return place
	}
	return f.perm[place]
}

func (f *factored) free() { f.h.dev.Free(f.u) }

// deadColumns counts inputs that were always zero.
func (f *factored) deadColumns() int {
	n := 0
	for _, d := range f.dead {
		if d {
			n++
		}
	}
	return n
}

// factor orders and factors h. Damping starts at damp and grows tenfold, up to
// the whole mean diagonal, while the matrix is not positive definite (AutoGPTQ
// issue 572: a fixed share fails on real models).
func factor(h *hessian, order string, group int, damp float64) (*factored, error) {
	s := scratch{dev: h.dev}
	defer s.free()
	n := h.n
	m, d := s.alloc(dtype.F32, n*n), s.alloc(dtype.F32, n) // m becomes the factor
	if s.err != nil {
		return nil, s.err
	}
	h.dev.Copy2D(kernels.To(d), &kernels.Copy2DArgs{Rows: n, Cols: 1, X: h.buf, XStride: n + 1, YStride: 1})
	diag, mean := make([]float32, n), 0.0
	if err := down(h.dev, diag, d); err != nil {
		return nil, err
	}
	f := &factored{h: h, dead: make([]bool, n), group: group}
	for i := range n {
		mean += float64(diag[i]) / float64(n)
		f.dead[i] = diag[i] == 0
	}
	if !(mean < 1e38) {
		return nil, fail.Numericf("calibration", "does the model compute finite values on this text?", "the inputs of a layer are not finite")
	}
	f.perm = columnOrder(order, diag, group)
	if err := f.permute(m); err != nil {
		return nil, err
	}
	one := []float32{float32(max(mean, 1))}
	for p := range n {
		if f.dead[f.column(p)] {
			h.dev.Upload(h.dev.Slice(m, p*n+p, 1), kernels.Bytes(one))
		}
	}
	return f, f.decompose(&s, m, damp, max(mean, 1e-30))
}

// permute writes h with rows and columns in the order of f to m.
func (f *factored) permute(m kernels.Buffer) error {
	h, n := f.h, f.h.n
	s := scratch{dev: h.dev}
	defer s.free()
	if f.perm == nil {
		copyTo(h.dev, m, h.buf, n*n)
		return nil
	}
	rows, order := s.alloc(dtype.F32, n*n), s.ints(f.perm)
	if s.err != nil {
		return s.err
	}
	h.dev.Gather(kernels.To(rows), &kernels.GatherArgs{N: n, Table: matrix(h.buf, n, n), Idx: order})
	for j, p := range f.perm {
		h.dev.Copy2D(kernels.To(m), &kernels.Copy2DArgs{Rows: n, Cols: 1, X: rows, XOff: p, XStride: n, YOff: j, YStride: n})
	}
	return nil
}

// decompose puts the factor in the place of m.
func (f *factored) decompose(s *scratch, m kernels.Buffer, damp, mean float64) error {
	for f.damp = damp; ; f.damp = min(10*f.damp, 1) {
		f.add = f.damp * mean
		err := f.h.dev.Factor(m, m, f.h.n, float32(f.add))
		if err == nil {
			f.u = s.take(m)
			return nil
		}
		if !errors.Is(err, kernels.ErrNotPositive) {
			return err
		}
		if f.damp >= 1 {
			return nil
		}
	}
}
