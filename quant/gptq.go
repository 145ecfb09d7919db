package quant

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// gptqMethod is GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns are
// rounded one after another, and what each leaves is made good by the rest.
var gptqMethod = Method{
	Name: "gptq", Title: "GPTQ, calibrated (arXiv 2210.17323)",
	Schemes: append(integerSchemes(), "W8A8"), Formats: []string{formats.GPTQ, formats.CompressedTensors, formats.GPTQV2},
	Options: func() any { return new(GPTQOptions) },
	storage: gptqStorage, meta: gptqMeta,
	needs: needHessian, inOrder: true, round: roundGPTQ,
	work: gptqWork,
}

// gptqWork is the sums of XᵀX, its factor, and the rounding.
func gptqWork(tokens, in, out float64) float64 {
	return 4*tokens*in*out + 2*tokens*in*in + 2*(in*in*in+in*in*out)
}

// GPTQOptions are what a job can say of GPTQ.
type GPTQOptions struct {
	ActOrder    string  `yaml:"actorder" doc:"GPTQ column order; group is desc_act, aware orders whole groups" enum:"static|none|group|aware" default:"static"`
	DampPercent float64 `yaml:"damp_percent" doc:"of the mean Hessian diagonal, raised when needed" default:"0.01" range:"(0,1)"`
}

// gptqStorage: the order by group needs an index of columns.
func gptqStorage(options any, format string, t dtype.Type) (dtype.Type, error) {
	if options.(*GPTQOptions).ActOrder != orderGroup {
		return t, nil
	}
	if !formats.InGPTQ(format) {
		return t, fail.Usagef("actorder", "actorder: static", "only gptq folders can hold a column order")
	}
	t.Flags |= dtype.Perm
	return t, nil
}

func gptqMeta(options any) map[string]any {
	o := options.(*GPTQOptions)
	return map[string]any{"damp_percent": o.DampPercent, "static_groups": o.ActOrder == orderStatic, "true_sequential": true}
}

// roundGPTQ rounds a layer by error feedback, or to nearest where its Hessian
// cannot be factored.
func roundGPTQ(l *layer) (*matrixResult, error) {
	o := l.options.(*GPTQOptions)
	f, err := l.in.factored(o.ActOrder, int(l.typ.Group), o.DampPercent)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	if f.u == nil {
		return fallback(l, "the Hessian is not positive definite whatever is added to it")
	}
	return feedBack(f, l, gptqSpec{order: o.ActOrder})
}

// factored is the Hessian made ready. Layers of one group share it; those of
// another group size have another order.
func (in *inputs) factored(order string, group int, damp float64) (*factored, error) {
	if f := in.factor; f != nil && f.group == group {
		return f, nil
	}
	if in.factor != nil {
		in.factor.free()
	}
	var err error
	in.factor, err = factor(in.h, order, group, damp)
	return in.factor, err
}

// gptqBlock is the number of columns between two updates of the whole weight.
const gptqBlock = 128

// gptqSpec is what the rounding of one layer depends on beside its type.
type gptqSpec struct {
	order string
	// fixed takes every group's scale from the weights as they were before any
	// error was spread, as llm-compressor does. The static order implies it.
	fixed bool
	// mse is the exponent of the error that a search over shrunk ranges
	// minimizes for each group; 0: the full range.
	mse float64
	// exl2 takes the scales that EXL2 can store.
	exl2 bool
}

// feedBack quantizes a layer of an Int type by error feedback (Frantar et al.
// 2022, arXiv:2210.17323, algorithm 1): columns are rounded in the order of f,
// and each one's error is spread over those not yet rounded so that the output on
// the calibration inputs changes least. Inputs that were always zero get weight
// 0. A group's range includes zero and is symmetric around it without
// dtype.Zero: a group of positive weights keeps its largest (GPTQModel 7.7
// gives such a group half the scale it needs and clips it).
func feedBack(f *factored, l *layer, o gptqSpec) (*matrixResult, error) {
	g := &gptqRun{f: f, o: o, typ: l.typ, rows: l.rows, n: l.cols, size: int(l.typ.Group), groups: l.typ.Groups(l.cols), s: scratch{dev: l.dev}}
	defer g.s.free()
	if g.size <= 0 {
		g.size = g.n
	}
	if o.order == orderStatic {
		g.o.fixed = true
	}
	if err := g.load(l.w); err != nil {
		return nil, err
	}
	if g.o.fixed {
		if err := g.fix(); err != nil {
			return nil, err
		}
	}
	if err := g.run(); err != nil {
		return nil, err
	}
	raw := g.pack()
	rep, err := measure(l, raw)
	rep.Damp, rep.Dead = f.damp, f.deadColumns()
	return &matrixResult{raw, rep}, err
}

// gptqRun is one call. Matrices are transposed, so that a column is contiguous,
// and in the order of f.
type gptqRun struct {
	f             *factored
	o             gptqSpec
	typ           dtype.Type
	rows, n       int
	size, groups  int
	s             scratch
	wt            kernels.Buffer    // [n, rows]
	grid          [2]kernels.Buffer // scales and zeros, [groups, rows]
	scales, zeros []float32         // the same for packing
	codes         []byte            // [n, rows]
}

// load transposes w into the order of the columns.
func (g *gptqRun) load(w kernels.Buffer) error {
	g.wt = g.s.alloc(dtype.F32, g.n*g.rows)
	g.grid = [2]kernels.Buffer{g.s.alloc(dtype.F32, g.groups*g.rows), g.s.alloc(dtype.F32, g.groups*g.rows)}
	if g.s.err != nil {
		return g.s.err
	}
	g.codes = make([]byte, g.n*g.rows)
	g.scales, g.zeros = make([]float32, g.groups*g.rows), make([]float32, g.groups*g.rows)
	dev := g.s.dev
	for p := range g.n {
		c := g.f.column(p)
		if g.f.dead[c] {
			dev.Fill(dev.Slice(g.wt, p*g.rows, g.rows), 0)
			continue
		}
		dev.Copy2D(kernels.To(g.wt), &kernels.Copy2DArgs{Rows: g.rows, Cols: 1, X: w, XOff: c, XStride: g.n, YOff: p * g.rows, YStride: 1})
	}
	return nil
}

// fix chooses the grids of all groups from the weights as they are.
func (g *gptqRun) fix() error {
	place := make([]int, g.n)
	for p := range g.n {
		place[g.f.column(p)] = p
	}
	s := scratch{dev: g.s.dev}
	defer s.free()
	x, at := s.alloc(dtype.F32, g.size*g.rows), s.ints(place)
	if s.err != nil {
		return s.err
	}
	for c := 0; c < g.n; c += g.size {
		s.dev.Gather(kernels.To(x), &kernels.GatherArgs{N: g.size, Table: matrix(g.wt, g.n, g.rows), Idx: s.dev.Slice(at, c, g.size)})
		if err := g.find(c/g.size, x); err != nil {
			return err
		}
	}
	return nil
}

// groupAt is the scale group of the column at a place.
func (g *gptqRun) groupAt(place int) int {
	if g.o.order == orderGroup {
		return place / g.size
	}
	return g.f.column(place) / g.size
}

// find chooses the grid of a group from its columns x [size, rows].
func (g *gptqRun) find(group int, x kernels.Buffer) error {
	low, high, err := g.ends(x)
	if err != nil {
		return err
	}
	scales, zeros := g.scales[group*g.rows:][:g.rows], g.zeros[group*g.rows:][:g.rows]
	for r := range g.rows {
		scales[r], zeros[r] = block.IntGrid(g.typ, low[r], high[r])
	}
	if g.o.mse > 0 {
		if err := g.shrink(x, low, high, scales, zeros); err != nil {
			return err
		}
	}
	if g.o.exl2 {
		if err := g.lattice(x, scales, zeros); err != nil {
			return err
		}
	}
	g.s.dev.Upload(g.s.dev.Slice(g.grid[0], group*g.rows, g.rows), kernels.Bytes(scales))
	g.s.dev.Upload(g.s.dev.Slice(g.grid[1], group*g.rows, g.rows), kernels.Bytes(zeros))
	return nil
}

// ends are the smallest and the largest value of every row, and zero.
func (g *gptqRun) ends(x kernels.Buffer) (low, high []float32, err error) {
	s := scratch{dev: g.s.dev}
	defer s.free()
	out := s.alloc(dtype.F32, g.rows)
	if s.err != nil {
		return nil, nil, s.err
	}
	low, high = make([]float32, g.rows), make([]float32, g.rows)
	for i, v := range [][]float32{low, high} {
		s.dev.ColStats(kernels.To(out), &kernels.ColStatsArgs{Stat: []kernels.Stat{kernels.Min, kernels.Max}[i], Rows: g.size, Cols: g.rows, X: x})
		if err := down(s.dev, v, out); err != nil {
			return nil, nil, err
		}
	}
	for r := range g.rows {
		low[r], high[r] = min(low[r], 0), max(high[r], 0)
	}
	return low, high, nil
}

// shrink chooses the best of shrunk ranges for each row.
func (g *gptqRun) shrink(x kernels.Buffer, low, high, scales, zeros []float32) error {
	all, v := make([]float32, g.size*g.rows), make([]float32, g.size)
	if err := down(g.s.dev, all, x); err != nil {
		return err
	}
	for r := range g.rows {
		for j := range v {
			v[j] = all[j*g.rows+r]
		}
		scales[r], zeros[r] = shrink(g.typ, v, low[r], high[r], g.o.mse)
	}
	return nil
}

// shrink tries ranges from the whole one down to a fifth of it and takes the
// one with the least Σ|error|^norm, the first of equals.
func shrink(t dtype.Type, v []float32, lo, hi float32, norm float64) (scale, zero float32) {
	top := float32(int(1)<<t.Bits() - 1)
	best := math.Inf(1)
	for i := range 80 {
		p := 1 - float32(i)/100
		s, z := block.IntGrid(t, p*lo, p*hi)
		sum := 0.0
		for _, x := range v {
			sum += math.Pow(math.Abs(float64(rounded(x, s, z, top)-x)), norm)
		}
		if sum < best {
			best, scale, zero = sum, s, z
		}
	}
	return scale, zero
}

// rounded is x on a grid.
func rounded(x, scale, zero, top float32) float32 {
	q := min(max(float32(math.RoundToEven(float64(x/scale)))+zero, 0), top)
	return float32((q - zero) * scale)
}

// run takes the blocks of columns one after another.
func (g *gptqRun) run() error {
	s := &g.s
	k := gptqKernel{
		err: s.alloc(dtype.F32, gptqBlock*g.rows), scale: s.alloc(dtype.F32, gptqBlock*g.rows), zero: s.alloc(dtype.F32, gptqBlock*g.rows),
		codes: s.alloc(dtype.U8, gptqBlock*g.rows), u: s.alloc(dtype.F32, gptqBlock*gptqBlock), rest: s.alloc(dtype.F32, gptqBlock*g.n),
		group: s.alloc(dtype.I32, gptqBlock),
	}
	if s.err != nil {
		return s.err
	}
	for at := 0; at < g.n; at += gptqBlock {
		if err := g.block(&k, at, min(gptqBlock, g.n-at)); err != nil {
			return err
		}
	}
	return nil
}

// gptqKernel is the memory of one block.
type gptqKernel struct{ err, scale, zero, codes, u, rest, group kernels.Buffer }

// block rounds the columns at … at+b and spreads their errors over the rest.
func (g *gptqRun) block(k *gptqKernel, at, b int) error {
	dev, rows := g.s.dev, g.rows
	if err := g.ranges(at, b); err != nil {
		return err
	}
	groups := make([]int32, b)
	for j := range groups {
		groups[j] = int32(g.groupAt(at + j))
	}
	part := func(x kernels.Buffer, n int) kernels.Buffer { return dev.Slice(x, 0, n) }
	a := &kernels.GPTQArgs{
		Rows: rows, Cols: b, W: dev.Slice(g.wt, at*rows, b*rows), Err: part(k.err, b*rows), U: part(k.u, b*b), Codes: part(k.codes, b*rows),
		Scale: part(k.scale, b*rows), Zero: part(k.zero, b*rows), MaxCode: 1<<g.typ.Bits() - 1,
	}
	own := part(k.group, b)
	dev.Upload(own, kernels.Bytes(groups))
	for i, dst := range []kernels.Buffer{a.Scale, a.Zero} {
		dev.Gather(kernels.To(dst), &kernels.GatherArgs{N: b, Table: matrix(g.grid[i], g.groups, rows), Idx: own})
	}
	columns(dev, a.U, g.f.u, at*g.n+at, g.n, b, b)
	dev.GPTQBlock(a)
	if after := g.n - at - b; after > 0 {
		rest := part(k.rest, b*after)
		columns(dev, rest, g.f.u, at*g.n+at+b, g.n, b, after)
		dev.Gemm(kernels.Into(dev.Slice(g.wt, (at+b)*rows, after*rows)), &kernels.GemmArgs{A: rest, B: a.Err, TA: true, M: after, N: rows, K: b, Alpha: -1})
	}
	return dev.Download(g.codes[at*rows:(at+b)*rows], a.Codes)
}

// ranges chooses the grids of the groups that begin in a block of columns, from
// the weights as they are before the block.
func (g *gptqRun) ranges(at, b int) error {
	if g.o.fixed {
		return nil
	}
	for p := (at + g.size - 1) / g.size * g.size; p < at+b; p += g.size {
		if err := g.find(g.groupAt(p), g.s.dev.Slice(g.wt, p*g.rows, g.size*g.rows)); err != nil {
			return err
		}
	}
	return nil
}

// packGrain is the number of codes that one thread packs.
const packGrain = 1 << 15

// pack puts codes and grids into the storage type, columns back in their places.
func (g *gptqRun) pack() block.Raw {
	m := block.New(g.typ, g.rows, g.n)
	place := make([]int, g.n)
	for p := range g.n {
		place[g.f.column(p)] = p
	}
	par.For(g.rows, max(1, packGrain/g.n), func(lo, hi int) {
		codes, scales, zeros := make([]byte, g.n), make([]float32, g.groups), make([]float32, g.groups)
		for r := lo; r < hi; r++ {
			for c, p := range place {
				codes[c] = g.codes[p*g.rows+r]
			}
			for i := range g.groups {
				scales[i], zeros[i] = g.scales[i*g.rows+r], g.zeros[i*g.rows+r]
			}
			block.SetInt(m, r, codes, scales, zeros)
		}
	})
	if index := m.Plane(dtype.PermIndex); len(index) > 0 {
		for c, p := range place {
			index[4*c], index[4*c+1] = byte(p/g.size), byte(p/g.size>>8)
			index[4*c+2] = byte(p / g.size >> 16)
		}
	}
	return m
}
