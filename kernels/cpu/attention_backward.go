package cpu

import (
	"math"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// AttentionBackward computes the gradients from do, o and the log-sum-exp of
// the forward; scores are computed again block by block.
//
// Each sequence is cut into chunks of tokens. A task takes one pair of a chunk
// of queries and a chunk of keys. Tasks run in rounds: round r takes the pairs
// whose chunks lie r apart, so no two tasks of a round write the same rows of
// dq, dk or dv, and every row is summed in order of rounds whatever the number
// of threads.
func (c *CPU) AttentionBackward(g *kernels.AttnGrads, do, o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	at := &attnBack{attn: c.newAttn(o, q, k, v, a), do: do, dq: g.Q, dkeys: g.K, dvalues: g.V}
	wantHeads("attention backward: do", do, a.N, a.H, at.dv)
	wantHeads("attention backward: dq", g.Q, a.N, a.H, at.dk)
	wantHeads("attention backward: dk", g.K, a.Keys(), a.K, at.dk)
	wantHeads("attention backward: dv", g.V, a.Keys(), a.K, at.dv)
	want("attention backward: lse", lse, a.N*a.H)
	want("attention backward: dsinks", g.Sinks.Buffer, a.H)
	want("attention backward: drel", g.Rel.Buffer, a.Span*a.H)
	at.lse = f32(lse)
	at.dos, at.dqs, at.dks, at.dvs = plainOf(do.Buffer), plainOf(g.Q.Buffer), plainOf(g.K.Buffer), plainOf(g.V.Buffer)
	if !g.Rel.Skip() && a.Rel != nil {
		if at.drel = f32(g.Rel.Buffer)[:a.Span*a.H]; !g.Rel.Add {
			clear(at.drel)
		}
	}
	spans := sequences(a)
	switch {
	case a.Pick != nil:
		at.runPicked(spans)
	case at.inPairs():
		at.runPairs(spans, a.N)
	default:
		at.runRounds(spans)
	}
	if !g.Sinks.Skip() && a.Sinks != nil {
		at.sinkGrad(g.Sinks)
	}
}

type attnBack struct {
	*attn
	do, dq, dkeys, dvalues kernels.Heads
	dos, dqs, dks, dvs     plain
	drel                   []float32 // [Span, H] to add to; nil: not wanted
}

// pair is a chunk of queries and a chunk of keys of one sequence.
type pair struct {
	s        span
	qlo, qhi int // positions
	klo, khi int
}

// around reports whether rounds go around: where queries are not at the
// positions of the keys or see what follows them, chunk i of keys meets chunk
// i+r of queries modulo the larger number of chunks.
func (a *attnBack) around() bool { return a.Full || a.SeqKV != nil }

// rounds is how many rounds there are.
func (a *attnBack) rounds(spans []span) int {
	most := 0
	for _, s := range spans {
		most = max(most, s.n, s.keys)
	}
	return (most + chunkTokens - 1) / chunkTokens
}

// pairs are those of round r, without those of which no key is seen.
func (a *attnBack) pairs(spans []span, r int) []pair {
	var pairs []pair
	for _, s := range spans {
		most := max(s.n, s.keys)
		for k := 0; k < s.keys; k += chunkTokens {
			q := k + r*chunkTokens
			if end := roundUp(most, chunkTokens); a.around() && q >= end {
				q -= end
			}
			if q >= s.n || r*chunkTokens >= most {
				continue
			}
			p := pair{s, s.pos + q, s.pos + min(q+chunkTokens, s.n), k, min(k+chunkTokens, s.keys)}
			if first, last := a.reach(p.qlo, p.qhi-p.qlo, s.keys); first < p.khi && p.klo < last {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// runRounds runs all rounds in float32. Where they go around not every row has
// a part in the first, so sums begin with zeros and are written at the end.
func (a *attnBack) runRounds(spans []span) {
	if a.around() {
		defer a.sumFirst(&a.dqs, &a.dq, a.N, a.H, a.dk)()
		defer a.sumFirst(&a.dks, &a.dkeys, a.Keys(), a.K, a.dk)()
		defer a.sumFirst(&a.dvs, &a.dvalues, a.Keys(), a.K, a.dv)()
	}
	for r := range a.rounds(spans) {
		pairs := a.pairs(spans, r)
		sums := a.newRelSums(len(pairs))
		par.For(len(pairs)*a.K, 1, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				b := a.newBackward(pairs[i/a.K], i%a.K, r > 0)
				b.rel = sums.part(i/a.K, i%a.K)
				b.run()
				a.c.scratch.give(b.memory)
			}
		})
		sums.add()
	}
}

// sumFirst puts zeros [n, h, d] in the place of a destination; the function that
// it returns brings what was added to them to where it belongs.
func (a *attnBack) sumFirst(dst *plain, v *kernels.Heads, n, h, d int) (finish func()) {
	if dst.absent() {
		return func() {}
	}
	w, to, at := a.c.workspace(n*h*d), *dst, *v
	sums := w.take(n * h * d)
	a.c.eachRow(n, h*d, func(i int, _ []float32) { clear(sums[i*h*d:][:h*d]) })
	*dst, *v = plain{f: sums}, kernels.Heads{Tok: h * d, Head: d, Add: true}
	return func() {
		a.c.eachRow(n, h*d, func(i int, tmp []float32) {
			for j := range h {
				to.store(sums[(i*h+j)*d:][:d], at.Off+i*at.Tok+j*at.Head, at.Add, tmp[:d])
			}
		})
		w.free()
	}
}

// backward is one task: a pair of chunks for one key head.
type backward struct {
	*attnBack
	pair
	head        int
	more        bool      // add to what is there
	k, kt, vt   []float32 // packed chunk of keys: rows, and transposed blocks
	dkAcc       []float32 // [chunk, kp]
	dvAcc       []float32 // [chunk, vp]
	q, rdo, rdq []float32 // block of rows [m, kp], [m, vp], [m, kp]
	p, ds       []float32 // [m, blockKeys]
	delta, rlse []float32 // [m] Σ do·o, log-sum-exp
	slope       []float32 // [blockKeys] of squeezed scores
	rel         []float64 // [g, Span] or nil
	memory      []float32
}

func (a *attnBack) newBackward(p pair, head int, more bool) *backward {
	b := &backward{attnBack: a, pair: p, head: head, more: more}
	m := a.rowsTokens * a.g
	keys, values := chunkTokens*a.kp, chunkTokens*a.vp
	b.memory = a.c.scratch.take(3*keys + 2*values + m*(2*a.kp+a.vp) + (2*m+1)*blockKeys + 2*m)
	x := b.memory
	b.k, b.kt, b.vt, b.dkAcc, b.dvAcc = cut(&x, keys), cut(&x, keys), cut(&x, values), cut(&x, keys), cut(&x, values)
	b.q, b.rdo, b.rdq = cut(&x, m*a.kp), cut(&x, m*a.vp), cut(&x, m*a.kp)
	b.p, b.ds, b.slope = cut(&x, m*blockKeys), cut(&x, m*blockKeys), cut(&x, blockKeys)
	b.delta, b.rlse = cut(&x, m), cut(&x, m)
	return b
}

func (b *backward) run() {
	n := b.khi - b.klo
	b.packKeys(b.k, b.ks, b.kv, b.s.base, b.klo, n, b.head, b.dk)
	b.packT(b.kt, b.ks, b.kv, b.s.base, b.klo, n, b.head, b.dk)
	b.packT(b.vt, b.vs, b.vv, b.s.base, b.klo, n, b.head, b.dv)
	clear(b.dkAcc[:n*b.kp])
	clear(b.dvAcc[:n*b.vp])
	for t := b.qlo; t < b.qhi; t += b.rowsTokens {
		b.rows(t, min(b.rowsTokens, b.qhi-t))
	}
	b.storeKeys(b.dks, b.dkeys, b.dkAcc, b.dk)
	b.storeKeys(b.dvs, b.dvalues, b.dvAcc, b.dv)
}

// rows takes nt tokens from position t on through all keys of the chunk.
func (b *backward) rows(t, nt int) {
	s := span{tok: b.s.tok + t - b.s.pos, n: nt}
	b.packRows(b.q, b.qs, b.attn.q, s, b.head, b.dk)
	b.packRows(b.rdo, b.dos, b.do, s, b.head, b.dv)
	m := nt * b.g
	b.statistics(s, m)
	clear(b.rdq[:m*b.kp])
	first, last := b.reach(t, nt, b.s.keys)
	for k0 := b.klo; k0 < b.khi; k0 += blockKeys {
		if w := min(blockKeys, b.khi-k0, last-k0); w > 0 && k0+w > first {
			b.block(t, m, k0, w)
		}
	}
	b.storeRows(s, m)
}

// statistics reads lse and computes delta = Σ do·o of every row.
func (b *backward) statistics(s span, m int) {
	tmp := b.c.scratch.take(b.dv)
	defer b.c.scratch.give(tmp)
	for r := range m {
		tok, h := s.tok+r/b.g, b.head*b.g+r%b.g
		at := b.o.Off + tok*b.o.Tok + h*b.o.Head
		b.delta[r] = vec.Dot(b.rdo[r*b.vp:][:b.dv], b.os.get(tmp, at))
		b.rlse[r] = b.lse[tok*b.H+h]
	}
}

// block: with P the weights, dP = dO·Vᵀ and dS = P∘(dP-delta)·scale (times the
// slope of capped scores):
// dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K.
func (b *backward) block(t, m, k0, w int) {
	at := k0 - b.klo
	wp := pad16(w)
	vec.MatMul(b.p, blockKeys, b.q, b.kp, b.kt[at*b.kp:], blockKeys, m, wp, b.dk, false, false)
	vec.MatMul(b.ds, blockKeys, b.rdo, b.vp, b.vt[at*b.vp:], blockKeys, m, wp, b.dv, false, false)
	for r := range m {
		p, ds := b.p[r*blockKeys:r*blockKeys+w], b.ds[r*blockKeys:r*blockKeys+w]
		pos, h := t+r/b.g, r%b.g
		lo, hi := b.visible(pos, k0, w, b.s.keys)
		p0, ds0, slope := p[lo:hi], ds[lo:hi], b.slope[lo:hi]
		var rel []float64
		if b.rel != nil {
			rel = b.rel[h*b.Span:][:b.Span]
		}
		distance := func(j int) int { return pos - k0 - lo - j }
		b.shape(p0, slope, b.head*b.g+h, distance)
		vec.ExpSum(p0, p0, b.scale, b.rlse[r])
		b.unshape(ds0, p0, slope, b.delta[r], rel, distance)
		for _, x := range [][]float32{p[:lo], p[hi:], ds[:lo], ds[hi:]} {
			clear(x)
		}
	}
	if !b.dvs.absent() {
		vec.MatMul(b.dvAcc[at*b.vp:], b.vp, b.p, blockKeys, b.rdo, b.vp, w, b.vp, m, true, true)
	}
	if !b.dks.absent() {
		vec.MatMul(b.dkAcc[at*b.kp:], b.kp, b.ds, blockKeys, b.q, b.kp, w, b.kp, m, true, true)
	}
	if !b.dqs.absent() {
		vec.MatMul(b.rdq, b.kp, b.ds, blockKeys, b.k[at*b.kp:], b.kp, m, b.kp, w, false, true)
	}
}

func (b *backward) storeRows(s span, m int) {
	if b.dqs.absent() {
		return
	}
	tmp := b.c.scratch.take(b.dk)
	defer b.c.scratch.give(tmp)
	for r := range m {
		at := b.dq.Off + (s.tok+r/b.g)*b.dq.Tok + (b.head*b.g+r%b.g)*b.dq.Head
		b.dqs.store(b.rdq[r*b.kp:][:b.dk], at, b.more || b.dq.Add, tmp)
	}
}

// storeKeys writes the sums [chunk, d padded] of a chunk of keys.
func (b *backward) storeKeys(dst plain, v kernels.Heads, acc []float32, d int) {
	if dst.absent() {
		return
	}
	tmp := b.c.scratch.take(d)
	defer b.c.scratch.give(tmp)
	for i := range b.khi - b.klo {
		at := v.Off + (b.s.base+b.klo+i)*v.Tok + b.head*v.Head
		dst.store(acc[i*pad16(d):][:d], at, b.more || v.Add, tmp)
	}
}

// sinkGrad: a sink's weight p pulls against the values of all keys, so its
// gradient is -Σ p·delta over the tokens, in float64.
func (a *attnBack) sinkGrad(dst kernels.Dst) {
	out := f32(dst.Buffer)
	par.For(a.H, 1, func(lo, hi int) {
		tmp := a.c.scratch.take(2 * a.dv)
		defer a.c.scratch.give(tmp)
		for h := lo; h < hi; h++ {
			var sum float64
			for tok := range a.N {
				do := a.dos.get(tmp[:a.dv], a.do.Off+tok*a.do.Tok+h*a.do.Head)
				delta := vec.Dot(do, a.os.get(tmp[a.dv:], a.o.Off+tok*a.o.Tok+h*a.o.Head))
				sum -= math.Exp(float64(a.sinks[h])-float64(a.lse[tok*a.H+h])) * float64(delta)
			}
			if dst.Add {
				sum += float64(out[h])
			}
			out[h] = float32(sum)
		}
	})
}

// relSums are the gradients of Rel of one round: a part for every task.
type relSums struct {
	a      *attnBack
	groups int // tasks of a key head
	memory *workspace
	parts  []float64 // [groups, K, g, Span]
}

// newRelSums returns sums of no value when nobody wants them.
func (a *attnBack) newRelSums(groups int) *relSums {
	s := &relSums{a: a, groups: groups}
	if a.drel != nil && groups > 0 {
		n := groups * a.H * a.Span
		s.memory = a.c.workspace(2 * n)
		s.parts = doublesOf(s.memory.take(2 * n))
		clear(s.parts)
	}
	return s
}

// part is [g, Span] of the task of a group and a key head; nil when not wanted.
func (s *relSums) part(group, head int) []float64 {
	if s.parts == nil {
		return nil
	}
	n := s.a.g * s.a.Span
	return s.parts[(group*s.a.K+head)*n:][:n]
}

// doublesOf views memory as float64.
func doublesOf(x []float32) []float64 {
	return unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(x))), len(x)/2)
}

// add adds the parts to the result, in order of groups, and gives them back.
func (s *relSums) add() {
	if s.parts == nil {
		return
	}
	a := s.a
	par.For(a.H, 1, func(lo, hi int) {
		for h := lo; h < hi; h++ {
			for x := range a.Span {
				var sum float64
				for i := range s.groups {
					sum += s.parts[(i*a.H+h)*a.Span+x]
				}
				a.drel[x*a.H+h] += float32(sum)
			}
		}
	})
	s.memory.free()
}
