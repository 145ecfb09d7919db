package autograd

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Spare is what one pass is through with and the next, which does the same, takes
// again: a token of an answer after another makes hundreds of small results, and
// memory that is always the same stays in the caches. It serves one tape at a time,
// and holds only what its last pass had. The nil Spare holds nothing.
type Spare struct {
	Dev     kernels.Backend
	tensors []*Tensor
	kept    []keptSize
}

// keptSize are free buffers of n elements.
type keptSize struct {
	kind dtype.Kind
	n    int
	free []kernels.Buffer
	used bool // by the running pass
}

// of is the entry of a size; nil when there is none.
func (s *Spare) of(k dtype.Kind, n int) *keptSize {
	for i := range s.kept {
		if e := &s.kept[i]; e.n == n && e.kind == k {
			return e
		}
	}
	return nil
}

// take returns memory for n elements, nil when none is kept.
func (s *Spare) take(k dtype.Kind, n int) kernels.Buffer {
	if s == nil {
		return nil
	}
	e := s.of(k, n)
	if e == nil {
		s.kept = append(s.kept, keptSize{kind: k, n: n, used: true})
		return nil
	}
	e.used = true
	last := len(e.free) - 1
	if last < 0 {
		return nil
	}
	b := e.free[last]
	e.free = e.free[:last]
	return b
}

// give takes the memory of x; false when it came from elsewhere.
func (s *Spare) give(x *Tensor) bool {
	if s == nil {
		return false
	}
	e := s.of(x.kind, x.Len())
	if e == nil {
		return false
	}
	e.free = append(e.free, x.Data)
	return true
}

// tensor returns an empty tensor.
func (s *Spare) tensor() *Tensor {
	if s == nil || len(s.tensors) == 0 {
		return &Tensor{}
	}
	last := len(s.tensors) - 1
	x := s.tensors[last]
	s.tensors = s.tensors[:last]
	*x = Tensor{}
	return x
}

// end takes the tensors of a pass, whose memory is back, and lets go of the sizes that
// it did not use.
func (s *Spare) end(all []*Tensor) {
	if s == nil {
		return
	}
	s.tensors = append(s.tensors, all...)
	kept := s.kept[:0]
	for _, e := range s.kept {
		if !e.used {
			s.drop(e)
			continue
		}
		e.used = false
		kept = append(kept, e)
	}
	clear(s.kept[len(kept):])
	s.kept = kept
}

func (s *Spare) drop(e keptSize) {
	for _, b := range e.free {
		s.Dev.Free(b)
	}
}

// Close gives all memory back. The Spare can be used again.
func (s *Spare) Close() {
	for _, e := range s.kept {
		s.drop(e)
	}
	s.tensors, s.kept = nil, nil
}
