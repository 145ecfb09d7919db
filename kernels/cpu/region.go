package cpu

import (
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"unsafe"
)

// region is mapped memory that blocks are cut from. The lowest place that is
// large enough is taken and free neighbours are joined, so the pages that a
// repeated sequence of blocks touches are few and always the same. Pages that
// were never touched cost nothing.
type region struct {
	mem     []byte
	free    []hole // by address; no two of them touch
	touched int    // bytes that are in use or were: the most that the system holds
}

// hole is free memory of a region.
type hole struct {
	at, size int
	touched  int // so many bytes of it, from the first on, may have been in use
}

// The least that is mapped at a time, for large blocks and for small ones.
const (
	regionSize  = 256 << 20
	smallRegion = 4 << 20
)

// cut takes size bytes from the first of the regions that has them, or from a new one of
// at least so many bytes. Where nothing can be mapped the piece has no region.
func (a *arena) cut(in *[]*region, size, least, peak int) (piece, error) {
	n := roundUp(size, 64)
	for _, r := range *in {
		if i := r.find(n); i >= 0 {
			a.touch(max(n-r.free[i].touched, 0), peak)
			return piece{bytes: r.take(i, n), region: r}, nil
		}
	}
	a.touch(n, peak)
	total := 0
	for _, r := range *in {
		total += len(r.mem)
	}
	mem, err := mapMemory(max(n, least, total))
	if err != nil {
		mem, err = mapMemory(n)
	}
	if mem == nil || err != nil {
		return piece{}, err
	}
	r := &region{mem: mem, free: []hole{{size: len(mem)}}}
	*in = append(*in, r)
	return piece{bytes: r.take(0, n), region: r}, nil
}

// touch is called before so many bytes of memory are used that the system does
// not hold yet. It gives back pages of free memory where the process would go
// over its limit, and where blocks lie so that they would take clearly more
// than peak, the most that was ever in use at a time.
func (a *arena) touch(fresh, peak int) {
	if fresh > 0 && a.stale {
		a.stale = false
		debug.FreeOSMemory()
	}
	touched := fresh + a.touched()
	if fresh > 0 && touched > peak+peak/16+arenaSlack || a.limit > 0 && touched > a.limit/2 && touched+goMemory() > a.limit {
		a.forget()
	}
}

// forget gives the pages of free memory back to the system.
func (a *arena) forget() {
	for r := range a.all {
		r.forget()
	}
}

// goMemory is the bytes that the Go runtime holds of the system's memory.
func goMemory() int {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(m)
	return int(m[0].Value.Uint64() - m[1].Value.Uint64())
}

// release gives everything back to the system. Pieces that are still out there
// must not be touched any more.
func (a *arena) release() {
	for r := range a.all {
		unmapMemory(r.mem)
	}
	*a = *newArena()
}

// find is the lowest hole that has n bytes, -1 where there is none.
func (r *region) find(n int) int {
	return slices.IndexFunc(r.free, func(h hole) bool { return h.size >= n })
}

// take cuts n bytes from a hole.
func (r *region) take(i, n int) []byte {
	h := &r.free[i]
	r.touched += max(n-h.touched, 0)
	h.touched = max(h.touched-n, 0)
	p := r.mem[h.at : h.at+n : h.at+n]
	h.at, h.size = h.at+n, h.size-n
	if h.size == 0 {
		r.free = slices.Delete(r.free, i, i+1)
	}
	return p
}

// join makes p, which was cut from r, free again.
func (r *region) join(p []byte) {
	h := hole{int(uintptr(unsafe.Pointer(&p[0])) - uintptr(unsafe.Pointer(&r.mem[0]))), len(p), len(p)}
	i, _ := slices.BinarySearchFunc(r.free, h, func(a, b hole) int { return a.at - b.at })
	if i < len(r.free) && r.free[i].at == h.at+h.size {
		h.size, h.touched = h.size+r.free[i].size, h.touched+r.free[i].touched
		r.free = slices.Delete(r.free, i, i+1)
	}
	if i > 0 && r.free[i-1].at+r.free[i-1].size == h.at {
		l := &r.free[i-1]
		r.touched += l.size - l.touched
		l.size, l.touched = l.size+h.size, l.size+h.touched
		return
	}
	r.free = slices.Insert(r.free, i, h)
}

// forget gives the pages of free memory back to the system.
func (r *region) forget() {
	for i := range r.free {
		h := &r.free[i]
		forgetMemory(r.mem[h.at : h.at+h.touched])
		r.touched, h.touched = r.touched-h.touched, 0
	}
}
