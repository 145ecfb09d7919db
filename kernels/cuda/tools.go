package cuda

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

type colStatsArgs struct {
	y        dest
	x, group driver.Ptr
	rows     int64
	c, stat  int32
}

// ColStats reduces the columns of every group of rows, in order.
func (c *CUDA) ColStats(out kernels.Dst, a *kernels.ColStatsArgs) {
	if out.Skip() {
		return
	}
	if a.Stat > kernels.Min {
		panic(fmt.Sprintf("cuda: colstats: no statistic %d", a.Stat))
	}
	n := a.Groups.Len()
	s := &colStatsArgs{y: dest{f32("colstats: out", out.Buffer, n*a.Cols), 0, flag(out.Add)}, x: f32("colstats: x", a.X, a.Rows*a.Cols), rows: int64(a.Rows), c: int32(a.Cols), stat: int32(a.Stat)}
	if a.Groups.Offsets != nil {
		s.group = i32("colstats: groups", a.Groups.Offsets, n+1)
	}
	launch(c, "col_stats", driver.Dim{X: blocksOf(a.Cols, 64), Y: uint32(n), Z: 1}, driver.Dim{X: 64, Y: 1, Z: 1}, 0, s)
}

type rowStatsArgs struct {
	y         dest
	x, z      driver.Ptr
	n         int64
	run, stat int32
}

// RowStats reduces runs of columns, in order.
func (c *CUDA) RowStats(out kernels.Dst, a *kernels.RowStatsArgs) {
	if out.Skip() {
		return
	}
	n, run := a.Rows*a.Runs(), a.Run
	if run == 0 {
		run = a.Cols
	}
	if run*a.Runs() != a.Cols {
		panic(fmt.Sprintf("cuda: rowstats: runs of %d in rows of %d", run, a.Cols))
	}
	want("rowstats: out", out.Buffer, n)
	kind, typ := dtype.F32, int32(0)
	if out.Type().Kind == dtype.F64 && a.Stat >= kernels.SumXY {
		kind, typ = dtype.F64, 1
	}
	each(c, "row_stats", n, &rowStatsArgs{y: dest{typed(out.Buffer, kind), typ, flag(out.Add)}, x: f32("rowstats: x", a.X, n*run), z: f32("rowstats: y", a.Y, n*run),
		n: int64(n), run: int32(run), stat: int32(a.Stat)})
}

type gptqArgs struct {
	w, err, u, scale, zero, codes driver.Ptr
	rows, cols, top, _            int32
}

// GPTQBlock runs GPTQ's inner loop (Frantar et al. 2022, arXiv:2210.17323,
// algorithm 1) over one block of columns.
func (c *CUDA) GPTQBlock(g *kernels.GPTQArgs) {
	n := g.Rows * g.Cols
	want("gptq block: codes", g.Codes, n)
	if g.Cols > 128 { // eight lanes have 16 each
		panic(fmt.Sprintf("cuda: gptq block: %d columns", g.Cols))
	}
	each(c, "gptq_block", 8*roundUp(g.Rows, 4), &gptqArgs{w: f32("gptq block: w", g.W, n), err: f32("gptq block: err", g.Err, n), u: f32("gptq block: u", g.U, g.Cols*g.Cols),
		scale: f32("gptq block: scale", g.Scale, n), zero: f32("gptq block: zero", g.Zero, n), codes: typed(g.Codes, dtype.U8),
		rows: int32(g.Rows), cols: int32(g.Cols), top: int32(g.MaxCode)})
}

type fakeArgs struct {
	y                                                       dest
	x                                                       elems
	scale, clip                                             driver.Ptr
	n                                                       int64
	cols, group, groups, kind, bits, zero, scaleType, fixed int32
	fixedScale, fixedZero                                   float32
}

// FakeQuant rounds groups as an Int or Micro type would store them.
func (c *CUDA) FakeQuant(y kernels.Dst, a *kernels.FakeQuantArgs) {
	if y.Skip() {
		return
	}
	fixed := a.Grid != (kernels.Grid{})
	if fixed && (a.ColScale != nil || a.Clip != nil) {
		panic("cuda: fakequant: a grid goes with no scales and limits of its own")
	}
	rows, cols, n := a.Rows, a.Cols, a.Rows*a.Cols
	t, size := a.Type, int(a.Type.Group)
	if t.Group == dtype.AllRows {
		if a.ColScale != nil || a.Clip != nil {
			panic("cuda: fakequant: one scale for all rows goes with no scales and limits of its own")
		}
		if rows, cols = 1, n; n > math.MaxInt32 {
			c.lacks("rounding of more than 2³¹ inputs with one scale")
			return
		}
	}
	if size <= 0 {
		size = max(cols, 1)
	}
	groups := (cols + size - 1) / size
	f := &fakeArgs{y: destOf("fakequant: y", y, n), x: elemsOf("fakequant: x", a.X, n), scale: f32("fakequant: colscale", a.ColScale, cols), clip: f32("fakequant: clip", a.Clip, rows*groups),
		n: int64(rows * groups), cols: int32(cols), group: int32(size), groups: int32(groups), bits: int32(t.Bits()), zero: flag(t.Flags&dtype.Zero != 0),
		fixed: flag(fixed), fixedScale: a.Grid.Scale, fixedZero: a.Grid.Zero}
	switch family := t.Kind.Info().Family; {
	case family == dtype.Int:
		f.kind = 1
	case family == dtype.Micro:
		f.kind = storage[t.Kind] - 1 // 2 and 3
		if _, scales := elementTypes[t.Scale]; t.Kind == dtype.F4E2M1 || !scales || t.Flags&dtype.Nested != 0 {
			c.lacks("rounding of inputs to " + t.String())
			return
		}
	case t.Kind != dtype.F32:
		panic(fmt.Sprintf("cuda: fakequant: %v is neither an integer nor a small float type, nor F32", t))
	}
	f.scaleType = -1 // a Micro type without groups has no scale
	if t.Grouped() {
		f.scaleType = elementTypes[t.Scale]
	}
	each(c, "fake_quant", int(f.n), f)
}
