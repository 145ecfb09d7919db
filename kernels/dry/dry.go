// Package dry is a backend that computes nothing: it counts the bytes that
// would be allocated, by purpose and at their peak, and the work that would be
// done. Running a stage's own code on it makes a plan that is exact.
//
// Values are unknown: Download gives zeros. Only int32 buffers keep what was
// uploaded, since sequence lengths decide how much attention costs.
package dry

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Options of a dry backend.
type Options struct {
	MemoryLimit int64                // bytes over all purposes but Mapped; 0: none
	Process     kernels.ProcessLimit // as kernels.Info of the device that is planned for has it
	Beyond      bool                 // MemoryLimit is told, and refuses nothing
	Label       string               // what errors and Info call the device; "": dry
	Copies      bool                 // as kernels.Info of the device that is planned for has it
	Staged      int64                // likewise
	Working     kernels.Working      // of the device that is planned for; nil: methods work in no memory
}

// Work is what methods were asked to compute.
type Work struct {
	Matrix    float64 // floating point operations of matrix products
	Attention float64 // floating point operations of attention and scans
	Moved     float64 // bytes read and written by everything else
}

// Dry counts. It implements kernels.Backend.
type Dry struct {
	mu     sync.Mutex
	o      Options
	mem    kernels.MemStats
	peak   int64
	host   int64    // bytes that a device with memory of its own would pin
	staged []staged // of them, those of Stage
	work   Work
	calls  map[string]int
}

var _ kernels.Backend = (*Dry)(nil)

// New returns a backend that has allocated and done nothing.
func New(o Options) *Dry {
	if o.Label == "" {
		o.Label = "dry"
	}
	return &Dry{o: o, calls: map[string]int{}}
}

// Work is the work asked for since New.
func (d *Dry) Work() Work {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.work
}

// Calls is how often each method was called since New.
func (d *Dry) Calls() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]int, len(d.calls))
	for k, v := range d.calls {
		out[k] = v
	}
	return out
}

// add counts one call of a method.
func (d *Dry) add(method string, w Work) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[method]++
	d.work.Matrix += w.Matrix
	d.work.Attention += w.Attention
	d.work.Moved += w.Moved
}

// Buf is memory that is only counted.
type Buf struct {
	t       dtype.Type
	n       int
	size    int64
	purpose kernels.Purpose
	owner   bool
	freed   bool
	root    *Buf    // of a slice; itself otherwise
	off     int     // of a slice, in elements of root
	ints    []int32 // of a root: what was uploaded, nil while nothing was
}

// Type is the element type.
func (b *Buf) Type() dtype.Type { return b.t }

// Len is the number of elements.
func (b *Buf) Len() int { return b.n }

// values returns the int32 elements of b, or nil when they were never uploaded.
func values(b kernels.Buffer) []int32 {
	if b == nil {
		return nil
	}
	x := b.(*Buf)
	if x.root.ints == nil {
		return nil
	}
	return x.root.ints[x.off : x.off+x.n]
}

// Info describes what would be in use.
func (d *Dry) Info() kernels.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return kernels.Info{Name: d.o.Label, Level: "dry", Address: d.o.Label + "/dry", Threads: 1, Limit: d.o.MemoryLimit, Process: d.o.Process, Copies: d.o.Copies, Staged: d.o.Staged, Mem: d.mem, PeakTotal: d.peak}
}

// ResetCounters makes what is in use now the peak. Work and Calls go on.
func (d *Dry) ResetCounters() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mem.Peak, d.peak = d.mem.Now, d.total()
}

// Close has nothing to give back; what was counted can still be read.
func (d *Dry) Close() {}

// Run calls step. A method that cannot get its scratch memory ends it there.
func (d *Dry) Run(step func() error) error { return kernels.Step(step) }

// scratch counts the working memory of one method.
func (d *Dry) scratch(size int64) {
	b, err := d.take(kernels.Scratch, dtype.Of(dtype.U8), int(size), size)
	if err != nil {
		panic(kernels.Failed{Err: err})
	}
	d.Free(b)
}

// works counts the working memory of one method, as bytes knows it.
func (d *Dry) works(bytes func(w kernels.Working) int64) {
	if d.o.Working != nil {
		d.scratch(bytes(d.o.Working))
	}
}

// product counts the working memory of one product.
func (d *Dry) product(p kernels.ProductShape) {
	d.works(func(w kernels.Working) int64 { return w.Product(p) })
}

// kindOf is how an operand is stored.
func kindOf(b kernels.Buffer) dtype.Kind {
	if b == nil {
		return dtype.F32
	}
	return b.Type().Kind
}

// Alloc counts n elements of a plain type.
func (d *Dry) Alloc(p kernels.Purpose, t dtype.Type, n int) (kernels.Buffer, error) {
	if t.Quantized() || n < 0 {
		panic(fmt.Sprintf("dry: alloc: %d elements of %v", n, t))
	}
	b, err := d.take(p, t, n, int64(n)*int64(t.Kind.Info().Bytes))
	if err != nil {
		return nil, err
	}
	return b, nil
}

// elsewhere says that memory of the host is another than the device's.
func (d *Dry) elsewhere(p kernels.Purpose) bool { return d.o.Copies && p == kernels.Host }

// total is what counts against the limit.
func (d *Dry) total() int64 { return kernels.Counted(d.mem.Now, d.o.Copies) }

func (d *Dry) take(p kernels.Purpose, t dtype.Type, n int, size int64) (*Buf, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == kernels.Mapped && d.o.Copies {
		p = kernels.Weights
	}
	total := d.total()
	if p != kernels.Mapped && !d.elsewhere(p) {
		total += size
		if d.o.MemoryLimit > 0 && total > d.o.MemoryLimit && !d.o.Beyond {
			return nil, &kernels.MemoryError{Purpose: p, Asked: size, Limit: d.o.MemoryLimit, Process: d.o.Process, Copies: d.o.Copies, InUse: d.mem.Now, DeviceLabel: d.o.Label}
		}
	}
	if d.elsewhere(p) && !d.pin(size) {
		return nil, &kernels.MemoryError{Purpose: p, Asked: size, Limit: d.o.Staged, Copies: true, InUse: d.mem.Now, DeviceLabel: d.o.Label}
	}
	d.mem.Now[p] += size
	d.mem.Peak[p] = max(d.mem.Peak[p], d.mem.Now[p])
	d.peak = max(d.peak, total)
	b := &Buf{t: t, n: n, size: size, purpose: p, owner: true}
	b.root = b
	return b, nil
}

// Host counts memory of the caller's, and nothing for a device with its own.
func (d *Dry) Host(n int64) (release func(), err error) {
	if d.o.Copies {
		return func() {}, nil
	}
	b, err := d.take(kernels.Host, dtype.Of(dtype.U8), int(n), n)
	if err != nil {
		return nil, err
	}
	return func() { d.Free(b) }, nil
}

// Load counts a weight. host may be nil: a plan knows shapes, not bytes.
func (d *Dry) Load(p kernels.Purpose, t dtype.Type, rows, cols int, _ []byte, _ kernels.Use) (kernels.Mat, error) {
	b, err := d.take(p, t, rows*cols, int64(dtype.Size(t, rows, cols)))
	if err != nil {
		return kernels.Mat{}, err
	}
	return kernels.Mat{Buffer: b, Rows: rows, Cols: cols, Of: rows}, nil
}

// Free takes b off the count. Freeing twice panics.
func (d *Dry) Free(b kernels.Buffer) {
	if b == nil {
		return
	}
	x := b.(*Buf)
	if !x.owner {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if x.freed {
		panic("dry: free: buffer was freed before")
	}
	x.freed, x.ints = true, nil
	d.mem.Now[x.purpose] -= x.size
	if d.elsewhere(x.purpose) && x.size > 0 {
		d.host -= kernels.SizeClass(x.size)
	}
}

// Slice views elements [off, off+n) of a plain buffer.
func (d *Dry) Slice(b kernels.Buffer, off, n int) kernels.Buffer {
	x := b.(*Buf)
	if x.t.Quantized() || off < 0 || n < 0 || off+n > x.n {
		panic(fmt.Sprintf("dry: slice: %d+%d of %d elements of %v", off, n, x.n, x.t))
	}
	return &Buf{t: x.t, n: n, purpose: x.purpose, root: x.root, off: x.off + off}
}

// Upload keeps the values of int32 buffers.
func (d *Dry) Upload(dst kernels.Buffer, src []byte) {
	x := dst.(*Buf)
	if len(src) != x.n*x.t.Kind.Info().Bytes {
		panic(fmt.Sprintf("dry: upload: %d bytes into %d elements of %v", len(src), x.n, x.t))
	}
	if x.t.Kind != dtype.I32 {
		return
	}
	if x.root.ints == nil {
		x.root.ints = make([]int32, x.root.n)
	}
	for i := range x.n {
		x.root.ints[x.off+i] = int32(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// Download gives zeros.
func (d *Dry) Download(dst []byte, src kernels.Buffer) error {
	x := src.(*Buf)
	size := x.n * x.t.Kind.Info().Bytes
	if x.t.Quantized() {
		size = int(x.size)
	}
	if len(dst) != size {
		panic(fmt.Sprintf("dry: download: %d elements of %v into %d bytes", x.n, x.t, len(dst)))
	}
	clear(dst)
	return nil
}

// Fill counts the bytes written.
func (d *Dry) Fill(dst kernels.Buffer, _ float32) { d.add("Fill", moved(dst)) }
