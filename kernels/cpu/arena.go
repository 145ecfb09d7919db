package cpu

import "unsafe"

// arena hands out blocks of memory outside the Go heap, where the collector would let
// as much again lie beside them, and keeps freed ones, so that a training step, which
// frees and takes the same sizes again and again, touches neither the operating system
// nor the collector. Small blocks, many of which stay for long, are cut from regions of
// their own: they would part the places that large ones come back to.
type arena struct {
	regions, small []*region
	stale          bool // the Go heap holds large memory that is no longer used
	limit          int  // bytes, with those of the Go runtime, from which on the system gets pages of free memory back; 0: never
}

// piece is a block of memory.
type piece struct {
	bytes  []byte
	region *region // nil: of the Go heap, where nothing can be mapped
}

const (
	arenaSlack = 16 << 20
	mapFrom    = 256 << 10 // blocks from here on are large
)

func newArena() *arena { return &arena{} }

// take returns a block of at least size bytes, aligned to 64. peak is the most bytes
// that were in use at a time.
func (a *arena) take(size, peak int) (piece, error) {
	in, least := &a.small, smallRegion
	if size >= mapFrom {
		in, least = &a.regions, regionSize
	}
	b, err := a.cut(in, max(size, 1), least, peak)
	if err != nil || b.region != nil {
		return b, err
	}
	return piece{bytes: align64(make([]byte, size+64))[:size:size]}, nil
}

// give takes a block back.
func (a *arena) give(b piece) {
	if b.region != nil {
		b.region.join(b.bytes)
	}
}

// all are the regions of large and of small blocks.
func (a *arena) all(do func(*region) bool) {
	for _, in := range [][]*region{a.regions, a.small} {
		for _, r := range in {
			if !do(r) {
				return
			}
		}
	}
}

// touched is the most bytes that the system holds of all regions.
func (a *arena) touched() int {
	n := 0
	for r := range a.all {
		n += r.touched
	}
	return n
}

// align64 drops the first bytes of p so that it starts at a multiple of 64.
func align64(p []byte) []byte {
	return p[-uintptr(unsafe.Pointer(&p[0]))&63:]
}
