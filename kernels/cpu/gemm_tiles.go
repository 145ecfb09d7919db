package cpu

import "github.com/tunekit/tunekit/kernels/cpu/internal/vec"

// Products on tiles (AMX). A panel of A is two tiles of 16 rows with k as the fast
// dimension; a panel of B lies as for the other kernels of pairs, which is what a
// tile of B is. Both are padded with zeros to whole steps of 32 k. The sums of 32
// rows and a group of panels go to memory of the worker and from there, scaled,
// added or rounded, to C, so that a tile needs no edges.
const (
	stepK         = 32             // k of a step
	tileFloats    = 16 * stepK / 2 // dwords of a tile
	tileGroup     = 16             // panels of B that take turns with a panel of A, at most
	tileGroupSize = 256 << 10      // dwords of them: about half of the second cache
	stripRows     = 32             // rows of a panel of A
	stripPad      = 16             // floats after a row of sums: rows 2ⁿ apart would share lines of the cache
)

// stripSize is the floats of the sums of a group of panels.
func stripSize(group int) int { return stripRows * stripLine(group) }

func stripLine(group int) int { return group*panelWidth + stripPad }

// steps is k of a pass in whole steps.
func (p *pass) steps() int { return ceilDiv(p.kc, stepK) }

// packTiles writes lines [line, line+lines) and k [p0+k, p0+k+n) of p to a panel of A.
func (p *pass) packTiles(dst []float32, line, lines, k, n int, w *area) {
	for t := 0; t < lines; t += 16 {
		to := dst[(t/16*p.steps()+k/stepK)*p.pieces*tileFloats:]
		if p.pieces > 1 {
			vec.TilePieces(to, p.a.f[(line+t)*p.a.ld+p.p0+k:], p.a.ld, min(16, lines-t), n)
			continue
		}
		p.a.packTile(to, line+t, min(16, lines-t), p.p0+k, n, w)
	}
}

// packTile writes up to 16 lines. Rows of memory are copied; columns are packed as
// for the other kernels and turned, a few k at a time.
func (o *operand) packTile(dst []float32, line, lines, p0, kc int, w *area) {
	switch {
	case o.across:
		for k := 0; k < kc; k += packStep {
			n := min(packStep, kc-k)
			o.pack(w.tile, 16, line, lines, p0+k, n, pairs, w)
			pairsOf := ceilDiv(n, 2)
			clear(w.tile[pairsOf*16 : roundUp(pairsOf, 16)*16])
			for s := range ceilDiv(n, stepK) {
				vec.Transpose(dst[(k/stepK+s)*tileFloats:], 16, w.tile[s*tileFloats:], 16, 16, 16)
			}
		}
	case o.f != nil && o.drop == nil:
		vec.TileRowsF32(dst, o.f[line*o.ld+p0:], o.ld, lines, kc)
	case o.h != nil && o.drop == nil:
		vec.TileRows(dst, o.h[line*o.ld+p0:], o.ld, lines, kc)
	default:
		n := 0
		for k := 0; k < kc; k += n {
			n = min(fetchStep-(p0+k)%fetchStep, kc-k)
			o.lines(w.fetch, line, lines, p0+k, n)
			vec.TileRowsF32(dst[k/stepK*tileFloats:], w.fetch, fetchStep, lines, n)
		}
	}
}

// strip computes rows rows from row on of js panels from j on: all passes of a
// round, which have one alpha.
func (g *gemm) strip(round []pass, a, b []float32, bspan, row, rows, j, js int, sums, next []float32) {
	cols := min(js*panelWidth, g.n-j*panelWidth)
	ld := stripLine(js)
	for i := range round {
		p := &round[i]
		vec.TileStrip(sums, ld, a[p.off*stripRows:], b[p.offB*panelWidth:], bspan, rows, roundUp(cols, 16), p.steps(), p.pieces, i > 0, next[p.off*stripRows:])
	}
	at, alpha := row*g.ldc+j*panelWidth, round[0].alpha
	if g.half != nil || g.bias != nil {
		for r := range rows {
			line := sums[r*ld:][:cols]
			if alpha != 1 {
				vec.MulScale(line, line, nil, alpha)
			}
			if g.bias != nil && g.isLast(round) {
				vec.Axpy(line, 1, g.bias[j*panelWidth:][:cols])
			}
		}
		alpha = 1
	}
	if g.half != nil {
		vec.NarrowTile(g.half[at:], g.ldc, sums, ld, rows, cols)
		return
	}
	how := vec.FinishSet
	switch {
	case g.add || !round[0].first:
		how = vec.FinishAdd
	case g.past:
		how = vec.FinishPast
	}
	vec.FinishRows(g.c[at:], g.ldc, sums, ld, rows, cols, how, alpha)
}

func (g *gemm) isLast(round []pass) bool { return &round[0] == &g.rounds[len(g.rounds)-1][0] }
