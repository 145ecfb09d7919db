package quant

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
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
		s.dev.Upload(b, f32Bytes(v))
	}
	return b
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
	return dev.Download(f32Bytes(v), b)
}

// columns copies rows rows of cols columns from column at of x, whose rows have
// stride elements, to dst [rows, cols].
func columns(dev kernels.Backend, dst, x kernels.Buffer, at, stride, rows, cols int) {
	dev.Copy2D(kernels.To(dst), &kernels.Copy2DArgs{Rows: rows, Cols: cols, X: x, XOff: at, XStride: stride, YStride: cols})
}

// f32Bytes views v as bytes.
func f32Bytes(v []float32) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v))
}
