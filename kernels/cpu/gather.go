package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Gather sums the chosen rows of the table, decoded, in order of choice.
func (c *CPU) Gather(y kernels.Dst, a *kernels.GatherArgs) {
	k, cols := wantGather("gather", a), a.Table.Cols
	want("gather: y", y.Buffer, a.N*cols)
	if y.Skip() {
		return
	}
	out, idx, weights, src := plainOf(y.Buffer), i32(a.Idx), f32(a.Weight), newRows(a.Table)
	par.For(a.N, rowGrain(k*cols), func(lo, hi int) {
		tmp := c.scratch.take(2 * cols)
		defer c.scratch.give(tmp)
		row, sum := tmp[:cols], tmp[cols:]
		for i := lo; i < hi; i++ {
			dst := sum
			if !y.Add {
				dst = out.into(sum, i*cols)
			}
			for j := i * k; j < (i+1)*k; j++ {
				switch w := weightOf(weights, j); {
				case j > i*k:
					vec.Axpy(dst, w, src.get(row, int(idx[j])))
				case weights == nil:
					src.decode(dst, int(idx[j]))
				default:
					vec.MulScale(dst, src.get(row, int(idx[j])), nil, w)
				}
			}
			if y.Add {
				out.store(dst, i*cols, true, row)
			} else {
				out.put(dst, i*cols)
			}
		}
	})
}

// wantGather panics on operands that are too short and returns the number of choices.
func wantGather(what string, a *kernels.GatherArgs) int {
	k := a.Choices()
	want(what+": idx", a.Idx, a.N*k)
	want(what+": weight", a.Weight, a.N*k)
	return k
}

func weightOf(w []float32, i int) float32 {
	if w == nil {
		return 1
	}
	return w[i]
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
	if x := s.get(dst, row); s.plain != nil {
		copy(dst, x)
	}
}

// get returns a row: where it lies, or decoded to tmp.
func (s rowSource) get(tmp []float32, row int) []float32 {
	if row < 0 || row >= s.m.Rows {
		panic(fmt.Sprintf("cpu: gather: row %d of a table of %d", row, s.m.Rows))
	}
	row += s.m.Row0
	if s.plain != nil {
		return s.plain[row*s.m.Cols:][:s.m.Cols]
	}
	block.Decode(tmp, s.raw, row, 0, s.m.Cols)
	return tmp
}

// GatherBackward: rows of dtable are summed in order of results and choices,
// work split by columns, so no two tasks meet; weights are split by results.
func (c *CPU) GatherBackward(dtable, dweight kernels.Dst, dy kernels.Buffer, a *kernels.GatherArgs) {
	k, cols := wantGather("gather backward", a), a.Table.Cols
	want("gather backward: dy", dy, a.N*cols)
	if !dtable.Skip() {
		want("gather backward: dtable", dtable.Buffer, a.Table.Rows*cols)
		c.scatter(dtable, plainOf(dy), a)
	}
	if dweight.Skip() {
		return
	}
	want("gather backward: dweight", dweight.Buffer, a.N*k)
	g, dw, idx, src := plainOf(dy), f32(dweight.Buffer), i32(a.Idx), newRows(a.Table)
	par.For(a.N, rowGrain(k*cols), func(lo, hi int) {
		tmp := c.scratch.take(2 * cols)
		defer c.scratch.give(tmp)
		for i := lo; i < hi; i++ {
			row := g.get(tmp[:cols], i*cols)
			for j := i * k; j < (i+1)*k; j++ {
				d := vec.Dot(row, src.get(tmp[cols:], int(idx[j])))
				if dweight.Add {
					d += dw[j]
				}
				dw[j] = d
			}
		}
	})
}

// scatter adds the rows of dy to those of dtable, in float32 also where dtable is bf16.
func (c *CPU) scatter(dtable kernels.Dst, dy plain, a *kernels.GatherArgs) {
	rows, cols := a.Table.Rows, a.Table.Cols
	out := plainOf(dtable.Buffer)
	sum := out.f
	if out.h != nil {
		s := c.workspace(rows * cols)
		defer s.free()
		sum = s.take(rows * cols)
	}
	switch {
	case !dtable.Add:
		c.eachRow(rows, cols, func(r int, _ []float32) { clear(sum[r*cols:][:cols]) })
	case out.h != nil:
		c.eachRow(rows, cols, func(r int, _ []float32) { out.copy(sum[r*cols:][:cols], r*cols) })
	}
	c.addRows(sum, dy, a)
	if out.h != nil {
		c.eachRow(rows, cols, func(r int, _ []float32) { out.put(sum[r*cols:][:cols], r*cols) })
	}
}

// addRows adds each row of dy, weighted, to the rows of table that were chosen for it.
func (c *CPU) addRows(table []float32, dy plain, a *kernels.GatherArgs) {
	k, rows, cols := a.Choices(), a.Table.Rows, a.Table.Cols
	idx, weights := i32(a.Idx), f32(a.Weight)
	par.For(cols, 64, func(lo, hi int) {
		w := hi - lo
		tmp := c.scratch.take(w)
		defer c.scratch.give(tmp)
		for i := range a.N {
			from := dy.get(tmp, i*cols+lo)
			for j := i * k; j < (i+1)*k; j++ {
				r := int(idx[j])
				if r < 0 || r >= rows {
					panic(fmt.Sprintf("cpu: gather backward: row %d of a table of %d", r, rows))
				}
				vec.Axpy(table[r*cols+lo:][:w], weightOf(weights, j), from)
			}
		}
	})
}
