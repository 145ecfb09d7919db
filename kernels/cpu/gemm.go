package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// The matrix product. C[m,n] = Σ over terms of alpha·A·B is cut into panels:
// a panel of A holds up to mr rows, one of B up to 32 columns, both with k as
// the slow dimension, so that the micro-kernel reads them as two streams. All
// differences between storage types, orientations, rounding and dropout are in
// the packing (operand); all of a level's speed is in its micro-kernels.
//
// An element of C is summed over k in one fixed order whatever the blocking,
// so neither threads nor block sizes change a bit; only cutting K does, and
// that depends on K alone.

const (
	panelWidth = 32   // columns of a panel of B; a last one of up to 16 is packed 16 wide
	maxK       = 2048 // k of one pass over C
	maxRound   = 2560 // dwords of k that the passes of one round may have together
	maxRows    = 1120 // rows of A packed at a time
	smallWork  = 1 << 16
	packGroup  = 8        // panels of A packed by one task
	packStep   = 64       // k of columns packed at a time
	groupSize  = 96 << 10 // dwords of the panels of B that take turns with a panel of A, at most
	maxGroup   = 4        // and how many there are
	pastFrom   = 2 << 20  // elements of a C from which on it is written past the caches
)

// micro computes an mr×nr tile: c = alpha·a·b, plus c with acc accAdd. k counts
// dwords; a is [k][mr], b [k][nr], c has rows of ldc floats.
type micro func(k int, a, b, c *float32, ldc, acc int, alpha float32)

// What a micro-kernel does with c.
const (
	accSet  = iota
	accAdd  // add to it
	accPast // set it past the caches: wide tiles of kernels with past, whole lines of 64 bytes
)

// kernel is the set of micro-kernels of a level. A dword of a panel holds ku
// values of k: one f32, or two bf16 with the first in the low half.
type kernel struct {
	mr, ku       int
	past         bool    // has accPast
	tiles        bool    // products are on tiles: see strip
	wide, narrow []micro // for 32 and 16 columns, by rows 1…mr
}

// product is one term of a sum of matrix products.
type product struct {
	k     int
	a, b  operand // a: lines are rows of C; b: lines are columns of C
	alpha float32
	bf16  bool // round both operands to bf16
	f16   bool // or to half precision
}

// splitPieces is how many numbers of 8 bits a float32 is the sum of; splitSize the
// elements of B from which on taking A apart is worth it.
const (
	splitPieces = 3
	splitSize   = 1 << 16
)

// split reports whether a product of float32 and bf16 is made of exact products of
// bf16: where tiles multiply bf16 many times as fast as float32 is, the float32 side
// is taken apart into three numbers of 8 bits each, the sum of which it is. n is the
// lines of B.
func (p *product) split(n int) bool {
	return level.Current() == level.AMX && n*p.k >= splitSize && !p.bf16 && !p.f16 && p.a.f != nil && !p.a.across && p.a.drop == nil && p.b.h != nil && p.b.drop == nil
}

// pass is a range of k of one term with everything that is fixed about it.
type pass struct {
	*product
	kern      *kernel
	mode      mode
	p0, kc    int // range of k
	kd        int // dwords of a panel that count
	off, offB int // dwords of the passes before it in the round, of A and of B
	first     bool
	pieces    int // that A is packed as: see split
}

// gemm is one running product.
type gemm struct {
	c      []float32
	half   []uint16 // set: C is bf16, of one round that does not add
	ldc    int
	m, n   int
	add    bool
	past   bool      // C is written past the caches
	bias   []float32 // with tiles: added to every row at last
	rounds [][]pass  // each of kernels that have tiles or of kernels that have none
	depth  int       // largest number of dwords of A of a round, rounded up
	depthB int       // and of B
	mr     int       // largest of the kernels used
	tiles  bool      // a kernel has tiles
	abuf   []float32
	areas  *areas
}

// gemm computes dst[m,n], rows ldc apart, = or += the sum of terms.
func (c *CPU) gemm(dst []float32, ldc, m, n int, add bool, terms ...product) {
	if m == 0 || n == 0 {
		return
	}
	g := &gemm{c: dst, ldc: ldc, m: m, n: n, add: add}
	g.plan(terms)
	if len(g.rounds) == 0 {
		if !add {
			clearRows(dst, ldc, m, n)
		}
		return
	}
	_ = dst[(m-1)*ldc+n-1]
	g.run(c)
}

// isPast reports whether C is better written past the caches: one pass writes
// it, it is too large to be found there again, and its tiles are whole lines.
func (g *gemm) isPast() bool {
	round := g.rounds[0]
	return g.half == nil && g.m*g.n >= pastFrom && !g.add && len(g.rounds) == 1 && (len(round) == 1 || g.tiles) && round[0].kern.past &&
		g.ldc%16 == 0 && uintptr(unsafe.Pointer(&g.c[0]))%64 == 0
}

// run computes C where there is something to compute.
func (g *gemm) run(c *CPU) {
	panels := ceilDiv(g.n, panelWidth)
	if g.isNarrow(panels) {
		g.narrow(c, panels)
		return
	}
	g.blocked(c, panels)
}

func (g *gemm) isNarrow(panels int) bool { return panels < 8 && ceilDiv(g.m, g.mr) >= panels }

// working implements kernels.Working.
type working struct{ kernels.Unplanned }

// Product counts packed operands, and sums that are held in float32: see linearDX and gemmTo.
func (working) Product(p kernels.ProductShape) int64 {
	first := product{k: p.K, a: stored(p.A, p.TA, p.DropA), b: stored(p.B, !p.TB, p.DropB), alpha: 1, bf16: p.BF16 || p.Fast && fastBF16(), f16: p.F16}
	second := product{k: p.K2, alpha: 1, bf16: p.BF16}
	if p.DropC {
		m := min(p.M, dropRows)
		a, _ := packed(m, p.N, first)
		b, _ := packed(m, p.N, second)
		return workspaceBytes(m*p.N) + max(a, b)
	}
	bias := product{k: b2i(p.Bias), a: operand{ones: true}, alpha: 1}
	bytes, rounds := packed(p.M, p.N, first, second, bias)
	if p.C == dtype.BF16 && (p.Add || rounds != 1) {
		bytes += workspaceBytes(p.M * p.N)
	}
	return bytes
}

// stored is an operand as far as the size of its product depends on it.
func stored(k dtype.Kind, across, drop bool) operand {
	o := operand{across: across}
	switch {
	case drop:
		o.drop = &dropping{}
	case k == dtype.F32:
		o.f = []float32{}
	case k == dtype.BF16:
		o.h = []uint16{}
	}
	return o
}

// Factor holds the matrix in float64.
func (working) Factor(n int) int64 { return workspaceBytes(2 * n * n) }

// packed is the bytes of the packed operands of a sum of products, and its rounds.
func packed(m, n int, terms ...product) (bytes int64, rounds int) {
	g := &gemm{m: m, n: n}
	g.plan(terms)
	if m == 0 || n == 0 || len(g.rounds) == 0 {
		return 0, len(g.rounds)
	}
	panels := ceilDiv(n, panelWidth)
	size, area := g.blockedSize(panels)
	if g.isNarrow(panels) {
		size, area = g.narrowSize(panels)
	}
	return workspaceBytes(size + g.areaSize(area)), len(g.rounds)
}

// blockedSize is the floats of a block of rows of A, and of a worker's panels of B.
func (g *gemm) blockedSize(panels int) (rows, area int) {
	mb := g.blockRows()
	for _, r := range g.rounds {
		mr := r[0].kern.mr
		rows = max(rows, ceilDiv(mb, mr)*(g.depth*mr+16))
	}
	group := g.group(panels)
	return rows, group*(g.depthB*panelWidth+16) + g.sumsSize(group)
}

// blockRows is the rows of A packed at a time.
func (g *gemm) blockRows() int { return roundUp(ceilDiv(g.m, ceilDiv(g.m, maxRows)), g.mr) }

// group is how many panels of B take turns with a panel of A.
func (g *gemm) group(panels int) int {
	most, size := maxGroup, groupSize
	if g.tiles {
		most, size = tileGroup, tileGroupSize
	}
	return max(1, min(most, panels, size/(g.depthB*panelWidth)))
}

// sumsSize is what strips need beside packed panels.
func (g *gemm) sumsSize(group int) int { return b2i(g.tiles) * stripSize(group) }

// narrowSize is the floats of all of B, and of a worker's panel of A.
func (g *gemm) narrowSize(panels int) (all, area int) {
	return panels * (g.depthB*panelWidth + 16), g.depth*g.mr + 16 + g.sumsSize(panels)
}

// plan cuts the terms into passes and joins passes into rounds.
func (g *gemm) plan(terms []product) {
	var round []pass
	used, usedB := 0, 0
	first := true
	flush := func() {
		if len(round) > 0 {
			g.rounds = append(g.rounds, round)
			g.depth, g.depthB = max(g.depth, used), max(g.depthB, usedB)
		}
		round, used, usedB = nil, 0, 0
	}
	for i := range terms {
		t := &terms[i]
		if t.k == 0 {
			continue
		}
		pieces, most := 1, maxK
		if t.split(g.n) {
			pieces, most = splitPieces, maxK/2
		}
		kern, mode := kernelFor(t.bf16 || pieces > 1, t.f16)
		if t.a.ones && len(round) > 0 && round[0].kern.tiles {
			g.bias = t.b.f
			continue
		}
		g.mr, g.tiles = max(g.mr, kern.mr), g.tiles || kern.tiles
		if len(round) > 0 && (kern.tiles != round[0].kern.tiles || kern.tiles && t.alpha != round[0].alpha) {
			flush()
		}
		step := passStep(t.k, most)
		for p0 := 0; p0 < t.k; p0 += step {
			kc := min(step, t.k-p0)
			kd := ceilDiv(kc, kern.ku)
			size := roundUp(kd, 32)
			if used > 0 && used+pieces*size > maxRound {
				flush()
			}
			round = append(round, pass{t, kern, mode, p0, kc, kd, used, usedB, first, pieces})
			used += pieces * size
			usedB += size
			first = false
		}
	}
	flush()
}

// passStep is the k of each pass of k, at most so many, but the last one.
func passStep(k, most int) int { return roundUp(ceilDiv(k, ceilDiv(k, most)), 64) }

// rowsOf deals m rows out evenly over the fewest panels of at most mr.
type rowsOf struct{ panels, each, more, m int }

// rowsOf deals them for a kernel; tiles are filled one after another.
func (k *kernel) rowsOf(m int) rowsOf {
	p := ceilDiv(m, k.mr)
	if k.tiles {
		return rowsOf{p, k.mr, 0, m}
	}
	return rowsOf{p, m / p, m % p, m}
}

// start is the first row of panel i.
func (r rowsOf) start(i int) int { return min(r.m, i*r.each+min(i, r.more)) }

// blocked packs a block of rows of A once, then streams panels of B through it,
// a few at a time: the worker that uses them packs them just before, and while a
// panel of A is near it goes past them all.
func (g *gemm) blocked(c *CPU, panels int) {
	mb, group := g.blockRows(), g.group(panels)
	bspan := g.depthB*panelWidth + 16
	size, area := g.blockedSize(panels)
	buf := c.workspace(size + g.areaSize(area))
	defer buf.free()
	g.abuf = buf.take(size)
	g.areas = newAreas(buf, area)
	g.past = g.isPast()
	for i0 := 0; i0 < g.m; i0 += mb {
		m := min(mb, g.m-i0)
		for _, round := range g.rounds {
			kern := round[0].kern
			rows, span := kern.rowsOf(m), g.depth*kern.mr+16
			grain := max(1, smallWork/(2*g.depth*kern.mr))
			par.Split(rows.panels, grain, max(grain, packGroup), func(lo, hi int) {
				w := g.areas.get()
				g.packA(g.abuf[lo*span:], span, rows, lo, hi, round, i0, w)
				g.areas.put(w)
			})
			chunk := max(1, smallWork/(m*g.depth*panelWidth))
			par.Split(panels, chunk, max(chunk, group), func(lo, hi int) {
				w := g.areas.get()
				for ; lo < hi; lo += group {
					js := min(group, hi-lo)
					for j := range js {
						g.packB(w.panel[j*bspan:], round, lo+j, w)
					}
					for ip := range rows.panels {
						r := rows.start(ip)
						if kern.tiles {
							g.strip(round, g.abuf[ip*span:], w.panel, bspan, i0+r, rows.start(ip+1)-r, lo, js, w.panel[group*bspan:], g.abuf[min(ip+1, rows.panels-1)*span:])
							continue
						}
						for j := range js {
							g.tile(round, g.abuf[ip*span:], w.panel[j*bspan:], i0+r, rows.start(ip+1)-r, lo+j, w)
						}
					}
				}
				if g.past {
					storeFence()
				}
				g.areas.put(w)
			})
		}
	}
}

// narrow packs all of a B with few columns, then streams panels of A past it.
func (g *gemm) narrow(c *CPU, panels int) {
	span := g.depthB*panelWidth + 16
	size, area := g.narrowSize(panels)
	buf := c.workspace(size + g.areaSize(area))
	defer buf.free()
	bbuf := buf.take(size)
	g.areas = newAreas(buf, area)
	for _, round := range g.rounds {
		par.For(panels, 1, func(lo, hi int) {
			w := g.areas.get()
			for j := lo; j < hi; j++ {
				g.packB(bbuf[j*span:], round, j, w)
			}
			g.areas.put(w)
		})
		kern := round[0].kern
		rows := kern.rowsOf(g.m)
		par.For(rows.panels, max(1, smallWork/(g.depth*kern.mr*g.n)), func(lo, hi int) {
			w := g.areas.get()
			for ip := lo; ip < hi; ip++ {
				r := rows.start(ip)
				mr := rows.start(ip+1) - r
				g.packA(w.panel, 0, rows, ip, ip+1, round, 0, w)
				if kern.tiles {
					g.strip(round, w.panel, bbuf, span, r, mr, 0, panels, w.panel[g.depth*g.mr+16:], w.panel)
					continue
				}
				for j := range panels {
					g.tile(round, w.panel, bbuf[j*span:], r, mr, j, w)
				}
			}
			g.areas.put(w)
		})
	}
}

// packA packs panels [lo, hi) of a block of rows from i0 on, span apart, for every
// pass of a round. Rows of A that are columns in memory are packed a few k at a
// time, past all panels, as these share lines; the lines of the next are asked for.
func (g *gemm) packA(dst []float32, span int, rows rowsOf, lo, hi int, round []pass, i0 int, w *area) {
	first, width := i0+rows.start(lo), rows.start(hi)-rows.start(lo)
	for i := range round {
		p := &round[i]
		step := p.kc
		if p.a.across && hi-lo > 1 {
			step = packStep
		}
		for k := 0; k < p.kc; k += step {
			next := max(0, min(step, p.kc-k-step))
			for ip := range hi - lo {
				from, to := next*ip/(hi-lo), next*(ip+1)/(hi-lo)
				p.a.prefetch(p.p0+k+step+from, to-from, first, width)
				r := rows.start(lo + ip)
				mr := rows.start(lo+ip+1) - r
				if p.kern.tiles {
					p.packTiles(dst[ip*span+p.off*stripRows:], i0+r, mr, k, min(step, p.kc-k), w)
					continue
				}
				p.a.pack(dst[ip*span+(p.off+k/p.kern.ku)*mr:], mr, i0+r, mr, p.p0+k, min(step, p.kc-k), p.mode, w)
			}
		}
	}
}

// packB packs panel j of B for every pass of a round.
func (g *gemm) packB(dst []float32, round []pass, j int, w *area) {
	nc := min(panelWidth, g.n-j*panelWidth)
	nr := tileWidth(nc)
	for i := range round {
		p := &round[i]
		if p.kern.tiles {
			nr = panelWidth
		}
		p.b.pack(dst[p.offB*nr:], nr, j*panelWidth, nc, p.p0, p.kc, p.mode, w)
		if p.kern.tiles {
			clear(dst[(p.offB+p.kd)*nr : p.offB*nr+p.steps()*16*nr])
		}
	}
}

func tileWidth(nc int) int {
	if nc <= 16 {
		return 16
	}
	return panelWidth
}

// tile computes the mr rows from row on of panel j, all passes of a round while
// the tile of C is in the cache.
func (g *gemm) tile(round []pass, a, b []float32, row, mr, j int, w *area) {
	nc := min(panelWidth, g.n-j*panelWidth)
	nr := tileWidth(nc)
	at := row*g.ldc + j*panelWidth
	if nc < nr || g.half != nil {
		for i := range round {
			p := &round[i]
			p.micro(nr, mr)(p.kd, &a[p.off*mr], &b[p.offB*nr], &w.tile[0], nr, b2i(i > 0), p.alpha)
		}
		if g.half != nil {
			vec.NarrowTile(g.half[at:], g.ldc, w.tile, nr, mr, nc)
			return
		}
		storeTile(g.c[at:], w.tile, g.ldc, mr, nr, nc, g.add || !round[0].first)
		return
	}
	for i := range round {
		p := &round[i]
		acc := b2i(g.add || !p.first)
		if g.past && nr == panelWidth {
			acc = accPast
		}
		p.micro(nr, mr)(p.kd, &a[p.off*mr], &b[p.offB*nr], &g.c[at], g.ldc, acc, p.alpha)
	}
}

func (p *pass) micro(nr, mr int) micro {
	if nr == panelWidth {
		return p.kern.wide[mr]
	}
	return p.kern.narrow[mr]
}

// storeTile copies or adds the first nc columns of a tile to C.
func storeTile(c, tile []float32, ldc, mr, nr, nc int, add bool) {
	for r := range mr {
		to, from := c[r*ldc:][:nc], tile[r*nr:][:nc]
		if !add {
			copy(to, from)
			continue
		}
		for i, v := range from {
			to[i] += v
		}
	}
}

// kernelFor is the kernel and the packing mode of the level in use.
func kernelFor(bf16, f16 bool) (*kernel, mode) {
	l := level.Current()
	if f16 {
		return kernelF32(l), halved
	}
	if !bf16 {
		return kernelF32(l), exact
	}
	if k := kernelBF16(l); k != nil {
		return k, pairs
	}
	return kernelF32(l), rounded
}

func clearRows(c []float32, ldc, m, n int) {
	for i := range m {
		clear(c[i*ldc:][:n])
	}
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
func roundUp(a, b int) int { return ceilDiv(a, b) * b }
func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
