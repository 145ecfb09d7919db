package arch

import (
	"context"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Edit changes weights on their way from a model to its copy.
type Edit interface {
	// Touches reports whether Apply changes the tensor.
	Touches(t *Tensor) bool
	// Apply changes w, the rows from row0 on of the tensor as float32.
	Apply(t *Tensor, row0 int, w []float32) error
}

// Copy writes the tensors of outs, which are s's, to k. One that keeps its type
// and that e does not touch is copied as bytes; another is decoded, changed by e
// and rounded once, some rows at a time. What k has already is left alone, but
// shown to e. e may be nil: no change. progress is called with bytes done and in
// all; it may be nil. When ctx ends, Copy returns its error between two tensors,
// and k may be suspended.
//
// dev counts the memory that this takes.
func Copy(ctx context.Context, dev kernels.Backend, s *Source, k *Sink, outs []Out, e Edit, progress func(done, total int64)) error {
	c := copier{s: s, k: k, e: e}
	release, err := dev.Host(c.memory(outs))
	if err != nil {
		return err
	}
	defer release()
	var done, total int64
	for _, o := range outs {
		total += o.Bytes()
	}
	for _, o := range outs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.copy(o); err != nil {
			return err
		}
		done += o.Bytes()
		if progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// CopyMemory is the bytes of memory that Copy takes.
func CopyMemory(s *Source, outs []Out, e Edit) int64 {
	c := copier{s: s, e: e}
	return c.memory(outs)
}

// copier is one call of Copy. Its memory serves one tensor after another.
type copier struct {
	s    *Source
	k    *Sink
	e    Edit
	out  []byte    // a tensor as written
	rows []float32 // some rows of it
}

func (c *copier) copy(o Out) error {
	written := c.k.Has(o.Tensor)
	if written && !c.touches(o) {
		return nil
	}
	m, err := c.read(o)
	if err != nil || written {
		return err
	}
	defer c.s.Forget(o.Tensor)
	return c.k.Write(o.Tensor, m)
}

func (c *copier) touches(o Out) bool { return c.e != nil && c.e.Touches(o.Tensor) }

// same reports whether a tensor is copied as bytes.
func (c *copier) same(o Out) bool { return !c.touches(o) && o.Tensor.Type == o.Type }

// memory is what the largest tensors need: as read, where that is not the file's,
// some rows as float32, and as written.
func (c *copier) memory(outs []Out) int64 {
	var read, rows, out int64
	for _, o := range outs {
		rows = max(rows, int64(min(ChunkRows(o.Cols), o.Rows))*int64(o.Cols)*4)
		if !c.same(o) {
			out = max(out, o.Bytes())
		}
		if !c.s.Mapped(o.Tensor) {
			read = max(read, int64(dtype.Size(o.Tensor.Type, o.Rows, o.Cols)))
		}
	}
	return read + rows + out
}

// ReadOut returns the tensor of o, which is s's, in the type it is written as.
// Its bytes may be those of the mapped file, which end with Close.
func (s *Source) ReadOut(o Out) (block.Raw, error) {
	c := copier{s: s}
	return c.read(o)
}

// Bytes is the size of the tensor as written.
func (o Out) Bytes() int64 { return int64(dtype.Size(o.Type, o.Rows, o.Cols)) }

// ChunkRows is how many rows of cols values are held as float32 at a time when
// weights are converted. It is a function of cols alone: sums over a chunk must
// not depend on the machine.
func ChunkRows(cols int) int { return max(1, 1<<20/max(cols, 1)) }

// read is o's tensor, changed by the edit; its bytes are good until the next call.
// What is copied as bytes is looked through all the same: a damaged model is
// refused, not passed on.
func (c *copier) read(o Out) (block.Raw, error) {
	in, _, err := c.s.Read(o.Tensor)
	if err != nil {
		return in, err
	}
	touched, same := c.touches(o), c.same(o)
	if same && !decoded(in.Type) { // a table of whole numbers
		return in, nil
	}
	out := in
	if !same {
		if n := int(o.Bytes()); cap(c.out) < n {
			c.out = make([]byte, n)
		}
		c.out = c.out[:o.Bytes()]
		clear(c.out)
		out = block.Raw{Type: o.Type, Rows: in.Rows, Cols: in.Cols, Data: c.out}
	}
	step := ChunkRows(in.Cols)
	if n := min(step, in.Rows) * in.Cols; len(c.rows) < n {
		c.rows = make([]float32, n)
	}
	w := c.rows
	for r := 0; r < in.Rows; r += step {
		n := min(step, in.Rows-r)
		w := w[:n*in.Cols]
		block.DecodeRows(w, in, r)
		if touched {
			if err := c.e.Apply(o.Tensor, r, w); err != nil {
				return out, err
			}
		}
		if err := checkFits(o, r, w, touched); err != nil {
			return out, err
		}
		if same {
			continue
		}
		if err := block.EncodeRows(out, r, n, w, nil); err != nil {
			return out, fmt.Errorf("%s: %w", o.Name, err)
		}
	}
	return out, nil
}

// largestF16 is the largest finite half.
const largestF16 = 65504

// checkFits refuses values that o's type cannot hold. Those that are not finite are
// the source's fault unless it was touched: then of what was added to it.
func checkFits(o Out, row0 int, w []float32, touched bool) error {
	for i, v := range w {
		a := math.Abs(float64(v))
		row, col := row0+i/o.Cols, i%o.Cols
		if math.IsNaN(a) || math.IsInf(a, 0) {
			if !touched {
				return fail.Inputf(o.Name, "the source model is damaged; tune verify lists what is wrong with it", "row %d, column %d is %v", row, col, v)
			}
			return fail.Numericf(o.Name, "is the model, or what is added to it, damaged? tune verify lists what is wrong with a model", "row %d, column %d is %v", row, col, v)
		}
		if a > largestF16 && o.Type.Kind == dtype.F16 {
			return fail.Limitf(o.Name, "store it as bf16 or f32", "row %d, column %d is %g, the largest of f16 is %d", row, col, v, largestF16)
		}
	}
	return nil
}
