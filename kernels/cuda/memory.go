package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Buf is memory of a device: plain elements, or the planes of one matrix.
type Buf struct {
	dev     *CUDA
	t       dtype.Type
	n       int // elements
	rows    int // as loaded; 0 for Alloc and Slice
	purpose kernels.Purpose
	at      driver.Ptr
	size    int64 // bytes
	owner   bool  // false: a slice
	freed   bool
	root    *Buf          // of a slice: the buffer whose memory it is
	coming  *driver.Event // of bytes that the host's memory sends; nil: they are there
}

// Type is the element type.
func (b *Buf) Type() dtype.Type { return b.t }

// Len is the number of elements.
func (b *Buf) Len() int { return b.n }

// ptr is the address of b, or a panic where it was given back; 0 for nil.
func ptr(b kernels.Buffer) driver.Ptr {
	if b == nil {
		return 0
	}
	x := b.(*Buf)
	if x.freed || x.root != nil && x.root.freed {
		panic("cuda: buffer used after it was freed")
	}
	if x.dev != nil {
		x.dev.await(x)
	}
	return x.at
}

// typed is the address of a buffer of kind k; 0 for nil.
func typed(b kernels.Buffer, k dtype.Kind) driver.Ptr {
	if b != nil && b.Type().Kind != k {
		panic(fmt.Sprintf("cuda: buffer of %v where %v is needed", b.Type(), k))
	}
	return ptr(b)
}

// want panics unless b holds at least n elements: a wrong shape.
func want(what string, b kernels.Buffer, n int) {
	if b != nil && b.Len() < n {
		panic(fmt.Sprintf("cuda: %s: buffer of %d elements, needs %d", what, b.Len(), n))
	}
}

// Alloc returns n elements of a plain type with undefined contents.
func (c *CUDA) Alloc(p kernels.Purpose, t dtype.Type, n int) (kernels.Buffer, error) {
	if t.Quantized() || n < 0 || n > math.MaxInt/16 {
		panic(fmt.Sprintf("cuda: alloc: %d elements of %v", n, t))
	}
	b, err := c.take(p, t, n, int64(n)*int64(t.Kind.Info().Bytes))
	if err != nil {
		return nil, err
	}
	return b, nil
}

// outOfMemory is a refusal by the driver.
type outOfMemory struct{ error }

func (e outOfMemory) Unwrap() error { return e.error }

func (e outOfMemory) Is(target error) bool { return target == kernels.ErrOutOfMemory }

// take counts and takes size bytes.
func (c *CUDA) take(p kernels.Purpose, t dtype.Type, n int, size int64) (*Buf, error) {
	if p == kernels.Mapped {
		p = kernels.Weights // it is copied
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		panic("cuda: alloc: the device was closed")
	}
	if c.err != nil {
		return nil, c.err
	}
	if p == kernels.Host {
		return c.takeHost(t, n, size)
	}
	total := c.inUse() + size
	if total > c.limit {
		return nil, &kernels.MemoryError{Purpose: p, Asked: size, Limit: c.limit, Copies: true, InUse: c.mem.Now, DeviceLabel: c.name}
	}
	b := &Buf{dev: c, t: t, n: n, purpose: p, size: size, owner: true}
	if size > 0 {
		var err error
		if b.at, err = c.fresh(kernels.SizeClass(size)); err != nil {
			if c.err != nil {
				return nil, c.err
			}
			var de *driver.Error
			full := errors.As(err, &de) && de.Code == driver.OutOfMemory
			if full {
				err = outOfMemory{err}
			}
			err = fail.Limitf(c.name, "free memory of the GPU, or lower device_memory_limit, the batch or the length", "%d bytes for %s (%d of %v), %d are in use: %w", size, p, n, t, c.inUse(), err)
			if !full {
				c.err = err
			}
			return nil, err
		}
	}
	c.mem.Now[p] += size
	c.mem.Peak[p] = max(c.mem.Peak[p], c.mem.Now[p])
	c.peak = max(c.peak, total)
	return b, nil
}

// inUse is the bytes of the device's own memory that count. c.mu is held.
func (c *CUDA) inUse() int64 { return kernels.Counted(c.mem.Now, true) }

// takeHost is take of pinned memory of the host, which kernels reach over the bus: for
// what is used once a step. c.mu is held, and let go of while the driver is asked.
func (c *CUDA) takeHost(t dtype.Type, n int, size int64) (*Buf, error) {
	b := &Buf{dev: c, t: t, n: n, purpose: kernels.Host, size: size, owner: true}
	whole := kernels.SizeClass(size)
	if list := c.keptHost[whole]; len(list) > 0 && size > 0 {
		b.at, c.keptHost[whole] = list[len(list)-1], list[:len(list)-1]
	} else if size > 0 {
		if c.staged > c.mostStaged-whole {
			c.makeRoom(whole)
		}
		if c.staged > c.mostStaged-whole {
			return nil, &kernels.MemoryError{Purpose: kernels.Host, Asked: size, Limit: c.mostStaged, Copies: true, InUse: c.mem.Now, DeviceLabel: c.name}
		}
		err := c.pin(b, whole)
		var de *driver.Error
		if errors.As(err, &de) && de.Code == driver.OutOfMemory && c.makeRoom(math.MaxInt64) {
			err = c.pin(b, whole)
		}
		if err != nil {
			return nil, outOfMemory{fail.Limitf(c.name, "free memory of the host, or keep less of it there", "%d bytes of pinned memory (%d of %v): %w", size, n, t, err)}
		}
	}
	c.mem.Now[kernels.Host] += size
	c.mem.Peak[kernels.Host] = max(c.mem.Peak[kernels.Host], c.mem.Now[kernels.Host])
	return b, nil
}

// pin asks the driver for size bytes of the host. c.mu is held, and let go of while it
// is asked.
func (c *CUDA) pin(b *Buf, size int64) error {
	c.staged += size
	c.mu.Unlock()
	err := c.wait(func(d driver.Driver) (err error) { b.at, err = d.AllocHost(size); return err })
	c.mu.Lock()
	if err != nil {
		c.staged -= size
	}
	return err
}

// makeRoom gives pinned memory back so that size bytes more may be pinned: what is kept,
// then copies of Stage, which save time alone, the latest first. It reports whether it
// gave any. c.mu is held, and let go of while the driver is asked.
func (c *CUDA) makeRoom(size int64) bool {
	var free []driver.Ptr
	for n, list := range c.keptHost {
		free = append(free, list...)
		c.staged -= n * int64(len(list))
	}
	clear(c.keptHost)
	var copies [][]byte
	for i := len(c.copies) - 1; i >= 0 && c.staged > c.mostStaged-size; i-- {
		s := c.copies[i]
		c.copies = c.copies[:i]
		c.staged -= int64(len(s.Bytes))
		copies = append(copies, s.Bytes)
		s.Bytes, s.Gone = nil, true
	}
	if len(free)+len(copies) == 0 {
		return false
	}
	c.mu.Unlock()
	c.unpin(free, copies)
	c.mu.Lock()
	return true
}

// unpin gives pinned memory back when what was queued before is done with it.
func (c *CUDA) unpin(free []driver.Ptr, copies [][]byte) {
	c.post("pinned memory cannot be given back", func(d driver.Driver) error {
		if err := d.Sync(); err != nil {
			return err
		}
		var errs []error
		for _, p := range free {
			errs = append(errs, d.FreeHost(p))
		}
		for _, b := range copies {
			errs = append(errs, d.Unpin(b))
		}
		return errors.Join(errs...)
	})
}

// fresh is a block that is free, or a new one. Where that would pass the limit or
// the device has no more, the blocks that are free go back to the driver first.
// c.mu is held, and let go of while the driver is asked.
func (c *CUDA) fresh(size int64) (driver.Ptr, error) {
	if list := c.kept[size]; len(list) > 0 {
		c.kept[size] = list[:len(list)-1]
		c.held -= size
		return list[len(list)-1], nil
	}
	var p driver.Ptr
	ask := func(d driver.Driver) (err error) { p, err = d.Alloc(size); return err }
	if c.held == 0 || c.inUse()+c.held+size <= c.limit {
		c.mu.Unlock()
		err := c.wait(ask)
		c.mu.Lock()
		var de *driver.Error
		if !errors.As(err, &de) || de.Code != driver.OutOfMemory || c.held == 0 {
			return p, err
		}
	}
	kept := c.kept
	c.kept, c.held = map[int64][]driver.Ptr{}, 0
	c.mu.Unlock()
	c.release(kept)
	err := c.wait(func(d driver.Driver) error {
		if err := d.Sync(); err != nil {
			return err
		}
		return ask(d)
	})
	c.mu.Lock()
	return p, err
}

// Host counts nothing: the host's memory is another.
func (c *CUDA) Host(int64) (release func(), err error) { return func() {}, nil }

// Load makes a weight of type t on the device; the bytes are copied in any case.
func (c *CUDA) Load(p kernels.Purpose, t dtype.Type, rows, cols int, host []byte, _ kernels.Use) (kernels.Mat, error) {
	size := dtype.Size(t, rows, cols)
	if host != nil && len(host) < size {
		panic(fmt.Sprintf("cuda: load: %d bytes for %d×%d of %v, which has %d", len(host), rows, cols, t, size))
	}
	b, err := c.take(p, t, rows*cols, int64(size))
	if err != nil {
		return kernels.Mat{}, err
	}
	b.rows = rows
	if host != nil {
		c.upload(b, host[:size])
	}
	return kernels.Mat{Buffer: b, Rows: rows, Cols: cols, Of: rows}, nil
}

// Free keeps the memory of b for another. nil is ignored, and so is a slice.
func (c *CUDA) Free(b kernels.Buffer) {
	if b == nil {
		return
	}
	x := b.(*Buf)
	if !x.owner {
		return
	}
	c.await(x) // who has the memory next
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case x.dev != c:
		panic("cuda: free: buffer of another device")
	case c.closed:
		return
	case x.freed:
		panic("cuda: free: buffer was freed before")
	}
	x.freed = true
	c.mem.Now[x.purpose] -= x.size
	if x.purpose == kernels.Host && x.size > 0 {
		size := kernels.SizeClass(x.size)
		c.keptHost[size] = append(c.keptHost[size], x.at)
	} else if x.size > 0 {
		size := kernels.SizeClass(x.size)
		c.kept[size] = append(c.kept[size], x.at)
		c.held += size
	}
}

// Slice views elements [off, off+n) of a plain buffer. It stays valid as long as
// b does.
func (c *CUDA) Slice(b kernels.Buffer, off, n int) kernels.Buffer {
	x := b.(*Buf)
	if x.t.Quantized() || off < 0 || n < 0 || off+n > x.n {
		panic(fmt.Sprintf("cuda: slice: %d+%d of %d elements of %v", off, n, x.n, x.t))
	}
	size := int64(x.t.Kind.Info().Bytes)
	root := x
	if x.root != nil {
		root = x.root
	}
	return &Buf{dev: c, t: x.t, n: n, purpose: x.purpose, at: ptr(x) + driver.Ptr(int64(off)*size), size: int64(n) * size, root: root}
}

// staged is the most that Upload copies aside instead of waiting.
const staged = 64 << 10

func (c *CUDA) upload(b *Buf, src []byte) {
	if len(src) == 0 {
		return
	}
	to := ptr(b)
	what := fmt.Sprintf("%d bytes for the device", len(src))
	if len(src) <= staged {
		src = append([]byte(nil), src...)
		c.post(what, func(d driver.Driver) error { return d.ToDevice(to, src) })
		return
	}
	done := make(chan struct{})
	c.queue <- task{run: func(d driver.Driver) {
		defer close(done)
		c.attempt(what, func() error { return d.ToDevice(to, src) })
	}}
	<-done
}

// Upload copies src, little-endian elements of dst's type, into dst.
func (c *CUDA) Upload(dst kernels.Buffer, src []byte) {
	b := dst.(*Buf)
	if b.size != int64(len(src)) {
		panic(fmt.Sprintf("cuda: upload: %d bytes into a buffer of %d", len(src), b.size))
	}
	c.upload(b, src)
}

// Download waits for src and copies it.
func (c *CUDA) Download(dst []byte, src kernels.Buffer) error {
	b := src.(*Buf)
	if b.size != int64(len(dst)) {
		panic(fmt.Sprintf("cuda: download: a buffer of %d bytes into %d", b.size, len(dst)))
	}
	from := ptr(b)
	err := c.wait(func(d driver.Driver) error {
		if c.lost() != nil || len(dst) == 0 {
			return nil
		}
		return d.ToHost(dst, from)
	})
	if err != nil {
		c.failed(c.explain(fmt.Sprintf("%d bytes from the device", len(dst)), err))
	}
	return c.lost()
}

// scratch is memory of one method; free it when its work is queued.
func (c *CUDA) scratch(t dtype.Kind, n int) *Buf {
	b, err := c.take(kernels.Scratch, dtype.Of(t), n, int64(n)*int64(t.Info().Bytes))
	if err != nil {
		panic(kernels.Failed{Err: err})
	}
	return b
}
