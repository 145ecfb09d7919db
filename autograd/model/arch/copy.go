package arch

import (
	"context"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
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
func Copy(ctx context.Context, s *Source, k *Sink, outs []Out, e Edit, progress func(done, total int64)) error {
	var done, total int64
	for _, o := range outs {
		total += o.Bytes()
	}
	for _, o := range outs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyOne(s, k, o, e); err != nil {
			return err
		}
		done += o.Bytes()
		if progress != nil {
			progress(done, total)
		}
	}
	return nil
}

func copyOne(s *Source, k *Sink, o Out, e Edit) error {
	written := k.Has(o.Tensor)
	if written && (e == nil || !e.Touches(o.Tensor)) {
		return nil
	}
	m, err := s.readAs(o, e)
	if err != nil || written {
		return err
	}
	defer s.Forget(o.Tensor)
	return k.Write(o.Tensor, m)
}

// ReadOut returns the tensor of o, which is s's, in the type it is written as.
// Its bytes may be those of the mapped file, which end with Close.
func (s *Source) ReadOut(o Out) (block.Raw, error) { return s.readAs(o, nil) }

// Bytes is the size of the tensor as written.
func (o Out) Bytes() int64 { return int64(dtype.Size(o.Type, o.Rows, o.Cols)) }

// ChunkRows is how many rows of cols values are held as float32 at a time when
// weights are converted. It is a function of cols alone: sums over a chunk must
// not depend on the machine.
func ChunkRows(cols int) int { return max(1, 1<<20/max(cols, 1)) }

// readAs reads o's tensor, changed by e. What is copied as bytes is looked
// through all the same: a damaged model is refused, not passed on.
func (s *Source) readAs(o Out, e Edit) (block.Raw, error) {
	in, _, err := s.Read(o.Tensor)
	if err != nil {
		return in, err
	}
	touched := e != nil && e.Touches(o.Tensor)
	same := !touched && in.Type == o.Type
	out := in
	if !same {
		out = block.New(o.Type, in.Rows, in.Cols)
	}
	step := ChunkRows(in.Cols)
	w := make([]float32, min(step, in.Rows)*in.Cols)
	for r := 0; r < in.Rows; r += step {
		n := min(step, in.Rows-r)
		w := w[:n*in.Cols]
		decodeRows(w, in, r)
		if touched {
			if err := e.Apply(o.Tensor, r, w); err != nil {
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

// decodeRows decodes the rows of m from row0 on that fill w.
func decodeRows(w []float32, m block.Raw, row0 int) {
	par.For(len(w)/m.Cols, max(1, 1<<14/m.Cols), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			block.Decode(w[i*m.Cols:(i+1)*m.Cols], m, row0+i, 0, m.Cols)
		}
	})
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
