// Package cpu is the backend that computes on the processor: plain Go as the
// specification of every operation, and generated assembly for the inner loops.
//
// Methods split their work by shape alone, or where no task makes a part of
// another's result (par.Split), and combine partial results in a fixed order, so
// results have the same bits at any number of threads.
package cpu

import (
	"fmt"
	"math"
	"runtime/debug"
	"sync"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Options of a CPU backend.
type Options struct {
	Threads     int   // 0: as many as GOMAXPROCS allows
	MemoryLimit int64 // bytes over all purposes but Mapped; 0: none
	// Process makes the limit that of the process: Program of it is not the backend's to
	// give, and the collector keeps the Go heap to what the backend, at its peak, leaves.
	Process bool
}

// Program is the bytes that a process takes beside a backend's buffers: a tokenizer and
// what is worked on in the Go heap, with the garbage that the collector lets lie, the
// runtime's own, and pages of the program's data that were written to.
const Program = 40 << 20

// outside is the part of Program that Go's runtime knows nothing of.
const outside = 6 << 20

// CPU computes on the processor. It implements kernels.Backend. Alloc, Load,
// Free and Info may be called from any goroutine; the rest belongs inside Run.
type CPU struct {
	mu    sync.Mutex
	mem   kernels.MemStats
	peak  int64 // largest counted total
	limit int64 // without the program's own
	arena *arena

	process bool
	whole   kernels.ProcessLimit
	own     int64 // largest total of what lies outside the Go heap
	heapFor int64 // own that the limit of the Go heap was last set for

	closed  bool
	scratch scratch
}

// DefaultLimit is the memory limit of a process that was given none: 0.9 of
// what is available, 0 (none) where the system does not say.
func DefaultLimit() int64 { return AvailableMemory() / 10 * 9 }

// New returns a backend. Threads applies to the whole process (see par).
func New(o Options) *CPU {
	if o.Threads > 0 {
		par.SetThreads(o.Threads)
	}
	c := &CPU{limit: o.MemoryLimit, arena: newArena(), process: o.Process && o.MemoryLimit > 0}
	if c.process && c.limit < math.MaxInt64 {
		c.arena.limit = int(c.limit - outside)
		c.whole = kernels.ProcessLimit{Bytes: c.limit, Program: Program}
		c.limit = max(c.limit-Program, 1)
	}
	c.limitHeap()
	c.collect()
	return c
}

// limitHeap tells the collector what is left for the Go heap, Program at least: memory
// that the backend once touched stays with the process.
func (c *CPU) limitHeap() {
	if c.whole.Bytes > 0 {
		debug.SetMemoryLimit(max(c.limit-c.own, 0) + Program - outside)
		c.heapFor = c.own
	}
}

// Info describes the backend and what its memory is used for.
func (c *CPU) Info() kernels.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return kernels.Info{
		Name: "cpu", Level: levelName(), Address: "cpu/" + levelName(), Threads: par.Threads(), Limit: c.limit, Process: c.whole, FastBF16: fastBF16(),
		Mem: c.mem, PeakTotal: c.peak, Working: working{},
	}
}

// ResetCounters makes what is in use now the peak, and gives the system back the
// pages of memory that is free.
func (c *CPU) ResetCounters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mem.Peak, c.peak = c.mem.Now, kernels.Total(c.mem.Now)
	c.arena.forget()
	c.arena.stale = c.process
	c.own = c.peak - c.mem.Now[kernels.Host]
}

// Close gives the memory of the backend back to the system. Using a buffer of
// it afterwards panics; freeing one does nothing. Closing twice is allowed.
func (c *CPU) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.process {
		debug.SetMemoryLimit(math.MaxInt64)
		debug.SetGCPercent(100)
	}
	c.arena.release()
	c.mem.Now, c.scratch.free = [kernels.NumPurposes]int64{}, nil
}

// Run calls step. The CPU has no queue, so methods have finished when they
// return and only step itself can fail.
//
// A method that cannot get the scratch memory it needs ends the step there.
func (c *CPU) Run(step func() error) error { return kernels.Step(step) }

// Alloc returns n elements of a plain type with undefined contents. It fails
// with a kernels.MemoryError when that would break the limit.
func (c *CPU) Alloc(p kernels.Purpose, t dtype.Type, n int) (kernels.Buffer, error) {
	if t.Quantized() {
		panic(fmt.Sprintf("cpu: alloc: %v is not a plain type", t))
	}
	if n < 0 || n > math.MaxInt/16 {
		panic(fmt.Sprintf("cpu: alloc: %d elements", n))
	}
	b, err := c.alloc(p, t, n, n*t.Kind.Info().Bytes)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// alloc counts and takes size bytes.
func (c *CPU) alloc(p kernels.Purpose, t dtype.Type, n, size int) (*Buf, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		panic("cpu: alloc: the device was closed")
	}
	if err := c.count(p, size); err != nil {
		return nil, err
	}
	blk, err := c.arena.take(size, int(c.peak))
	if err != nil {
		c.uncount(p, size)
		return nil, fmt.Errorf("cpu: %d bytes of %s: %w: %w", size, p, err, kernels.ErrOutOfMemory)
	}
	return &Buf{dev: c, t: t, n: n, purpose: p, mem: blk.bytes[:size:size], block: blk, owner: true}, nil
}

// count adds size bytes of purpose p, or refuses. c.mu is held.
func (c *CPU) count(p kernels.Purpose, size int) error {
	total := kernels.Total(c.mem.Now)
	if p != kernels.Mapped {
		total += int64(size)
	}
	if c.limit > 0 && p != kernels.Mapped && total > c.limit {
		return &kernels.MemoryError{Purpose: p, Asked: int64(size), Limit: c.limit, Process: c.whole, InUse: c.mem.Now, DeviceLabel: "cpu"}
	}
	c.mem.Now[p] += int64(size)
	c.mem.Peak[p] = max(c.mem.Peak[p], c.mem.Now[p])
	c.peak = max(c.peak, total)
	if c.own = max(c.own, total-c.mem.Now[kernels.Host]); c.own-c.heapFor > c.limit/16 {
		c.limitHeap()
	}
	return nil
}

// Host counts memory of the caller's: it is of the same kind.
func (c *CPU) Host(n int64) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.count(kernels.Host, int(n)); err != nil {
		return nil, err
	}
	c.collect()
	if c.process && n > heapSlack {
		debug.FreeOSMemory() // what was read and dropped before lies beside it otherwise
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.uncount(kernels.Host, int(n))
		c.collect()
		if c.process && n > heapSlack {
			debug.FreeOSMemory() // else as much again is let lie beside it before the next collection
		}
	}, nil
}

// heapSlack is what the collector may let lie beside counted memory of the Go
// heap.
const heapSlack = 32 << 20

// gcPercent is what the collector lets lie beside what is in use of the Go heap, which
// buffers are no part of.
const gcPercent = 50

// collect keeps the collector from letting as much lie as is in use, above all while
// large memory of the Go heap is counted: that is held on purpose and for long.
func (c *CPU) collect() {
	if c.process {
		host := c.mem.Now[kernels.Host]
		debug.SetGCPercent(int(max(10, min(gcPercent, 100*heapSlack/(heapSlack+host)))))
	}
}

func (c *CPU) uncount(p kernels.Purpose, size int) { c.mem.Now[p] -= int64(size) }

// Load makes a [rows, cols] weight of type t from bytes laid out by
// dtype.Planes. With kernels.Borrow the bytes are read where they are, unless
// they are not aligned for their type; then, and with kernels.Copy, they are
// copied, and what was to be Mapped counts as Weights. Without bytes the
// contents are undefined until Quantize.
func (c *CPU) Load(p kernels.Purpose, t dtype.Type, rows, cols int, host []byte, u kernels.Use) (kernels.Mat, error) {
	size := dtype.Size(t, rows, cols)
	if host != nil && len(host) < size {
		panic(fmt.Sprintf("cpu: load: %d bytes for %d×%d of %v, which has %d", len(host), rows, cols, t, size))
	}
	var b *Buf
	var err error
	if host == nil {
		b, err = c.alloc(p, t, rows*cols, size)
	} else {
		b, err = c.load(p, t, rows*cols, host[:size:size], u)
	}
	if err != nil {
		return kernels.Mat{}, err
	}
	b.rows, b.cols = rows, cols
	return kernels.Mat{Buffer: b, Rows: rows, Cols: cols, Of: rows}, nil
}

func (c *CPU) load(p kernels.Purpose, t dtype.Type, n int, host []byte, u kernels.Use) (*Buf, error) {
	if u == kernels.Borrow && aligned(host, t) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.count(p, len(host)); err != nil {
			return nil, err
		}
		return &Buf{dev: c, t: t, n: n, purpose: p, mem: host, owner: true}, nil
	}
	if p == kernels.Mapped {
		p = kernels.Weights
	}
	b, err := c.alloc(p, t, n, len(host))
	if err == nil {
		copy(b.mem, host)
	}
	return b, err
}

// Free gives the memory of b back. nil is ignored, and so is a slice, whose
// memory belongs to what it was cut from. Freeing twice panics.
func (c *CPU) Free(b kernels.Buffer) {
	if b == nil {
		return
	}
	x := b.(*Buf)
	if !x.owner {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.dev != c {
		panic("cpu: free: buffer of another device")
	}
	if c.closed {
		return
	}
	if x.freed {
		panic("cpu: free: buffer was freed before")
	}
	c.uncount(x.purpose, len(x.mem))
	if x.block.bytes != nil {
		poison(x.mem)
		c.arena.give(x.block)
	}
	x.mem, x.block, x.freed = nil, piece{}, true
}

// Slice views elements [off, off+n) of a plain buffer. It stays valid as long
// as b does.
func (c *CPU) Slice(b kernels.Buffer, off, n int) kernels.Buffer {
	x := b.(*Buf)
	if x.t.Quantized() || off < 0 || n < 0 || off+n > x.n {
		panic(fmt.Sprintf("cpu: slice: %d+%d of %d elements of %v", off, n, x.n, x.t))
	}
	size := x.t.Kind.Info().Bytes
	root := x
	if x.root != nil {
		root = x.root
	}
	return &Buf{dev: c, t: x.t, n: n, purpose: x.purpose, mem: x.live()[off*size : (off+n)*size : (off+n)*size], root: root}
}

// Upload copies src, little-endian elements of dst's type, into dst.
func (c *CPU) Upload(dst kernels.Buffer, src []byte) {
	d := raw(dst)
	if len(d) != len(src) {
		panic(fmt.Sprintf("cpu: upload: %d bytes into a buffer of %d", len(src), len(d)))
	}
	copy(d, src)
}

// Download copies src into dst.
func (c *CPU) Download(dst []byte, src kernels.Buffer) error {
	s := raw(src)
	if len(dst) != len(s) {
		panic(fmt.Sprintf("cpu: download: a buffer of %d bytes into %d", len(s), len(dst)))
	}
	copy(dst, s)
	return nil
}

// Fill sets every element of a buffer of float32 or bf16 to v.
func (c *CPU) Fill(dst kernels.Buffer, v float32) {
	if d := plainOf(dst); d.h != nil {
		setAll(d.h, block.BF16(v))
	} else {
		setAll(d.f, v)
	}
}

func setAll[T any](d []T, v T) {
	par.For(len(d), elemGrain, func(lo, hi int) {
		part := d[lo:hi]
		for i := range part {
			part[i] = v
		}
	})
}

// elemGrain is the number of elements of one chunk of element-wise work: large
// enough to outweigh handing it out, small enough to share a small tensor.
const elemGrain = 16 << 10

// rowGrain is the number of rows of width c that make one such chunk.
func rowGrain(c int) int { return max(1, elemGrain/max(c, 1)) }
