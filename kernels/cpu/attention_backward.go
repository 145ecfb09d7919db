package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// AttentionBackward computes the gradients from do, o and the log-sum-exp of
// the forward; scores are computed again block by block.
//
// Each sequence is cut into chunks of tokens. A task takes one pair of a chunk
// of queries and a chunk of keys at or before it. Tasks run in rounds: round r
// takes the pairs whose chunks lie r apart, so no two tasks of a round write
// the same rows of dq, dk or dv, and every row is summed in order of rounds
// whatever the number of threads.
func (c *CPU) AttentionBackward(dq, dk, dv kernels.Heads, do, o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	for _, x := range []kernels.Heads{dq, do, o, q} {
		wantHeads("attention backward: dq, do, o, q", x, a.N, a.H, a.D)
	}
	for _, x := range []kernels.Heads{dk, dv, k, v} {
		wantHeads("attention backward: dk, dv, k, v", x, a.N, a.K, a.D)
	}
	want("attention backward: lse", lse, a.N*a.H)
	at := &attnBack{attn: c.newAttn(o, q, k, v, a), do: do, dq: dq, dk: dk, dv: dv}
	at.lse = f32(lse)
	at.dos, at.dqs, at.dks, at.dvs = plainOf(do.Buffer), plainOf(dq.Buffer), plainOf(dk.Buffer), plainOf(dv.Buffer)
	spans := sequences(a)
	if at.inPairs(a) {
		at.runPairs(spans, a.N)
		return
	}
	for r := 0; at.round(spans, r); r++ {
	}
}

type attnBack struct {
	*attn
	do, dq, dk, dv     kernels.Heads
	dos, dqs, dks, dvs plain
}

// pair is a chunk of queries and a chunk of keys of one sequence.
type pair struct {
	s        span
	qlo, qhi int // positions
	klo, khi int
}

// pairs are those that lie r chunks apart.
func (a *attnBack) pairs(spans []span, r int) []pair {
	var pairs []pair
	for _, s := range spans {
		for k := 0; k+r*chunkTokens < s.n; k += chunkTokens {
			q := k + r*chunkTokens
			p := pair{s, q, min(q+chunkTokens, s.n), k, min(k+chunkTokens, s.n)}
			if first, _ := a.keys(p.qlo, p.qhi); first < p.khi {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// round runs the pairs of round r and reports whether there were any.
func (a *attnBack) round(spans []span, r int) bool {
	pairs := a.pairs(spans, r)
	par.For(len(pairs)*a.k, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b := a.newBackward(pairs[i/a.k], i%a.k, r > 0)
			b.run()
			a.c.scratch.give(b.memory)
		}
	})
	return len(pairs) > 0
}

// backward is one task: a pair of chunks for one key head.
type backward struct {
	*attnBack
	pair
	head       int
	more       bool      // add to what earlier rounds wrote
	k, kt, vt  []float32 // packed chunk of keys: rows, and transposed blocks
	dkAcc      []float32 // [chunk, dp]
	dvAcc      []float32
	q, do, dq  []float32 // block of rows [m, dp]
	p, ds      []float32 // [m, blockKeys]
	delta, lse []float32 // [m] Σ do·o, log-sum-exp
	memory     []float32
}

func (a *attnBack) newBackward(p pair, head int, more bool) *backward {
	b := &backward{attnBack: a, pair: p, head: head, more: more}
	m := a.rowsTokens * a.g
	chunk := chunkTokens * a.dp
	b.memory = a.c.scratch.take(5*chunk + 3*m*a.dp + 2*m*blockKeys + 2*m)
	x := b.memory
	b.k, b.kt, b.vt, b.dkAcc, b.dvAcc = cut(&x, chunk), cut(&x, chunk), cut(&x, chunk), cut(&x, chunk), cut(&x, chunk)
	b.q, b.do, b.dq = cut(&x, m*a.dp), cut(&x, m*a.dp), cut(&x, m*a.dp)
	b.p, b.ds = cut(&x, m*blockKeys), cut(&x, m*blockKeys)
	b.delta, b.lse = cut(&x, m), cut(&x, m)
	return b
}

func (b *backward) run() {
	tok, n := b.s.base+b.klo, b.khi-b.klo
	b.packKeys(b.k, b.ks, b.kv, tok, n, b.head)
	b.packT(b.kt, b.ks, b.kv, tok, n, b.head)
	b.packT(b.vt, b.vs, b.vv, tok, n, b.head)
	clear(b.dkAcc[:n*b.dp])
	clear(b.dvAcc[:n*b.dp])
	for t := b.qlo; t < b.qhi; t += b.rowsTokens {
		b.rows(t, min(b.rowsTokens, b.qhi-t))
	}
	b.storeKeys(b.dks, b.attnBack.dk, b.dkAcc)
	b.storeKeys(b.dvs, b.attnBack.dv, b.dvAcc)
}

// rows takes nt tokens from position t on through all keys of the chunk.
func (b *backward) rows(t, nt int) {
	s := span{tok: b.s.tok + t, n: nt}
	b.packRows(b.q, b.qs, b.attn.q, s, b.head)
	b.packRows(b.do, b.dos, b.attnBack.do, s, b.head)
	m := nt * b.g
	b.statistics(s, m)
	clear(b.dq[:m*b.dp])
	first, last := b.keys(t, t+nt)
	for k0 := b.klo; k0 < b.khi; k0 += blockKeys {
		if w := min(blockKeys, b.khi-k0, last-k0); w > 0 && k0+w > first {
			b.block(t, m, k0, w)
		}
	}
	b.storeRows(s, m)
}

// statistics reads lse and computes delta = Σ do·o of every row.
func (b *backward) statistics(s span, m int) {
	for r := range m {
		tok, h := s.tok+r/b.g, b.head*b.g+r%b.g
		at := b.o.Off + tok*b.o.Tok + h*b.o.Head
		b.delta[r] = vec.Dot(b.do[r*b.dp:][:b.d], b.os.get(b.p[:b.d], at))
		b.lse[r] = b.attn.lse[tok*b.h+h]
	}
}

// block: with P the weights, dP = dO·Vᵀ and dS = P∘(dP-delta)·scale (times the
// slope of capped scores):
// dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K.
func (b *backward) block(t, m, k0, w int) {
	at := (k0 - b.klo) * b.dp
	wp := pad16(w)
	vec.MatMul(b.p, blockKeys, b.q, b.dp, b.kt[at:], blockKeys, m, wp, b.d, false, false)
	vec.MatMul(b.ds, blockKeys, b.do, b.dp, b.vt[at:], blockKeys, m, wp, b.d, false, false)
	var slope [blockKeys]float32
	for r := range m {
		p, ds := b.p[r*blockKeys:r*blockKeys+w], b.ds[r*blockKeys:r*blockKeys+w]
		lo, hi := b.visible(t+r/b.g, k0, w)
		if b.squeeze > 0 {
			b.cap(p[lo:hi], slope[lo:hi])
		}
		vec.ExpSum(p[lo:hi], p[lo:hi], b.scale, b.lse[r])
		vec.SoftGrad(ds[lo:hi], p[lo:hi], b.delta[r], b.scale)
		if b.squeeze > 0 {
			vec.MulScale(ds[lo:hi], ds[lo:hi], slope[lo:hi], 1)
		}
		for _, x := range [][]float32{p[:lo], p[hi:], ds[:lo], ds[hi:]} {
			clear(x)
		}
	}
	if !b.dvs.absent() {
		vec.MatMul(b.dvAcc[at:], b.dp, b.p, blockKeys, b.do, b.dp, w, b.dp, m, true, true)
	}
	if !b.dks.absent() {
		vec.MatMul(b.dkAcc[at:], b.dp, b.ds, blockKeys, b.q, b.dp, w, b.dp, m, true, true)
	}
	if !b.dqs.absent() {
		vec.MatMul(b.dq, b.dp, b.ds, blockKeys, b.k[at:], b.dp, m, b.dp, w, false, true)
	}
}

func (b *backward) storeRows(s span, m int) {
	if b.dqs.absent() {
		return
	}
	v := b.attnBack.dq
	for r := range m {
		at := v.Off + (s.tok+r/b.g)*v.Tok + (b.head*b.g+r%b.g)*v.Head
		b.dqs.store(b.dq[r*b.dp:][:b.d], at, b.more || v.Add, b.p[:b.d])
	}
}

func (b *backward) storeKeys(dst plain, v kernels.Heads, acc []float32) {
	if dst.absent() {
		return
	}
	for i := range b.khi - b.klo {
		at := v.Off + (b.s.base+b.klo+i)*v.Tok + b.head*v.Head
		dst.store(acc[i*b.dp:][:b.d], at, b.more || v.Add, b.p[:b.d])
	}
}
