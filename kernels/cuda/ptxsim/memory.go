package ptxsim

import (
	"fmt"
	"sort"
)

// region is memory with a record of its use: what was written, and which thread
// read or wrote each element last.
type region struct {
	base    uint64
	data    []byte
	written []bool // by byte
	flying  []bool // by byte: a copy is on its way there; nil: none was yet
	cells   []cell // by element
	size    int    // bytes of an element: those of the smallest access so far
	name    string
}

// cell is the last accesses of an element, in one launch.
type cell struct {
	launch           uint32
	wrote            bool
	wBlock, rBlock   int32 // -1: none, several: blocks that read
	wThread, rThread int32 // several: of one warp or more
	wB, rB           uint32
	wW, rW           uint32
	rWarp            int32
}

const several = -2

// access is who touches memory.
type access struct {
	launch        uint32
	block, thread int32
	b, w          uint32 // barriers of the block and of the warp so far
}

func newRegion(base uint64, n int, name string) *region {
	return &region{base: base, data: make([]byte, n), written: make([]bool, n), size: 4, name: name}
}

// touch checks an access of n bytes at off and notes it. Errors say what no GPU
// reports: an element that was never written, and two threads that meet without
// a barrier between them.
func (r *region) touch(off, n int, write bool, a access) error {
	if n < r.size {
		r.size, r.cells = n, nil
	}
	if r.cells == nil {
		r.cells = make([]cell, (len(r.data)+r.size-1)/r.size)
	}
	for at := off; at < off+n; at += r.size {
		c := &r.cells[at/r.size]
		if !write && !c.wrote && c.launch == a.launch && c.rThread == a.thread && c.rBlock == a.block && c.rB == a.b && c.rW == a.w {
			continue // once more
		}
		if c.launch != a.launch {
			*c = cell{launch: a.launch, wBlock: -1, rBlock: -1}
		}
		if err := c.meet(write, a); err != nil {
			return err
		}
		if write {
			c.wrote, c.wBlock, c.wThread, c.wB, c.wW = true, a.block, a.thread, a.b, a.w
		} else {
			c.read(a)
		}
	}
	return nil
}

// meet finds an earlier access of another thread that nothing orders.
func (c *cell) meet(write bool, a access) error {
	if c.wrote && c.wThread != a.thread || c.wrote && c.wBlock != a.block {
		switch {
		case c.wBlock != a.block:
			return fmt.Errorf("depends on the order of blocks: block %d wrote it in the same launch", c.wBlock)
		case c.wB == a.b && (c.wThread/32 != a.thread/32 || c.wW == a.w):
			return fmt.Errorf("race: thread %d of the block wrote it since the last barrier", c.wThread)
		}
	}
	if !write || c.rBlock == -1 {
		return nil
	}
	switch {
	case c.rBlock != a.block:
		return fmt.Errorf("depends on the order of blocks: another block read it in the same launch")
	case c.rThread == a.thread || c.rB != a.b:
		return nil
	case c.rWarp == a.thread/32 && c.rW != a.w:
		return nil
	}
	return fmt.Errorf("race: another thread of the block read it since the last barrier")
}

// read notes a reader beside those since the last barrier.
func (c *cell) read(a access) {
	warp := a.thread / 32
	switch {
	case c.rBlock == -1:
		c.rBlock, c.rThread, c.rWarp = a.block, a.thread, warp
	case c.rBlock != a.block:
		c.rBlock = several
	case c.rB != a.b || c.rWarp == warp && c.rW != a.w:
		c.rThread, c.rWarp = a.thread, warp
	default:
		if c.rThread != a.thread {
			c.rThread = several
		}
		if c.rWarp != warp {
			c.rWarp = several
		}
	}
	c.rB, c.rW = a.b, a.w
}

// known reports whether all n bytes at off were written.
func (r *region) known(off, n int) bool {
	if n == 4 {
		w := r.written[off : off+4]
		return w[0] && w[1] && w[2] && w[3]
	}
	for _, w := range r.written[off : off+n] {
		if !w {
			return false
		}
	}
	return true
}

func (r *region) setKnown(off, n int) {
	w := r.written[off : off+n]
	if n == 4 {
		w[0], w[1], w[2], w[3] = true, true, true, true
		return
	}
	for i := range w {
		w[i] = true
	}
}

// memory is the allocations of a device by address.
type memory struct {
	regions []*region // ascending
	next    uint64
	last    *region
}

// gap keeps allocations apart, so that an index past the end hits nothing.
const gap = 1 << 16

func (m *memory) alloc(n int, name string) *region {
	if m.next == 0 {
		m.next = 1 << 32
	}
	r := newRegion(m.next, n, name)
	m.next += uint64(n+gap+255) &^ 255
	m.regions = append(m.regions, r)
	return r
}

// find is the allocation that n bytes at p lie in, nil where there is none.
func (m *memory) find(p uint64, n int) *region {
	if r := m.last; r != nil && p >= r.base && p+uint64(n) <= r.base+uint64(len(r.data)) {
		return r
	}
	i := sort.Search(len(m.regions), func(i int) bool { return m.regions[i].base > p }) - 1
	if i < 0 {
		return nil
	}
	r := m.regions[i]
	if p+uint64(n) > r.base+uint64(len(r.data)) {
		return nil
	}
	m.last = r
	return r
}

func (m *memory) free(p uint64) bool {
	for i, r := range m.regions {
		if r.base == p {
			m.regions = append(m.regions[:i], m.regions[i+1:]...)
			m.last = nil
			return true
		}
	}
	return false
}
