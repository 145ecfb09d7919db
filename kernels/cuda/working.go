package cuda

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// working is what methods take of Scratch while they run.
type working struct{}

// Product holds the operands in 16 bits that are not stored so, or as they are to be
// multiplied: see gemm, halfKind and mma.
func (working) Product(p kernels.ProductShape) int64 {
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
	default:
		return 0
	}
	parts := max(p.Parts, 1)
	size := func(k dtype.Kind, across, along, parts int, turned, dropped bool) int64 {
		rows, cols := across, along
		if turned {
			rows, cols = along, across
		}
		if k == kind && !dropped && cols%8 == 0 {
			return 0
		}
		return 2 * int64(rows*parts) * int64(roundUp(cols, 8))
	}
	bytes := size(p.A, p.M, p.K, 1, p.TA, p.DropA) + size(p.B, p.N, p.K, parts, !p.TB, p.DropB)
	if p.K2 > 0 {
		bytes += size(p.A2, p.M, p.K2, 1, p.TA, false) + size(p.B2, p.N, p.K2, parts, !p.TB, false)
	}
	return bytes
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

// Sample holds what is left of each row in float64.
func (working) Sample(n, v int) int64 { return 8 * int64(n) * int64(v) }
