package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Gather decodes row idx[i] of the table into row i of y.
func (c *CPU) Gather(y kernels.Dst, table kernels.Mat, idx kernels.Buffer, n int) {
	cols := table.Cols
	want("gather: y", y.Buffer, n*cols)
	want("gather: idx", idx, n)
	if y.Skip() {
		return
	}
	out, rows, src := f32(y.Buffer), i32(idx), newRows(table)
	par.For(n, rowGrain(cols), func(lo, hi int) {
		tmp := c.scratch.take(cols)
		defer c.scratch.give(tmp)
		for i := lo; i < hi; i++ {
			dst := out[i*cols : (i+1)*cols]
			if y.Add {
				src.decode(tmp, int(rows[i]))
				vec.Axpy(dst, 1, tmp)
			} else {
				src.decode(dst, int(rows[i]))
			}
		}
	})
}

// rowSource decodes rows of a Mat.
type rowSource struct {
	m     kernels.Mat
	plain []float32 // f32 weights in place
	raw   block.Raw
}

func newRows(m kernels.Mat) rowSource {
	s := rowSource{m: m, raw: rawMat(m)}
	if m.Type().Kind == dtype.F32 {
		s.plain = f32(m.Buffer)
	}
	return s
}

// rawMat is the whole stored matrix that m views.
func rawMat(m kernels.Mat) block.Raw {
	return block.Raw{Type: m.Type(), Rows: m.Of, Cols: m.Cols, Data: raw(m.Buffer)}
}

func (s rowSource) decode(dst []float32, row int) {
	if row < 0 || row >= s.m.Rows {
		panic(fmt.Sprintf("cpu: gather: row %d of a table of %d", row, s.m.Rows))
	}
	row += s.m.Row0
	if s.plain != nil {
		copy(dst, s.plain[row*s.m.Cols:(row+1)*s.m.Cols])
		return
	}
	block.Decode(dst, s.raw, row, 0, s.m.Cols)
}

// GatherBackward adds row i of dy to row idx[i] of dtable, in order of i for
// every row. Work is split by columns, so no two tasks meet.
func (c *CPU) GatherBackward(dtable kernels.Dst, dy, idx kernels.Buffer, n, cols int) {
	if dtable.Skip() {
		return
	}
	want("gather backward: dy", dy, n*cols)
	want("gather backward: idx", idx, n)
	if dtable.Len()%max(cols, 1) != 0 {
		panic(fmt.Sprintf("cpu: gather backward: table of %d elements, rows of %d", dtable.Len(), cols))
	}
	if !dtable.Add {
		c.Fill(dtable.Buffer, 0)
	}
	d, g, rows := f32(dtable.Buffer), f32(dy), i32(idx)
	par.For(cols, 64, func(lo, hi int) {
		for i, r := range rows[:n] {
			at := int(r) * cols
			vec.Axpy(d[at+lo:at+hi], 1, g[i*cols+lo:i*cols+hi])
		}
	})
}
