package cpu

import (
	"math"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Attention in bf16 arithmetic: the same blocks, with operands as pairs of bf16
// and sums, softmax and its statistics in float32. The weights are rounded to
// bf16 before they meet the values (Dao et al. 2022). Keys and values are packed
// once for a whole call. Scores are in powers of two.
const (
	pairRows     = 96  // rows of a block, about: more are past a token's own keys
	pairBackRows = 192 // of the backward, where they are also what sums run over
	lowest       = -1e30
)

// inPairs reports whether attention a is computed in pairs of bf16: what every
// decoder needs, and sinks. The rest is computed in float32.
func (a *attn) inPairs() bool {
	plain := a.dk == a.dv && a.dk%16 == 0 && a.squeeze == 0 && a.rel == nil && a.Pick == nil && !a.Full && a.SeqKV == nil
	return plain && a.BF16 && fastBF16() && a.qs.h != nil && a.ks.h != nil && a.vs.h != nil
}

// keyBlocks are the blocks of keys of a batch.
type keyBlocks struct {
	list  []keyBlock
	first map[int]int // by base of a sequence: its first block
	size  int         // floats of a packed block of one head
}

// keyBlock is up to blockKeys keys from row tok on.
type keyBlock struct{ tok, n int }

func (a *attn) keyBlocks(spans []span) *keyBlocks {
	b := &keyBlocks{first: map[int]int{}, size: blockKeys / 2 * a.dk}
	for _, s := range spans {
		b.first[s.base] = len(b.list)
		for k := 0; k < s.n; k += blockKeys {
			b.list = append(b.list, keyBlock{s.base + k, min(blockKeys, s.n-k)})
		}
	}
	return b
}

// at is the packed block of a head that holds position k0 of the sequence at base.
func (b *keyBlocks) at(packed []float32, head, base, k0 int) []float32 {
	i := head*len(b.list) + b.first[base] + k0/blockKeys
	return packed[i*b.size:][:b.size]
}

// joinKeys packs rows of src as pairs of rows: [heads][blocks][blockKeys/2][d]. A
// last block ends with zeros to a multiple of 32 rows.
func (a *attn) joinKeys(b *keyBlocks, dst []float32, src plain, v kernels.Heads) {
	par.For(a.K*len(b.list), 8, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			head, blk := i/len(b.list), b.list[i%len(b.list)]
			to := dst[i*b.size:][:b.size]
			vec.JoinRows(to, a.dk, src.h[v.Off+blk.tok*v.Tok+head*v.Head:], v.Tok, blk.n, a.dk)
			clear(to[(blk.n+1)/2*a.dk : roundUp(blk.n, 32)/2*a.dk])
		}
	})
}

// turnKeys packs rows of src as columns of pairs: [heads][blocks][d/2][blockKeys].
func (a *attn) turnKeys(b *keyBlocks, dst []float32, src plain, v kernels.Heads) {
	par.For(a.K*len(b.list), 8, func(lo, hi int) {
		tmp := a.c.scratch.take(b.size)
		defer a.c.scratch.give(tmp)
		rows := wordsOf(tmp)
		for i := lo; i < hi; i++ {
			head, blk := i/len(b.list), b.list[i%len(b.list)]
			for t := range blk.n {
				copy(rows[t*a.dk:][:a.dk], src.h[v.Off+(blk.tok+t)*v.Tok+head*v.Head:])
			}
			vec.Transpose(dst[i*b.size:], blockKeys, tmp, a.dk/2, blk.n, a.dk/2)
		}
	})
}

// wordsOf views memory as bf16.
func wordsOf(x []float32) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(x))), 2*len(x))
}

// forwardPairs is forward in pairs.
func (a *attn) forwardPairs(spans []span) {
	b := a.keyBlocks(spans)
	n := a.K * len(b.list) * b.size
	w := a.c.workspace(2 * n)
	defer w.free()
	f := &pairForward{attn: a, blocks: b, kt: w.take(n), v: w.take(n)}
	a.turnKeys(b, f.kt, a.ks, a.kv)
	a.joinKeys(b, f.v, a.vs, a.vv)
	f.tokens = max(1, pairRows/a.g)
	var pieces []span
	for _, s := range spans {
		for t := 0; t < s.n; t += f.tokens {
			pieces = append(pieces, span{s.tok + t, min(f.tokens, s.n-t), s.pos + t, s.base, s.keys})
		}
	}
	par.For(len(pieces)*a.K, 2, func(lo, hi int) {
		r := f.newRows()
		for i := lo; i < hi; i++ {
			r.run(pieces[len(pieces)-1-i/a.K], i%a.K) // the longest first
		}
		a.c.scratch.give(r.memory)
	})
}

// pairForward is one call.
type pairForward struct {
	*attn
	blocks *keyBlocks
	kt, v  []float32
	tokens int // of a block of rows
}

// pairRowsOf is a block of rows on its way through the keys.
type pairRowsOf struct {
	*pairForward
	q, out, s, p []float32 // [m, d] bf16, [m, d], [m, blockKeys], [m, blockKeys] bf16
	rows         []vec.SoftRow
	memory       []float32
}

func (f *pairForward) newRows() *pairRowsOf {
	m := f.tokens * f.g
	r := &pairRowsOf{pairForward: f, rows: make([]vec.SoftRow, m)}
	r.memory = f.c.scratch.take(m*f.dk/2 + m*f.dk + m*blockKeys + m*blockKeys/2)
	x := r.memory
	r.q, r.out, r.s, r.p = cut(&x, m*f.dk/2), cut(&x, m*f.dk), cut(&x, m*blockKeys), cut(&x, m*blockKeys/2)
	return r
}

func (f *pairRowsOf) run(s span, head int) {
	m, d := s.n*f.g, f.dk
	q := wordsOf(f.q)
	for r := range m {
		copy(q[r*d:][:d], f.qs.h[f.attn.q.Off+(s.tok+r/f.g)*f.attn.q.Tok+(head*f.g+r%f.g)*f.attn.q.Head:])
		f.rows[r] = vec.SoftRow{Top: lowest}
	}
	clear(f.out[:m*d])
	first, last := f.reach(s.pos, s.n, s.keys)
	scale := float32(float64(f.scale) * math.Log2E)
	for k0 := first &^ (blockKeys - 1); k0 < last; k0 += blockKeys {
		w := min(blockKeys, last-k0)
		vec.MatMulPairs(f.s, blockKeys, f.q, d/2, f.blocks.at(f.kt, head, s.base, k0), blockKeys, m, pad16(w), d/2, false, false)
		for r := range m {
			f.rows[r].Live = vec.LiveFrom(f.visible(s.pos+r/f.g, k0, w, s.keys))
		}
		vec.Soften(wordsOf(f.p), f.s, blockKeys, m, roundUp(w, 32), f.rows, scale)
		for r := range m {
			if shrink := f.rows[r].Shrink; shrink != 1 {
				row := f.out[r*d:][:d]
				vec.MulScale(row, row, nil, shrink)
			}
		}
		vec.MatMulPairs(f.out, d, f.p, blockKeys/2, f.blocks.at(f.v, head, s.base, k0), d, m, d, roundUp(w, 32)/2, false, true)
	}
	f.store(s, head, m)
}

// store divides by the sums and writes o and lse.
func (f *pairRowsOf) store(s span, head, m int) {
	for r := range m {
		tok, h, soft := s.tok+r/f.g, head*f.g+r%f.g, &f.rows[r]
		factor, lse := 1/float64(soft.Sum), math.Ln2*(float64(soft.Top)+math.Log2(float64(soft.Sum)))
		if f.sinks != nil {
			factor, lse = f.settle(h, math.Ln2*float64(soft.Top), float64(soft.Sum))
		}
		f.write(tok, h, f.out[r*f.dk:][:f.dk], factor, lse)
	}
}
