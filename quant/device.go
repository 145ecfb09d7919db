package quant

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// scratch allocates device memory for one computation and remembers it. The
// first error sticks; later calls then do nothing and return nil.
type scratch struct {
	dev  kernels.Backend
	bufs []kernels.Buffer
	err  error
}

func (s *scratch) alloc(k dtype.Kind, n int) kernels.Buffer {
	if s.err != nil {
		return nil
	}
	b, err := s.dev.Alloc(kernels.Scratch, dtype.Of(k), n)
	if err != nil {
		s.err = err
		return nil
	}
	s.bufs = append(s.bufs, b)
	return b
}

// up is a copy of v on the device.
func (s *scratch) up(v []float32) kernels.Buffer {
	b := s.alloc(dtype.F32, len(v))
	if s.err == nil && len(v) > 0 {
		s.dev.Upload(b, kernels.Bytes(v))
	}
	return b
}

// ints is a copy of v on the device as int32.
func (s *scratch) ints(v []int) kernels.Buffer {
	w := make([]int32, len(v))
	for i, x := range v {
		w[i] = int32(x)
	}
	b := s.alloc(dtype.I32, len(v))
	if s.err == nil && len(v) > 0 {
		s.dev.Upload(b, kernels.Bytes(w))
	}
	return b
}

// load is a quantized matrix on the device.
func (s *scratch) load(m block.Raw) kernels.Mat {
	if s.err != nil {
		return kernels.Mat{}
	}
	w, err := s.dev.Load(kernels.Scratch, m.Type, m.Rows, m.Cols, m.Data, kernels.Borrow)
	return s.hold(w, err)
}

// empty is a matrix for Quantize to fill.
func (s *scratch) empty(t dtype.Type, rows, cols int) kernels.Mat {
	if s.err != nil {
		return kernels.Mat{}
	}
	w, err := s.dev.Load(kernels.Scratch, t, rows, cols, nil, kernels.Copy)
	return s.hold(w, err)
}

func (s *scratch) hold(w kernels.Mat, err error) kernels.Mat {
	if err != nil {
		s.err = err
		return kernels.Mat{}
	}
	s.bufs = append(s.bufs, w.Buffer)
	return w
}

func (s *scratch) free() {
	for _, b := range s.bufs {
		s.dev.Free(b)
	}
	s.bufs = nil
}

// take hands b over to the caller.
func (s *scratch) take(b kernels.Buffer) kernels.Buffer {
	for i, x := range s.bufs {
		if x == b {
			s.bufs = append(s.bufs[:i], s.bufs[i+1:]...)
			break
		}
	}
	return b
}

// down copies an f32 buffer to v.
func down(dev kernels.Backend, v []float32, b kernels.Buffer) error {
	if len(v) == 0 {
		return nil
	}
	return dev.Download(kernels.Bytes(v), b)
}

// matrix views a buffer [rows, cols] as a matrix.
func matrix(b kernels.Buffer, rows, cols int) kernels.Mat {
	return kernels.Mat{Buffer: b, Rows: rows, Cols: cols, Of: rows}
}

// copyTo copies n elements.
func copyTo(dev kernels.Backend, dst, src kernels.Buffer, n int) {
	dev.Add(kernels.To(dst), &kernels.AddArgs{N: n, A: src, Alpha: 1})
}

// subtract takes b from a, n elements.
func subtract(dev kernels.Backend, a, b kernels.Buffer, n int) {
	dev.Add(kernels.To(a), &kernels.AddArgs{N: n, A: a, B: b, Alpha: 1, Beta: -1})
}

// columns copies rows rows of cols columns from column at of x, whose rows have
// stride elements, to dst [rows, cols].
func columns(dev kernels.Backend, dst, x kernels.Buffer, at, stride, rows, cols int) {
	dev.Copy2D(kernels.To(dst), &kernels.Copy2DArgs{Rows: rows, Cols: cols, X: x, XOff: at, XStride: stride, YStride: cols})
}

// sumPiece is the number of elements of one partial sum. It is a constant: sums
// must not depend on the device.
const sumPiece = 1 << 15

// sum is a statistic of n elements, in float64 and in order: of x·y or (x-y)².
func (s *scratch) sum(stat kernels.Stat, x, y kernels.Buffer, n int) (float64, error) {
	whole, rest := n/sumPiece, n%sumPiece
	parts := make([]float64, whole, whole+1)
	out := s.alloc(dtype.F64, whole+1)
	if s.err != nil {
		return 0, s.err
	}
	if whole > 0 {
		s.dev.RowStats(kernels.To(s.dev.Slice(out, 0, whole)), &kernels.RowStatsArgs{Stat: stat, Rows: 1, Cols: whole * sumPiece, Run: sumPiece, X: x, Y: y})
	}
	if rest > 0 {
		parts = append(parts, 0)
		at := whole * sumPiece
		s.dev.RowStats(kernels.To(s.dev.Slice(out, whole, 1)), &kernels.RowStatsArgs{Stat: stat, Rows: 1, Cols: rest, X: s.dev.Slice(x, at, rest), Y: s.dev.Slice(y, at, rest)})
	}
	if len(parts) == 0 {
		return 0, nil
	}
	if err := s.dev.Download(kernels.Bytes(parts), s.dev.Slice(out, 0, len(parts))); err != nil {
		return 0, err
	}
	sum := 0.0
	for _, v := range parts {
		sum += v
	}
	return sum, nil
}
