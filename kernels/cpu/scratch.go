package cpu

import "sync"

// scratch lends working memory to the tasks of a method. Pieces are kept by
// whoever asked last, one for each thread or so, and are not counted.
type scratch struct {
	mu   sync.Mutex
	free [][]float32
}

// take returns n elements with undefined contents, aligned to 64 bytes.
func (s *scratch) take(n int) []float32 {
	if p := s.kept(n); p != nil {
		return p
	}
	return view[float32](align64(make([]byte, 4*n+128)))[:n]
}

// kept returns the smallest kept piece that n elements fit in. Where there is
// none it lets go of one, so that the number of pieces stays that of the threads.
func (s *scratch) kept(n int) []float32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, p := range s.free {
		if cap(p) >= n && (best < 0 || cap(p) < cap(s.free[best])) {
			best = i
		}
	}
	last := len(s.free) - 1
	if best < 0 {
		s.free = s.free[:max(last, 0)]
		return nil
	}
	p := s.free[best]
	s.free[best] = s.free[last]
	s.free = s.free[:last]
	return p[:n]
}

// give takes p back.
func (s *scratch) give(p []float32) {
	if cap(p) == 0 {
		return
	}
	s.mu.Lock()
	s.free = append(s.free, p)
	s.mu.Unlock()
}

// cut splits the first n elements off p.
func cut(p *[]float32, n int) []float32 {
	q := (*p)[:n:n]
	*p = (*p)[n:]
	return q
}
