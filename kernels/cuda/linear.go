package cuda

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Where dropout applies, and what groups split.
const (
	dropA = iota + 1
	dropB
	dropOut
)

const (
	splitM = iota + 1
	splitK
)

type dropArgs struct {
	seed      uint64
	key, rows driver.Ptr
	threshold uint32
	scale     float32
	where, _  int32
}

func dropOf(d *kernels.Drop, n, where int) dropArgs {
	if d == nil {
		return dropArgs{}
	}
	threshold, scale := d.DropThreshold()
	if d.Rows == nil {
		want("drop: key", d.Key, n)
	}
	return dropArgs{seed: d.DropSeed(), key: typed(d.Key, dtype.I64), rows: i32("drop: rows", d.Rows, n), threshold: threshold, scale: scale, where: int32(where)}
}

// gemmArgs is GemmArgs of linear.cu.
type gemmArgs struct {
	a, b, a2, b2                      mat
	c                                 dest
	bias                              elems
	group                             driver.Ptr
	bStep, b2Step, cStep, biasStep    int64
	drop                              dropArgs
	m, n, k, k2, ta, tb, split, round int32 // round: to BF16 or F16 of common.h; F32: not at all
	alpha                             float32
	fast                              int32 // operands may be rounded to bf16; no business of the kernel
}

// rounding is the type of elements that operands are rounded to as they are multiplied.
func rounding(bf16, f16 bool) int32 {
	switch {
	case f16:
		return elementTypes[dtype.F16]
	case bf16:
		return elementTypes[dtype.BF16]
	}
	return elementTypes[dtype.F32]
}

// gemm queues a product of parts.
func (c *CUDA) gemm(g *gemmArgs, parts int) {
	const tile = 64
	if g.m == 0 || g.n == 0 {
		return
	}
	if a, name, blocks, ok := g.thinOf(parts); ok {
		launch(c, name, blocks, driver.Dim{X: 256, Y: 1, Z: 1}, 0, a)
		return
	}
	if kind := g.halfKind(); kind != dtype.F32 || c.tf32 && (g.ta != 0 || g.m > thin) {
		c.mma(g, parts, kind)
		return
	}
	launch(c, "gemm", driver.Dim{X: blocksOf(int(g.n), tile), Y: blocksOf(int(g.m), tile), Z: uint32(parts)}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, g)
}

func alphaOf(a float32) float32 {
	if a == 0 {
		return 1
	}
	return a
}

// Linear: y = Alpha·drop(x)·Wᵀ + bias + u·Bᵀ.
func (c *CUDA) Linear(y kernels.Dst, a *kernels.LinearArgs) {
	if y.Skip() {
		return
	}
	out, in := a.Out(), a.W.Cols
	g := &gemmArgs{a: c.rowsOf("linear: x", a.X, a.N, in), b: c.matOf("linear: w", a.W), c: destOf("linear: y", y, a.N*out),
		bias: elemsOf("linear: bias", a.Bias, a.Parts()*out), m: int32(a.N), n: int32(out), k: int32(in), tb: 1,
		round: rounding(a.BF16, a.F16), fast: flag(a.Fast), alpha: alphaOf(a.Alpha), drop: dropOf(a.Drop, a.N, dropA)}
	if a.U != nil {
		g.a2, g.b2, g.k2 = c.rowsOf("linear: u", a.U, a.N, a.B.Cols), c.matOf("linear: b", a.B), int32(a.B.Cols)
	}
	if a.Group != nil {
		g.group, g.split = i32("linear: group", a.Group, a.Experts+1), splitM
		g.bStep, g.b2Step, g.biasStep = int64(out), int64(out), int64(out)
	}
	if name := int8Kernel(a.W.Type(), a.N, in); name != "" && c.int8.of(a.N).on && a.Fast && !a.F16 && a.U == nil && a.Drop == nil && out > 0 {
		c.multiply8(g, name, a.Parts())
		return
	}
	c.gemm(g, a.Parts())
}

// LinearBackward: dx = Alpha·dy·W (masked by Drop) + U·B, dw = Alpha·dyᵀ·drop(X),
// dbias the column sums of dy.
func (c *CUDA) LinearBackward(dx, dw, dbias kernels.Dst, dy kernels.Buffer, a *kernels.LinearArgs) {
	out, in, parts := a.Out(), a.W.Cols, a.Parts()
	var group driver.Ptr
	if a.Group != nil {
		group = i32("linear backward: group", a.Group, a.Experts+1)
	}
	g := c.rowsOf("linear backward: dy", dy, a.N, out)
	if !dx.Skip() {
		k := &gemmArgs{a: g, b: c.matOf("linear backward: w", a.W), c: destOf("linear backward: dx", dx, a.N*in), m: int32(a.N), n: int32(in), k: int32(out),
			round: rounding(a.BF16, a.F16), alpha: alphaOf(a.Alpha), drop: dropOf(a.Drop, a.N, dropOut)}
		if a.U != nil {
			r := a.B.Rows / parts
			k.a2, k.b2, k.k2, k.b2Step = c.rowsOf("linear backward: u", a.U, a.N, r), c.matOf("linear backward: b", a.B), int32(r), int64(r)
		}
		if group != 0 {
			k.group, k.split, k.bStep = group, splitM, int64(out)
		}
		c.gemm(k, parts)
	}
	if !dw.Skip() {
		k := &gemmArgs{a: g, b: c.rowsOf("linear backward: x", a.X, a.N, in), c: destOf("linear backward: dw", dw, parts*out*in), m: int32(out), n: int32(in), k: int32(a.N), ta: 1,
			round: rounding(a.BF16, a.F16), alpha: alphaOf(a.Alpha), drop: dropOf(a.Drop, a.N, dropB)}
		if group != 0 {
			k.group, k.split, k.cStep = group, splitK, int64(out)
		}
		c.gemm(k, parts)
	}
	if !dbias.Skip() {
		c.colSums(destOf("linear backward: dbias", dbias, parts*out), elemsOf("linear backward: dy", dy, a.N*out), elems{}, group, parts, a.N, out)
	}
}

// Gemm: c = Alpha·op(A)·op(B).
func (c *CUDA) Gemm(dst kernels.Dst, a *kernels.GemmArgs) {
	if dst.Skip() {
		return
	}
	plain := func(what string, b kernels.Buffer, rows, cols, ld int) mat {
		m := c.rowsOf(what, b, 1, kernels.Span(rows, cols, ld))
		m.cols = int32(ld)
		return m
	}
	ra, ca, lda := a.ShapeA()
	rb, cb, ldb := a.ShapeB()
	c.gemm(&gemmArgs{a: plain("gemm: a", a.A, ra, ca, lda), b: plain("gemm: b", a.B, rb, cb, ldb), c: destOf("gemm: c", dst, a.M*a.N),
		m: int32(a.M), n: int32(a.N), k: int32(a.K), ta: flag(a.TA), tb: flag(a.TB), alpha: a.Alpha}, 1)
}

// Gram: h = XᵀX for every group of rows.
func (c *CUDA) Gram(h kernels.Dst, a *kernels.GramArgs) {
	if h.Skip() {
		return
	}
	n := a.Groups.Len()
	x := c.rowsOf("gram: x", a.X, a.Rows, a.Cols)
	g := &gemmArgs{a: x, b: x, c: destOf("gram: h", h, n*a.Cols*a.Cols), m: int32(a.Cols), n: int32(a.Cols), k: int32(a.Rows), ta: 1, alpha: 1}
	if a.Groups.Offsets != nil {
		g.group, g.split, g.cStep = i32("gram: groups", a.Groups.Offsets, n+1), splitK, int64(a.Cols)
	}
	c.gemm(g, n)
}

type decodeArgs struct {
	m mat
	y driver.Ptr
	n int64
}

// Dequantize writes m decoded, [m.Rows, m.Cols] f32.
func (c *CUDA) Dequantize(dst kernels.Buffer, m kernels.Mat) {
	n := m.Rows * m.Cols
	each(c, "decode", n, &decodeArgs{c.matOf("dequantize", m), f32("dequantize", dst, n), int64(n)})
}

type gatherArgs struct {
	table       mat
	y, dweight  dest
	dy          elems
	idx, weight driver.Ptr
	n           int64
	k, v        int32
}

func (c *CUDA) gatherOf(what string, a *kernels.GatherArgs) *gatherArgs {
	k := a.Choices()
	return &gatherArgs{idx: i32(what+": idx", a.Idx, a.N*k), weight: f32(what+": weight", a.Weight, a.N*k), n: int64(a.N), k: int32(k), v: int32(a.Table.Rows), table: mat{cols: int32(a.Table.Cols)}}
}

// Gather: y[n] = Σ_j Weight[n,j]·Table[Idx[n,j]], decoded.
func (c *CUDA) Gather(y kernels.Dst, a *kernels.GatherArgs) {
	if y.Skip() {
		return
	}
	g := c.gatherOf("gather", a)
	g.table, g.y = c.matOf("gather: table", a.Table), destOf("gather: y", y, a.N*a.Table.Cols)
	each(c, "gather", a.N*a.Table.Cols, g)
}

// GatherBackward: dtable[Idx[n,j]] += Weight[n,j]·dy[n], in order of n, then j;
// dweight[n,j] = dy[n]·Table[Idx[n,j]].
func (c *CUDA) GatherBackward(dtable, dweight kernels.Dst, dy kernels.Buffer, a *kernels.GatherArgs) {
	g := c.gatherOf("gather backward", a)
	cols := a.Table.Cols
	g.dy = elemsOf("gather backward: dy", dy, a.N*cols)
	if !dtable.Skip() {
		g.y = destOf("gather backward: dtable", dtable, a.Table.Rows*cols)
		launch(c, "gather_grad", driver.Dim{X: uint32(a.Table.Rows), Y: blocksOf(cols, 256), Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, g)
	}
	if !dweight.Skip() {
		g.table, g.dweight = c.matOf("gather backward: table", a.Table), destOf("gather backward: dweight", dweight, a.N*a.Choices())
		rows(c, "gather_dweight", a.N*a.Choices(), cols, 0, g)
	}
}
