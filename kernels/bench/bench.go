// Package bench measures the operations of a backend, each beside the limit of
// the machine that it should come close to.
package bench

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"runtime"
	"slices"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Limit is what bounds an operation.
type Limit string

// The limits. None is for operations that nothing known bounds.
const (
	None Limit = ""
	F32  Limit = "f32"  // multiply-adds on registers, GFLOP/s
	BF16 Limit = "bf16" // bf16 dot products on registers, GFLOP/s
	Read Limit = "read" // streaming from memory, GB/s
	Copy Limit = "copy" // two arrays read and one written, GB/s of all three
)

// Row is one measured operation.
type Row struct {
	Group  string  `json:"group"`
	Name   string  `json:"name"`
	Rate   float64 `json:"rate"`   // of the fastest call, in Unit
	Median float64 `json:"median"` // of the median call
	Unit   string  `json:"unit"`
	Limit  Limit   `json:"limit,omitempty"`
	Peak   float64 `json:"peak,omitempty"`  // of the limit, measured around the calls
	Share  float64 `json:"share,omitempty"` // Rate / Peak
	Calls  int     `json:"calls"`
}

// Options of a run.
type Options struct {
	Filter   *regexp.Regexp        // of "group/name"; nil: everything
	Time     time.Duration         // of calls a row
	Peak     func(l Limit) float64 // of the machine at this moment, all threads; nil or 0: rows have no share
	Progress func(done, total int64)
	Row      func(Row) error // sees every row as it is finished
}

// op is an operation ready to be called.
type op struct {
	work  float64 // of one call
	unit  string  // of work a second
	limit Limit
	call  func()
	raw   bool // work is not divided by the time: call returns its own rate through x.rate
}

// row is an operation that can be set up.
type row struct {
	group, name string
	setup       func(x *env) op
}

// env is what a row's setup works with: the backend, memory that is freed
// after the row, and the first error.
type env struct {
	kernels.Backend
	bufs []kernels.Buffer
	err  error
	rate float64 // see op.raw
	time time.Duration
}

// Run measures every row that the filter lets through.
func Run(dev kernels.Backend, o Options) error {
	list := slices.DeleteFunc(rows(dev), func(r row) bool { return o.Filter != nil && !o.Filter.MatchString(r.group+"/"+r.name) })
	for i, r := range list {
		if o.Progress != nil {
			o.Progress(int64(i), int64(len(list)))
		}
		runtime.GC()
		out := Row{Group: r.group, Name: r.name}
		err := dev.Run(func() error { return measure(dev, r, o, &out) })
		if err != nil {
			return fmt.Errorf("%s %s: %w", r.group, r.name, err)
		}
		if err := o.Row(out); err != nil {
			return err
		}
	}
	return nil
}

// measure fills out: calls for the time of a row, in three parts with the limit
// measured around each.
func measure(dev kernels.Backend, r row, o Options, out *Row) error {
	x := &env{Backend: dev, time: o.Time}
	defer x.free()
	p := r.setup(x)
	if x.err != nil {
		return x.err
	}
	out.Unit, out.Limit = p.unit, p.limit
	if p.raw {
		p.call()
		out.Rate, out.Median, out.Calls = x.rate, x.rate, 1
		return x.err
	}
	sync, err := x.fence()
	if err != nil {
		return err
	}
	var each []float64 // seconds a call
	limit := func() {
		if o.Peak != nil && p.limit != None {
			out.Peak = max(out.Peak, o.Peak(p.limit))
		}
	}
	batch := func(n int) float64 {
		t := time.Now()
		for range n {
			p.call()
		}
		sync()
		return time.Since(t).Seconds() / float64(n)
	}
	first := batch(1) // also warms up
	n := max(1, int(20e-6/max(first, 1e-9)))
	limit()
	for part := range 3 {
		began := time.Now()
		for len(each) <= part || time.Since(began) < o.Time/3 {
			if first > max(1, 3*o.Time.Seconds()) { // too slow to be called again
				each, out.Calls = append(each, first), 1
				break
			}
			each = append(each, batch(n))
			out.Calls += n
		}
		limit()
	}
	slices.Sort(each)
	out.Rate, out.Median = p.work/each[0], p.work/each[len(each)/2]
	if out.Peak > 0 {
		out.Share = out.Rate / out.Peak
	}
	return nil
}

// fence returns a function that waits for everything called before it.
func (x *env) fence() (func(), error) {
	b := x.empty(1)
	if x.err != nil {
		return nil, x.err
	}
	x.Fill(b, 0)
	raw := make([]byte, 4)
	return func() {
		if err := x.Download(raw, b); err != nil && x.err == nil {
			x.err = err
		}
	}, nil
}

func (x *env) free() {
	for _, b := range x.bufs {
		x.Free(b)
	}
}

// alloc returns n elements; after an error it returns nil.
func (x *env) alloc(k dtype.Kind, n int) kernels.Buffer {
	if x.err != nil {
		return nil
	}
	b, err := x.Alloc(kernels.Scratch, dtype.Of(k), n)
	if err != nil {
		x.err = err
		return nil
	}
	x.bufs = append(x.bufs, b)
	return b
}

// empty returns n floats that are 0.
func (x *env) empty(n int) kernels.Buffer {
	b := x.alloc(dtype.F32, n)
	if x.err == nil {
		x.Fill(b, 0)
	}
	return b
}

// random returns n floats within ±1, the same each time.
func (x *env) random(n int) kernels.Buffer {
	b := x.alloc(dtype.F32, n)
	if x.err == nil {
		raw := make([]byte, 4*n)
		block.PutF32(raw, noise(n))
		x.Upload(b, raw)
	}
	return b
}

// half returns x rounded to bf16.
func (x *env) half(f kernels.Buffer) kernels.Buffer {
	if x.err != nil {
		return nil
	}
	b := x.alloc(dtype.BF16, f.Len())
	if x.err == nil {
		x.Add(kernels.To(b), &kernels.AddArgs{N: f.Len(), A: f, Alpha: 1})
	}
	return b
}

// ints returns a buffer of int32.
func (x *env) ints(v ...int32) kernels.Buffer {
	b := x.alloc(dtype.I32, len(v))
	if x.err == nil {
		raw := make([]byte, 0, 4*len(v))
		for _, i := range v {
			raw = append(raw, byte(i), byte(i>>8), byte(i>>16), byte(i>>24))
		}
		x.Upload(b, raw)
	}
	return b
}

// weight returns a matrix of any type. Its first rows are encoded noise, which
// the others repeat.
func (x *env) weight(t dtype.Type, rows, cols int) kernels.Mat {
	if x.err != nil {
		return kernels.Mat{}
	}
	raw := block.New(t, rows, cols)
	part := block.New(t, min(rows, 64), cols)
	if x.err = block.Encode(part, noise(part.Rows*cols), evenly(t, cols)); x.err != nil {
		return kernels.Mat{}
	}
	for p := range dtype.NumPlanes {
		repeat(raw.Plane(p), part.Plane(p))
	}
	m, err := x.Load(kernels.Weights, t, rows, cols, raw.Data, kernels.Copy)
	if err != nil {
		x.err = err
		return kernels.Mat{}
	}
	x.bufs = append(x.bufs, m.Buffer)
	return m
}

// repeat fills dst with copies of src.
func repeat(dst, src []byte) {
	for n := copy(dst, src); n > 0 && n < len(dst); n *= 2 {
		copy(dst[n:], dst[:n])
	}
}

// noise is n numbers within ±1 from a counter.
func noise(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		h := bits.RotateLeft32(uint32(i)*0x9e3779b1, 13) * 0x85ebca6b
		out[i] = float32(int32(h^h>>15)) / math.MaxInt32
	}
	return out
}
