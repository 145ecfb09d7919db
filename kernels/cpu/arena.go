package cpu

import (
	"math/bits"
	"unsafe"
)

// arena hands out blocks of memory and keeps freed ones, so that a training
// step, which frees and takes the same sizes again and again, touches neither
// the operating system nor the collector. Large blocks are cut from regions
// outside the Go heap, small ones are kept by size class.
//
// Of small blocks it never holds more than was in use at the busiest moment
// (plus arenaSlack): a taker who finds no block of its class first lets go of
// kept blocks of others.
type arena struct {
	regions []*region
	free    map[int][]piece // kept small blocks by class size
	kept    int             // bytes in free
	live    int             // bytes of small blocks handed out
	busy    int             // largest live
	stale   bool            // the Go heap holds large memory that is no longer used
	limit   int             // bytes, with those of the Go runtime, from which on the system gets pages of free memory back; 0: never
}

// piece is a block of memory.
type piece struct {
	bytes  []byte
	region *region // nil: the whole of a size class on the Go heap
}

const (
	arenaSlack = 16 << 20
	smallest   = 64
	mapFrom    = 256 << 10 // blocks from here on are cut from regions
)

func newArena() *arena { return &arena{free: map[int][]piece{}} }

// class rounds a size up: eight steps for every power of two.
func class(size int) int {
	if size <= smallest {
		return smallest
	}
	step := 1 << max(bits.Len(uint(size-1))-4, 6)
	return (size + step - 1) &^ (step - 1)
}

// take returns a block of at least size bytes, aligned to 64. peak is the most bytes
// that were in use at a time.
func (a *arena) take(size, peak int) (piece, error) {
	if size >= mapFrom {
		if b, err := a.cut(size, peak); err != nil || b.region != nil {
			return b, err
		}
	}
	c := class(size)
	a.live += c
	a.busy = max(a.busy, a.live)
	if s := a.free[c]; len(s) > 0 {
		b := s[len(s)-1]
		a.free[c] = s[:len(s)-1]
		a.kept -= c
		return b, nil
	}
	a.shrink(a.busy + arenaSlack - a.live)
	p := make([]byte, c+64)
	return piece{bytes: align64(p)[:c:c]}, nil
}

// give takes a block back.
func (a *arena) give(b piece) {
	if b.region != nil {
		b.region.join(b.bytes)
		return
	}
	c := len(b.bytes)
	a.live -= c
	a.kept += c
	a.free[c] = append(a.free[c], b)
}

// shrink lets go of kept blocks until at most keep bytes are kept.
func (a *arena) shrink(keep int) {
	for c, s := range a.free {
		for len(s) > 0 && a.kept > keep {
			a.kept -= c
			s[len(s)-1] = piece{}
			s = s[:len(s)-1]
		}
		a.free[c] = s
	}
}

// align64 drops the first bytes of p so that it starts at a multiple of 64.
func align64(p []byte) []byte {
	return p[-uintptr(unsafe.Pointer(&p[0]))&63:]
}
