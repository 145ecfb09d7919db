package gguf

import (
	"context"
	"unsafe"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// encoder writes one tensor while it encodes the next.
type encoder struct {
	ctx      context.Context
	in       *input
	w        formats.Writer
	o        *Options
	rep      *Report
	progress func(done, total int64)
	done     int64
	buf      []float32  // decoded rows
	out      [2][]byte  // encoded tensors: the one in work and the one being written
	written  chan error // of the tensor being written; nil: none
}

// write hands a tensor to the writer once it has finished the one before.
func (g *encoder) write(name string, data []byte) error {
	if err := g.flush(); err != nil {
		return err
	}
	written := make(chan error, 1)
	g.written = written
	go func() {
		var err error
		defer func() { written <- err }()
		defer formats.CatchFaults(&err)() // the data may be the model's own
		err = g.w.Write(name, data)
	}()
	return nil
}

// flush waits for the writer.
func (g *encoder) flush() error {
	if g.written == nil {
		return nil
	}
	err := <-g.written
	g.written = nil
	return err
}

// room is memory for an encoded tensor. The tensor before the last one, which
// has been written, gives its own.
func (g *encoder) room(n int) []byte {
	g.out[0], g.out[1] = g.out[1], g.out[0]
	if cap(g.out[0]) < n {
		g.out[0] = make([]byte, n)
	}
	return g.out[0][:n]
}

// Memory is the bytes of memory that Write takes for tensors of these choices: two
// of them encoded, and some rows as float32.
func Memory(choices []Choice) int64 {
	var out [2]int
	rows := 0
	for i := range choices {
		c := &choices[i]
		if c.Type == c.To {
			continue
		}
		p := formats.TensorPlan{Shape: c.Shape, Type: c.To}
		out[0], out[1] = max(out[1], p.Size()), out[0]
		rows = max(rows, min(max(1, encodeStep/max(p.Cols(), 1)), p.Rows())*p.Cols())
	}
	return int64(out[0]) + int64(out[1]) + 4*int64(rows)
}

func (g *encoder) suspend(out string) error {
	if err := g.w.Suspend(); err != nil {
		return err
	}
	return fail.Interruptedf(out, "run the same command again to go on", "interrupted")
}

func (g *encoder) tensor(c *Choice) error {
	p := formats.TensorPlan{Shape: c.Shape, Type: c.To}
	if !g.w.Has(c.Name) {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		data, from, err := g.in.bytes(c)
		if err != nil {
			return err
		}
		if from != c.To {
			if data, err = g.encode(c, from, data); err != nil {
				return err
			}
		}
		if err := g.write(c.Name, data); err != nil {
			return err
		}
	}
	g.done += int64(p.Rows()) * int64(p.Cols())
	if g.progress != nil {
		g.progress(g.done, g.rep.Elements)
	}
	return nil
}

// encode converts a tensor a few rows at a time; each expert has its own
// importance.
func (g *encoder) encode(c *Choice, from dtype.Type, data []byte) ([]byte, error) {
	e, err := importanceOf(g.o.Imatrix, c)
	if err != nil {
		return nil, err
	}
	p := formats.TensorPlan{Shape: c.Shape, Type: c.To}
	rows, cols := p.Rows(), p.Cols()
	src := block.Raw{Type: from, Rows: rows, Cols: cols, Data: data}
	dst := block.Raw{Type: c.To, Rows: rows, Cols: cols, Data: g.room(p.Size())}
	if err := src.Check(); err != nil {
		return nil, fail.Inputf(c.Name, "", "%w", err)
	}
	var weights []float32
	per := rows // rows that share an importance vector
	if e != nil {
		weights = e.Values()
		per = rows / max(len(weights)/max(cols, 1), 1)
	}
	step := max(1, encodeStep/max(cols, 1))
	for r := 0; r < rows; {
		n := min(step, rows-r, per-r%per)
		if err := g.ctx.Err(); err != nil {
			return nil, err
		}
		var w []float32
		if weights != nil {
			w = weights[r/per*cols:][:cols]
		}
		if err := encodeRows(c.Name, dst, r, n, g.rows(src, r, n), w); err != nil {
			return nil, err
		}
		r += n
	}
	return dst.Data, nil
}

// encodeStep is the number of elements that are decoded and encoded together.
const encodeStep = 1 << 19

// encodeRows encodes values that must be finite.
func encodeRows(name string, dst block.Raw, row0, rows int, x, w []float32) error {
	checked := dst.Type.Quantized() // by the encoder
	if !checked {
		if err := formats.CheckFinite(name, x, row0, dst.Cols); err != nil {
			return err
		}
	}
	err := block.EncodeRows(dst, row0, rows, x, w)
	if err == nil {
		return nil
	}
	if checked {
		if err := formats.CheckFinite(name, x, row0, dst.Cols); err != nil {
			return err
		}
	}
	return fail.Inputf(name, "the model holds values that no file of this type can; check it with tune verify", "%w", err)
}

// rows are n rows of m from row0 on: F32 as it lies in the file, anything else
// decoded.
func (g *encoder) rows(m block.Raw, row0, n int) []float32 {
	if x := f32View(m); x != nil {
		return x[row0*m.Cols : (row0+n)*m.Cols]
	}
	if len(g.buf) < n*m.Cols {
		g.buf = make([]float32, n*m.Cols)
	}
	x := g.buf[:n*m.Cols]
	par.For(n, max(1, 16384/max(m.Cols, 1)), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			block.Decode(x[r*m.Cols:(r+1)*m.Cols], m, row0+r, 0, m.Cols)
		}
	})
	return x
}

// f32View views the values of an F32 matrix where they lie, nil when they are
// of another type or not aligned.
func f32View(m block.Raw) []float32 {
	if m.Type != dtype.Of(dtype.F32) || len(m.Data) == 0 || uintptr(unsafe.Pointer(&m.Data[0]))%4 != 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&m.Data[0])), len(m.Data)/4)
}
