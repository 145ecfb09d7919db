package data

import (
	"runtime"
	"unsafe"

	"github.com/tunekit/tunekit/formats/atomic"
)

// vector is a slice of numbers, an index of samples or a part of one. A large one
// lies in a file without a name that is mapped, so that it takes no memory the
// system cannot have back; where no such file can be made it is plain memory.
type vector[T any] struct {
	at     []T // T holds no pointers
	beside string
	file   *atomic.Scratch // nil: plain memory
	end    runtime.Cleanup
}

// heldVector is how many bytes of a vector stay in plain memory.
var heldVector = 1 << 20

// newVector is n zeros. Its file lies beside a path that need not be there, in a
// folder that is; "" is for plain memory. Who keeps the slice keeps the vector.
func newVector[T any](beside string, n int) *vector[T] {
	a := &vector[T]{beside: beside}
	size := int64(n) * int64(unsafe.Sizeof(*new(T)))
	if beside == "" || size <= int64(heldVector) {
		a.at = make([]T, n)
		return a
	}
	file, err := atomic.NewScratch(beside)
	if err != nil {
		a.at = make([]T, n)
		return a
	}
	b, err := file.Map(size)
	if err != nil {
		file.Close()
		a.at = make([]T, n)
		return a
	}
	a.at, a.file = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), file
	a.end = runtime.AddCleanup(a, (*atomic.Scratch).Close, file)
	return a
}

// add appends a value.
func (a *vector[T]) add(v T) {
	if len(a.at) == cap(a.at) {
		more := newVector[T](a.beside, max(2*len(a.at), 64))
		copy(more.at, a.at)
		more.at = more.at[:len(a.at)]
		a.close()
		a.at, a.file = more.at, more.file
		if more.file != nil { // it is this one's now
			more.end.Stop()
			a.end = runtime.AddCleanup(a, (*atomic.Scratch).Close, a.file)
		}
	}
	a.at = append(a.at, v)
}

// len is the number of values; a may be nil.
func (a *vector[T]) len() int {
	if a == nil {
		return 0
	}
	return len(a.at)
}

// get is value i.
func (a *vector[T]) get(i int) T {
	v := a.at[i]
	runtime.KeepAlive(a)
	return v
}

// close gives the room back now. A vector that is let go of does so later.
func (a *vector[T]) close() {
	if a != nil && a.file != nil {
		a.end.Stop()
		a.file.Close()
	}
	if a != nil {
		a.at, a.file = nil, nil
	}
}

// idSet is a set of hashes that is as large as its rows are many: open addressing,
// by the upper bits of a hash, in a vector that is never more than three quarters
// full.
type idSet struct {
	slots *vector[uint64] // 0: free
	shift int             // of a hash to its slot
	n     int
	zero  bool // the hash 0 is in it
}

func newIDSet(beside string) *idSet {
	return &idSet{slots: newVector[uint64](beside, 1<<10), shift: 64 - 10}
}

// add puts a hash into the set; was tells whether it was there.
func (s *idSet) add(id uint64) (was bool) {
	if id == 0 {
		was, s.zero = s.zero, true
		return was
	}
	if !put(s.slots.at, s.shift, id) {
		return true
	}
	if s.n++; 4*s.n > 3*len(s.slots.at) {
		larger := newVector[uint64](s.slots.beside, 2*len(s.slots.at))
		for _, id := range s.slots.at { // about in the order of the larger one
			if id != 0 {
				put(larger.at, s.shift-1, id)
			}
		}
		s.slots.close()
		s.slots, s.shift = larger, s.shift-1
	}
	return false
}

// has tells whether a hash is in the set.
func (s *idSet) has(id uint64) bool {
	if id == 0 {
		return s.zero
	}
	for at := id >> s.shift; ; at++ {
		switch s.slots.get(int(at & uint64(len(s.slots.at)-1))) {
		case id:
			return true
		case 0:
			return false
		}
	}
}

// put puts a hash where it belongs; false where it is there.
func put(slots []uint64, shift int, id uint64) bool {
	for at := id >> shift; ; at++ {
		switch slots[at&uint64(len(slots)-1)] {
		case id:
			return false
		case 0:
			slots[at&uint64(len(slots)-1)] = id
			return true
		}
	}
}

func (s *idSet) close() { s.slots.close() }
