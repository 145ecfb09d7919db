package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

type fillArgs struct {
	y dest
	n int64
	v float32
	_ int32
}

// Fill sets every element of a buffer of float32 or bf16.
func (c *CUDA) Fill(dst kernels.Buffer, v float32) {
	each(c, "fill", dst.Len(), &fillArgs{y: destOf("fill", kernels.To(dst), dst.Len()), n: int64(dst.Len()), v: v})
}

type addArgs struct {
	y           dest
	x, z        elems
	n           int64
	alpha, beta float32
}

// Add is y = Alpha·A + Beta·B. y may be A or B.
func (c *CUDA) Add(y kernels.Dst, a *kernels.AddArgs) {
	x, z := elemsOf("add: a", a.A, a.N), elemsOf("add: b", a.B, a.N)
	if y.Skip() {
		return
	}
	each(c, "add", a.N, &addArgs{destOf("add: y", y, a.N), x, z, int64(a.N), a.Alpha, a.Beta})
}

type mulArgs struct {
	y                dest
	x, s, bias       elems
	n                int64
	c, by, divide, _ int32
}

func mulOf(what string, y kernels.Dst, a *kernels.MulArgs) *mulArgs {
	if a.Bias != nil && a.By != kernels.ByCol {
		panic("cuda: " + what + ": a bias needs factors by column")
	}
	n := a.N * a.C
	return &mulArgs{y: destOf(what+": y", y, n), x: elemsOf(what+": x", a.X, n), s: elemsOf(what+": s", a.S, a.Factors()),
		bias: elemsOf(what+": bias", a.Bias, a.C), n: int64(n), c: int32(a.C), by: int32(a.By)}
}

// Mul is y = X·S + Bias. y may be X.
func (c *CUDA) Mul(y kernels.Dst, a *kernels.MulArgs) {
	m := mulOf("mul", y, a)
	if !y.Skip() {
		each(c, "mul", int(m.n), m)
	}
}

// Divide is y = X/S. y may be X.
func (c *CUDA) Divide(y kernels.Dst, a *kernels.MulArgs) {
	m := mulOf("divide", y, a)
	m.divide, m.bias = 1, elems{}
	if !y.Skip() {
		each(c, "mul", int(m.n), m)
	}
}

type rowSumArgs struct {
	y    dest
	x, z elems
	c, _ int32
}

type colSumArgs struct {
	y     dest
	x, z  elems
	group driver.Ptr
	rows  int64
	c, _  int32
}

// colSums queues y[g, j] = Σ x·z over the rows of each of parts groups, or of all.
func (c *CUDA) colSums(y dest, x, z elems, group driver.Ptr, parts, rows, cols int) {
	a := &colSumArgs{y: y, x: x, z: z, group: group, rows: int64(rows), c: int32(cols)}
	launch(c, "col_sum", driver.Dim{X: blocksOf(cols, 64), Y: uint32(parts), Z: 1}, driver.Dim{X: 64, Y: 1, Z: 1}, 0, a)
}

// MulBackward: dx = dy·S, ds = dy·X summed over what shares a factor, dbias the
// column sums of dy. dx may be dy.
func (c *CUDA) MulBackward(dx, ds, dbias kernels.Dst, dy kernels.Buffer, a *kernels.MulArgs) {
	n := a.N * a.C
	m := mulOf("mul backward", kernels.Dst{}, a)
	g := elemsOf("mul backward: dy", dy, n)
	if !ds.Skip() {
		to := destOf("mul backward: ds", ds, a.Factors())
		switch a.By {
		case kernels.ByElement:
			each(c, "mul", n, &mulArgs{y: to, x: g, s: m.x, n: m.n, c: m.c})
		case kernels.ByRow:
			rows(c, "row_sum", a.N, a.C, 0, &rowSumArgs{y: to, x: g, z: m.x, c: m.c})
		case kernels.ByCol:
			c.colSums(to, g, m.x, 0, 1, a.N, a.C)
		}
	}
	if !dbias.Skip() {
		c.colSums(destOf("mul backward: dbias", dbias, a.C), g, elems{}, 0, 1, a.N, a.C)
	}
	if !dx.Skip() {
		each(c, "mul", n, &mulArgs{y: destOf("mul backward: dx", dx, n), x: g, s: m.s, n: m.n, c: m.c, by: m.by})
	}
}

type copy2DArgs struct {
	y                            dest
	x                            elems
	n                            int64
	cols, _                      int32
	xoff, xstride, yoff, ystride int64
}

// Copy2D moves columns.
func (c *CUDA) Copy2D(y kernels.Dst, a *kernels.Copy2DArgs) {
	if y.Skip() || a.Rows == 0 || a.Cols == 0 {
		return
	}
	last := a.Rows - 1
	each(c, "copy2d", a.Rows*a.Cols, &copy2DArgs{y: destOf("copy2d: y", y, a.YOff+last*a.YStride+a.Cols), x: elemsOf("copy2d: x", a.X, a.XOff+last*a.XStride+a.Cols),
		n: int64(a.Rows * a.Cols), cols: int32(a.Cols), xoff: int64(a.XOff), xstride: int64(a.XStride), yoff: int64(a.YOff), ystride: int64(a.YStride)})
}

type actArgs struct {
	y, dup                                  dest
	gate, up, dy                            elems
	n                                       int64
	f, layout                               int32
	kind                                    int32
	limit, alpha, alphaP, alphaN, beta, eps float32
	_                                       int32
}

func actOf(what string, y kernels.Dst, width int, a *kernels.ActArgs) *actArgs {
	if int(a.Kind) > int(kernels.LimitedSwiGLU) { // the last there is
		panic(fmt.Sprintf("cuda: %s: no activation %d", what, a.Kind))
	}
	n := a.N * a.F
	k := &actArgs{y: destOf(what, y, width), gate: elemsOf(what+": gate", a.Gate, a.GateLen()), n: int64(n), f: int32(a.F), layout: int32(a.Layout), kind: int32(a.Kind),
		limit: a.Limit, alpha: a.Alpha, alphaP: a.AlphaP, alphaN: a.AlphaN, beta: a.Beta, eps: a.Eps}
	if a.Layout == kernels.Separate {
		k.up = elemsOf(what+": up", a.Up, n)
	}
	return k
}

// Act is y = act(Gate)·Up.
func (c *CUDA) Act(y kernels.Dst, a *kernels.ActArgs) {
	k := actOf("act", y, a.N*a.F, a)
	if !y.Skip() {
		each(c, "act", int(k.n), k)
	}
}

// ActBackward: dgate = dy·Up·act'(Gate), dup = dy·act(Gate).
func (c *CUDA) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	k := actOf("act backward", dgate, a.GateLen(), a)
	k.dy = elemsOf("act backward: dy", dy, a.N*a.F)
	if a.Layout == kernels.Separate && a.Up != nil {
		k.dup = destOf("act backward: dup", dup, a.N*a.F)
	}
	if k.y.p == 0 && k.dup.p == 0 {
		return
	}
	each(c, "act_grad", int(k.n), k)
}

type ropeArgs struct {
	y                                    dest
	x                                    elems
	cs                                   driver.Ptr
	n                                    int64
	h, d, rot, off, adjacent, inverse    int32
	xoff, xtok, xhead, yoff, ytok, yhead int64
}

// Rope rotates heads. y may be x.
func (c *CUDA) Rope(y, x kernels.Heads, a *kernels.RopeArgs) {
	if y.Skip() || a.N == 0 {
		return
	}
	extent := func(h kernels.Heads) int { return h.Off + (a.N-1)*h.Tok + (a.H-1)*h.Head + a.D }
	r := &ropeArgs{y: destOf("rope: y", kernels.Dst{Buffer: y.Buffer, Add: y.Add}, extent(y)), x: elemsOf("rope: x", x.Buffer, extent(x)),
		cs: f32("rope: cs", a.CS, a.N*a.Rot), n: int64(a.N), h: int32(a.H), d: int32(a.D), rot: int32(a.Rot), off: int32(a.Off),
		adjacent: flag(a.Pairs == kernels.Adjacent), inverse: flag(a.Inverse),
		xoff: int64(x.Off), xtok: int64(x.Tok), xhead: int64(x.Head), yoff: int64(y.Off), ytok: int64(y.Tok), yhead: int64(y.Head)}
	each(c, "rope", a.N*a.H*(a.D-a.Rot/2), r)
}

type normArgs struct {
	y, sum             dest
	x, res, dy         elems
	w, bias, stats     driver.Ptr
	c, heads, layer    int32
	alpha, offset, eps float32
}

func normOf(what string, y kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) *normArgs {
	n, r := a.N*a.C, a.WeightRows()
	if a.N%r != 0 {
		panic(fmt.Sprintf("cuda: %s: %d rows of %d heads", what, a.N, r))
	}
	return &normArgs{y: destOf(what, y, n), x: elemsOf(what+": x", a.X, n), res: elemsOf(what+": res", a.Res, n),
		w: f32(what+": w", a.W, r*a.C), bias: f32(what+": bias", a.Bias, r*a.C), stats: f32(what+": stats", stats, a.N*a.Kind.StatsLen()),
		c: int32(a.C), heads: int32(r), layer: flag(a.Kind == kernels.LayerNorm), alpha: a.Alpha, offset: a.Offset, eps: a.Eps}
}

// Norm normalises rows (RMSNorm: Zhang, Sennrich 2019, arXiv:1910.07467;
// LayerNorm: Ba et al. 2016, arXiv:1607.06450).
func (c *CUDA) Norm(y, sum kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) {
	k := normOf("norm", y, stats, a)
	k.sum = destOf("norm: sum", sum, a.N*a.C)
	rows(c, "norm_rows", a.N, a.C, 4*a.C, k)
}

type normSumArgs struct {
	dw, db             dest
	x, dy              elems
	stats              driver.Ptr
	n                  int64
	c, heads, layer, _ int32
}

// NormBackward: dx, and the column sums dw and db, of Norm over a.X.
func (c *CUDA) NormBackward(dx, dw, db kernels.Dst, dy, stats kernels.Buffer, a *kernels.NormArgs) {
	k := normOf("norm backward", dx, stats, a)
	k.dy = elemsOf("norm backward: dy", dy, a.N*a.C)
	if !dw.Skip() || !db.Skip() {
		width := a.WeightRows() * a.C
		each(c, "norm_sums", width, &normSumArgs{dw: destOf("norm backward: dw", dw, width), db: destOf("norm backward: db", db, width),
			x: k.x, dy: k.dy, stats: k.stats, n: int64(a.N), c: k.c, heads: k.heads, layer: k.layer})
	}
	if !dx.Skip() {
		rows(c, "norm_grad", a.N, a.C, 0, k)
	}
}
