package cuda

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// working is what methods take of Scratch while they run: see the work functions beside them. TestWorking compares.
type working struct {
	tf32 bool // products of f32 are those of tensor cores
	int8 int8Products
}

// Product holds the operands in 16 bits, or f32 of tensor cores, that are not stored so, or as they are to be
// multiplied, or x rounded to 8 bits: see gemm, halfKind, mma and multiply8.
func (w working) Product(p kernels.ProductShape) int64 {
	if w.int8.of(p.M).on && p.Fast && !p.F16 && p.K2 == 0 && !p.DropA && p.N > 0 && int8Kernel(p.W, p.M, p.K) != "" {
		return int64(round8Bytes(p.M, p.K))
	}
	if !p.TA && p.M <= thin || p.M == 0 || p.N == 0 {
		return 0
	}
	kind := dtype.F32
	switch stored := func(k dtype.Kind) bool {
		return p.A == k && p.B == k && (p.K2 == 0 || p.A2 == k && p.B2 == k) && !p.DropA && !p.DropB
	}; {
	case p.F16:
		kind = dtype.F16
	case p.BF16 || p.Fast && p.K2 == 0 || stored(dtype.BF16):
		kind = dtype.BF16
	case stored(dtype.F16):
		kind = dtype.F16
	case !w.tf32:
		return 0
	}
	parts := max(p.Parts, 1)
	bytes := kind.Info().Bytes
	size := func(k dtype.Kind, across, along, parts int, turned, dropped bool) int64 {
		rows, cols := across, along
		if turned {
			rows, cols = along, across
		}
		if k == kind && !dropped && cols*bytes%16 == 0 {
			return 0
		}
		return int64(bytes) * int64(rows*parts) * int64(roundUp(cols, 16/bytes))
	}
	total := size(p.A, p.M, p.K, 1, p.TA, p.DropA) + size(p.B, p.N, p.K, parts, !p.TB, p.DropB)
	if p.K2 > 0 {
		total += size(p.A2, p.M, p.K2, 1, p.TA, false) + size(p.B2, p.N, p.K2, parts, !p.TB, false)
	}
	return total
}

// LogProb holds the logits of a chunk, and the operands of the largest of its products.
func (w working) LogProb(l kernels.LogProbShape) int64 {
	n := lossRows(l.N, l.V)
	most := w.Product(kernels.ProductShape{M: n, N: l.V, K: l.C, TB: true, BF16: l.BF16, F16: l.F16, A: l.X, B: l.W})
	if l.DX {
		most = max(most, w.Product(kernels.ProductShape{M: n, N: l.C, K: l.V, BF16: l.BF16, F16: l.F16, B: l.W}))
	}
	if l.DW {
		most = max(most, w.Product(kernels.ProductShape{M: l.V, N: l.C, K: n, TA: true, BF16: l.BF16, F16: l.F16, B: l.X}))
	}
	return 4*int64(n)*int64(l.V) + most
}

// Sample holds what is left of each row in float64, and how rows choose.
func (working) Sample(a *kernels.SampleArgs) int64 {
	if len(a.Rows) == 0 {
		return 0
	}
	list, seen := sampleRows(a)
	return int64(len(list))*(8*int64(a.V)+int64(unsafe.Sizeof(list[0]))) + 4*int64(max(len(seen), 1))
}

// shapeOf is where rows lie as far as a buffer says that has no address yet.
func shapeOf(h kernels.Heads) heads {
	if h.Skip() {
		return heads{}
	}
	return heads{p: 16, typ: elementType(h.Buffer), off: int64(h.Off), tok: int64(h.Tok), head: int64(h.Head)}
}

// Attention holds what queries see, on tensor cores.
func (working) Attention(o, q, k, v kernels.Heads, a *kernels.AttnArgs) int64 {
	if flashSize(a, 256, []heads{shapeOf(q), shapeOf(k), shapeOf(v)}, []heads{shapeOf(o)}) == 0 {
		return 0
	}
	return 8 * int64(a.N)
}

// AttentionBackward holds a number for each row and head, and what queries see.
func (working) AttentionBackward(g *kernels.AttnGrads, do, q, k, v kernels.Heads, a *kernels.AttnArgs) int64 {
	size := 4 * int64(a.N) * int64(a.H)
	if flashSize(a, 128, []heads{shapeOf(q), shapeOf(k), shapeOf(v), shapeOf(do)}, []heads{shapeOf(g.Q), shapeOf(g.K), shapeOf(g.V)}) > 0 {
		size += 8 * int64(a.N)
	}
	return size
}

// bytesOf is the bytes that work takes.
func bytesOf(work func(s *scratches)) int64 {
	var s scratches
	work(&s)
	return s.bytes
}

func (working) Conv1DBackward(dw, db kernels.Dst, a *kernels.ConvArgs) int64 {
	return bytesOf(func(s *scratches) { new(convArgs).work(s, dw, db, a) })
}

func (working) DeltaScan(a *kernels.DeltaArgs) int64 {
	return bytesOf(func(s *scratches) { new(deltaArgs).work(s, a) })
}

func (working) DeltaScanBackward(g *kernels.DeltaGrads, a *kernels.DeltaArgs) int64 {
	return bytesOf(func(s *scratches) { new(deltaArgs).workBack(s, g, a) })
}

func (working) SSMScan(a *kernels.SSMArgs) int64 {
	return bytesOf(func(s *scratches) { new(ssmArgs).work(s, a) })
}

func (working) SSMScanBackward(g *kernels.SSMGrads, a *kernels.SSMArgs) int64 {
	return bytesOf(func(s *scratches) { new(ssmArgs).workBack(s, g, a) })
}

func (working) Sinkhorn(a *kernels.SinkhornArgs) int64 {
	return bytesOf(func(s *scratches) { new(sinkhornArgs).work(s, a.N*a.S*a.S, 1) })
}

func (working) SinkhornBackward(a *kernels.SinkhornArgs) int64 {
	return bytesOf(func(s *scratches) { new(sinkhornArgs).work(s, a.N*a.S*a.S, 2*a.Iters) })
}

// Route holds a router's probabilities and choices in float64.
func (working) Route(a *kernels.RouteArgs) int64 { return 8 * int64(routingOf(a.N, a.E, a.K)) }

// Sum holds the sums of parts.
func (working) Sum(n int) int64 { return 8 * int64(max(1, (n+sumPart-1)/sumPart)) }

// Gram holds its operand twice where it is no row of whole 16 bytes, in 16 bits.
func (w working) Gram(a *kernels.GramArgs) int64 {
	k := a.X.Type().Kind
	return w.Product(kernels.ProductShape{M: a.Cols, N: a.Cols, K: a.Rows, TA: true, A: k, B: k})
}

func (working) Factor(n int) int64 {
	return bytesOf(func(s *scratches) { new(factorArgs).work(s, n) })
}

// Quantize holds a number for each row that is looked at, or the scales of a code book.
func (working) Quantize(dst kernels.Mat) (size int64) {
	t := dst.Type()
	if checked(t) {
		size = 4 * int64(dst.Rows)
	}
	if t.Flat() {
		size = max(size, 4*int64(max(1, (dst.Rows*dst.Cols+int(t.Group)-1)/int(t.Group))))
	}
	return size
}

// Optim holds sums of parameters under a rule that looks at whole ones.
func (working) Optim(o *kernels.OptimArgs) (size int64) {
	if o.Kind.ElementWise() {
		return 0
	}
	for i := range o.Spans {
		s := &o.Spans[i]
		if n := s.Rows * s.Cols; n > 0 {
			size = max(size, 8*int64(n/sumPart+1)) // of a span at a time
		}
	}
	switch {
	case size == 0:
		return 0
	case o.Kind == kernels.Prodigy: // the totals of all
		return size + 8*int64(2*len(o.Spans)+2)
	}
	return size + 8*(meanRes+1)
}
