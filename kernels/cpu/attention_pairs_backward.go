package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// pairBack is AttentionBackward in pairs of bf16. Weights and gradients of
// scores are rounded to bf16; the gradients are summed in float32 over all rounds
// and written at the end. Rows are ordered by key head, then token, then the
// query heads of that key head.
type pairBack struct {
	*attnBack
	blocks          *keyBlocks
	n               int       // tokens
	kt, vt, kp      []float32 // packed keys and values
	q16, do16       []float32 // [rows, d] bf16
	lse2, delta     []float32 // [rows] log₂-sum-exp, Σ do·o
	dq32            []float32 // [rows, d]
	dk32, dv32      []float32 // [K, n, d]
	tokens          int       // of a block of rows
	scores, weights float32   // of scores in powers of two; of their gradients
}

// inPairs asks that of do, too.
func (a *attnBack) inPairs() bool {
	return a.attn.inPairs() && a.dos.h != nil
}

func (a *attnBack) runPairs(spans []span, n int) {
	blocks := a.keyBlocks(spans)
	packed, rows := a.K*len(blocks.list)*blocks.size, n*a.H
	d := a.dk
	w := a.c.workspace(3*packed + 2*rows*d + 2*rows + 2*n*a.K*d)
	defer w.free()
	b := &pairBack{attnBack: a, blocks: blocks, n: n,
		kt: w.take(packed), vt: w.take(packed), kp: w.take(packed),
		q16: w.take(rows * d / 2), do16: w.take(rows * d / 2), lse2: w.take(rows), delta: w.take(rows),
		dq32: w.take(rows * d), dk32: w.take(n * a.K * d), dv32: w.take(n * a.K * d),
		tokens: max(1, pairBackRows/a.g), scores: float32(float64(a.scale) * math.Log2E), weights: a.scale}
	b.turnKeys(blocks, b.kt, b.ks, b.kv)
	b.turnKeys(blocks, b.vt, b.vs, b.vv)
	b.joinKeys(blocks, b.kp, b.ks, b.kv)
	b.prepare()
	for r := range a.rounds(spans) {
		pairs := a.pairs(spans, r)
		par.For(len(pairs)*a.K, 1, func(lo, hi int) {
			t := b.newTask()
			for i := lo; i < hi; i++ {
				t.run(pairs[i/a.K], i%a.K)
			}
			a.c.scratch.give(t.memory)
		})
	}
	b.store()
}

// prepare orders q and do, computes the statistics and clears the sums.
func (b *pairBack) prepare() {
	q16, do16 := wordsOf(b.q16), wordsOf(b.do16)
	q, do, d := b.q, b.do, b.dk
	par.For(b.n, 32, func(lo, hi int) {
		tmp := b.c.scratch.take(2 * d)
		defer b.c.scratch.give(tmp)
		for tok := lo; tok < hi; tok++ {
			for h := range b.H {
				r := ((h/b.g)*b.n+tok)*b.g + h%b.g
				copy(q16[r*d:][:d], b.qs.h[q.Off+tok*q.Tok+h*q.Head:])
				row := do16[r*d:][:d]
				copy(row, b.dos.h[do.Off+tok*do.Tok+h*do.Head:])
				vec.Widen(tmp[:d], row)
				b.delta[r] = vec.Dot(tmp[:d], b.os.get(tmp[d:2*d], b.o.Off+tok*b.o.Tok+h*b.o.Head))
				b.lse2[r] = float32(float64(b.lse[tok*b.H+h]) * math.Log2E)
			}
			for k := range b.K {
				at := (k*b.n + tok) * d
				clear(b.dq32[at*b.g:][:b.g*d])
				clear(b.dk32[at:][:d])
				clear(b.dv32[at:][:d])
			}
		}
	})
}

// store writes the sums to dq, dk and dv.
func (b *pairBack) store() {
	d := b.dk
	par.For(b.n, 32, func(lo, hi int) {
		tmp := b.c.scratch.take(d)
		defer b.c.scratch.give(tmp)
		put := func(dst plain, v kernels.Heads, sum []float32, tok, h int) {
			if !dst.absent() {
				dst.store(sum[:d], v.Off+tok*v.Tok+h*v.Head, v.Add, tmp[:d])
			}
		}
		for tok := lo; tok < hi; tok++ {
			for h := range b.H {
				put(b.dqs, b.dq, b.dq32[(((h/b.g)*b.n+tok)*b.g+h%b.g)*d:], tok, h)
			}
			for k := range b.K {
				put(b.dks, b.dkeys, b.dk32[(k*b.n+tok)*d:], tok, k)
				put(b.dvs, b.dvalues, b.dv32[(k*b.n+tok)*d:], tok, k)
			}
		}
	})
}

// pairTask is what a worker needs for a pair of chunks.
type pairTask struct {
	*pairBack
	q, do  []float32 // pairs of rows [m/2, d], m a multiple of 32
	s, dp  []float32 // [m, blockKeys] scores, gradients of weights
	p, ds  []float32 // pairs of rows [m/2, blockKeys]
	dsRows []float32 // [m, blockKeys] bf16
	turned []float32 // p or ds by keys [blockKeys, m/2]
	rows   []vec.GradRow
	memory []float32
}

func (b *pairBack) newTask() *pairTask {
	m := roundUp(b.tokens*b.g, 32)
	t := &pairTask{pairBack: b, rows: make([]vec.GradRow, m)}
	t.memory = b.c.scratch.take(m*b.dk + 4*m*blockKeys)
	x := t.memory
	t.q, t.do = cut(&x, m/2*b.dk), cut(&x, m/2*b.dk)
	t.s, t.dp = cut(&x, m*blockKeys), cut(&x, m*blockKeys)
	t.p, t.ds, t.dsRows, t.turned = cut(&x, m/2*blockKeys), cut(&x, m/2*blockKeys), cut(&x, m*blockKeys/2), cut(&x, m*blockKeys/2)
	return t
}

// run takes the rows of the chunk of queries through the chunk of keys.
func (t *pairTask) run(p pair, head int) {
	d := t.dk
	for pos := p.qlo; pos < p.qhi; pos += t.tokens {
		nt := min(t.tokens, p.qhi-pos)
		m, r0 := nt*t.g, (head*t.n+p.s.tok+pos)*t.g
		q, do := t.q16[r0*d/2:][:m*d/2], t.do16[r0*d/2:][:m*d/2]
		vec.JoinRows(t.q, d, wordsOf(q), d, m, d)
		vec.JoinRows(t.do, d, wordsOf(do), d, m, d)
		for _, x := range [][]float32{t.q, t.do} {
			clear(x[(m+1)/2*d : roundUp(m, 32)/2*d])
		}
		for r := range m {
			t.rows[r] = vec.GradRow{LSE: t.lse2[r0+r], Delta: t.delta[r0+r]}
		}
		first, last := t.reach(pos, nt, p.s.keys)
		for k0 := p.klo; k0 < p.khi; k0 += blockKeys {
			w := min(blockKeys, p.khi-k0, last-k0)
			if w <= 0 || k0+w <= first {
				continue
			}
			for r := range m {
				t.rows[r].Live = vec.LiveFrom(t.visible(pos+r/t.g, k0, w, p.s.keys))
			}
			if m%2 != 0 {
				t.rows[m] = vec.GradRow{}
			}
			t.block(q, do, t.dq32[r0*d:][:m*d], p.s.base, head, m, k0, w)
		}
	}
}

// block is backward.block of m rows and w keys.
func (t *pairTask) block(q, do, dq []float32, base, head, m, k0, w int) {
	d, even := t.dk, roundUp(m, 2)
	vec.MatMulPairs(t.s, blockKeys, q, d/2, t.blocks.at(t.kt, head, base, k0), blockKeys, m, pad16(w), d/2, false, false)
	vec.MatMulPairs(t.dp, blockKeys, do, d/2, t.blocks.at(t.vt, head, base, k0), blockKeys, m, pad16(w), d/2, false, false)
	vec.SoftenGrad(t.p, t.ds, wordsOf(t.dsRows), t.s, t.dp, blockKeys, even, roundUp(w, 32), t.rows, t.scores, t.weights)
	at := (head*t.n + base + k0) * d
	if !t.dvs.absent() {
		t.addTurned(t.dv32[at:], t.p, t.do, w, even/2)
	}
	if !t.dks.absent() {
		t.addTurned(t.dk32[at:], t.ds, t.q, w, even/2)
	}
	if !t.dqs.absent() {
		vec.MatMulPairs(dq, d, t.dsRows, blockKeys/2, t.blocks.at(t.kp, head, base, k0), d, m, d, roundUp(w, 32)/2, false, true)
	}
}

// addTurned is dst [w, d] += pᵀ·x for p [n, w] and x [n, d] of pairs. Tiles take
// rows of pairs along what is summed over: p is turned for them.
func (t *pairTask) addTurned(dst, p, x []float32, w, n int) {
	if !onTiles() {
		vec.MatMulPairs(dst, t.dk, p, blockKeys, x, t.dk, w, t.dk, n, true, true)
		return
	}
	whole := roundUp(n, 16)
	clear(p[n*blockKeys : whole*blockKeys])
	vec.Transpose(t.turned, whole, p, blockKeys, whole, roundUp(w, 16))
	vec.MatMulPairs(dst, t.dk, t.turned, whole, x, t.dk, w, t.dk, whole, false, true)
}
