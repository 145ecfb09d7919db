package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Attention is computed in blocks, so that no [T, T] array exists (Dao et al.
// 2022, arXiv:2205.14135). The query heads of one key/value head and a run of
// tokens make the rows of a block; keys make its columns, packed once for many
// blocks of rows. Blocks that no row may see are skipped.
const (
	chunkTokens = 256 // tokens of a chunk: the unit of packing and of tasks
	blockKeys   = 128 // columns of a block
	blockRows   = 60  // rows of a block, about
)

// span is a run of consecutive query tokens of one sequence.
type span struct {
	tok  int // first row in q and o
	n    int // tokens
	pos  int // position of the first one among the keys
	base int // row in k and v of position 0
	keys int // keys of the sequence
}

// attn is one call's operands.
type attn struct {
	*kernels.AttnArgs
	c          *CPU
	g          int     // query heads a key head
	dk, dv     int     // of a query and a key, of a value
	kp, vp     int     // the same padded to 16
	scale      float32 // what scores are multiplied by on their way into exp
	squeeze    float32 // scores are squeezed by tanh(squeeze·s) first; 0: not
	scaled     float32 // with rel: what scores are multiplied by before it is added
	rel        []float32
	sinks      []float32
	ring       int // positions of a cache that starts over; 0: it does not
	qs, os     plain
	ks, vs     plain
	q, o       kernels.Heads
	kv, vv     kernels.Heads
	lse        []float32 // [N, H] or nil
	rowsTokens int       // tokens of a block of rows
}

func (c *CPU) newAttn(o, q, k, v kernels.Heads, a *kernels.AttnArgs) *attn {
	if a.H <= 0 || a.K <= 0 || a.H%a.K != 0 || a.Dk <= 0 || a.Values() <= 0 {
		panic(fmt.Sprintf("cpu: attention: %d query heads over %d key heads of %d and %d", a.H, a.K, a.Dk, a.Values()))
	}
	dk, dv := a.Dk, a.Values()
	wantHeads("attention: q", q, a.N, a.H, dk)
	wantHeads("attention: o", o, a.N, a.H, dv)
	wantHeads("attention: k", k, a.Keys(), a.K, dk)
	wantHeads("attention: v", v, a.Keys(), a.K, dv)
	want("attention: sinks", a.Sinks, a.H)
	want("attention: rel", a.Rel, a.Span*a.H)
	want("attention: pick", a.Pick, a.N*a.P)
	g := a.H / a.K
	at := &attn{AttnArgs: a, c: c, g: g, dk: dk, dv: dv, kp: pad16(dk), vp: pad16(dv), scale: a.Scale,
		rel: f32(a.Rel), sinks: f32(a.Sinks),
		qs: plainOf(q.Buffer), os: plainOf(o.Buffer), ks: plainOf(k.Buffer), vs: plainOf(v.Buffer),
		q: q, o: o, kv: k, vv: v, rowsTokens: max(1, blockRows/g)}
	if a.SoftCap > 0 {
		at.squeeze, at.scale = a.Scale/a.SoftCap, a.SoftCap
	}
	if a.Rel != nil {
		if a.RelZero < 0 || a.RelZero >= a.Span {
			panic(fmt.Sprintf("cpu: attention: row %d for a token's own position in a table of %d rows", a.RelZero, a.Span))
		}
		at.scaled, at.scale = at.scale, 1
	}
	return at
}

// rowOf is the row in k and v of a position of the sequence or slot at base.
func (a *attn) rowOf(base, pos int) int {
	if a.ring > 0 {
		pos %= a.ring
	}
	return base + pos
}

// together reports whether the rows of n positions from pos on follow one another.
func (a *attn) together(pos, n int) bool { return a.ring == 0 || pos%a.ring+n <= a.ring }

// bounds checks what cuts n tokens into sequences and returns it.
func bounds(what string, b kernels.Buffer, n int) []int32 {
	seq := i32(b)
	for i := 1; i < len(seq); i++ {
		if seq[i] < seq[i-1] {
			panic(fmt.Sprintf("cpu: attention: sequence %d of %s is %d … %d", i-1, what, seq[i-1], seq[i]))
		}
	}
	if len(seq) == 0 || seq[0] != 0 || int(seq[len(seq)-1]) != n {
		panic(fmt.Sprintf("cpu: attention: sequences %v do not cover %d tokens of %s", seq, n, what))
	}
	return seq
}

// sequences returns the spans of a packed batch.
func sequences(a *kernels.AttnArgs) []span {
	seq := bounds("queries", a.Seq, a.N)
	keys := seq
	if a.SeqKV != nil {
		if keys = bounds("keys", a.SeqKV, a.Keys()); len(keys) != len(seq) {
			panic(fmt.Sprintf("cpu: attention: %d sequences of queries, %d of keys", len(seq)-1, len(keys)-1))
		}
	}
	out := make([]span, 0, len(seq))
	for i := 1; i < len(seq); i++ {
		s := span{tok: int(seq[i-1]), n: int(seq[i] - seq[i-1]), base: int(keys[i-1]), keys: int(keys[i] - keys[i-1])}
		s.pos = s.keys - s.n
		if s.n > 0 {
			out = append(out, s)
		}
	}
	return out
}

// Attention is softmax(scores)·v within each sequence. Picked keys have a loop
// of their own, bf16 that may be rounded its own blocks; the blocks of float32 take all the rest.
func (c *CPU) Attention(o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	want("attention: lse", lse, a.N*a.H)
	at := c.newAttn(o, q, k, v, a)
	at.lse = f32(lse)
	spans := sequences(a)
	switch {
	case a.Pick != nil:
		at.forwardPicked(spans)
	case at.inPairs():
		at.forwardPairs(spans)
	default:
		at.forward(spans)
	}
}

// forward runs a task for every key head and piece of a span.
func (a *attn) forward(spans []span) {
	per := max(16, min(chunkTokens, (64<<10)/(a.g*max(a.kp, a.vp))))
	var pieces []span
	for _, s := range spans {
		for t := 0; t < s.n; t += per {
			pieces = append(pieces, span{s.tok + t, min(per, s.n-t), s.pos + t, s.base, s.keys})
		}
	}
	par.For(len(pieces)*a.K, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f := a.newForward(pieces[len(pieces)-1-i/a.K], i%a.K) // the longest first
			f.run()
			a.c.scratch.give(f.memory)
		}
	})
}

// forward is one task: all rows of a piece for one key head.
type forward struct {
	*attn
	span
	head   int
	m      int       // rows
	q, out []float32 // [m, kp], [m, vp]
	top    []float32 // [m] largest score so far, scaled
	sum    []float32 // [m]
	kt, v  []float32 // packed keys [blocks][dk][blockKeys], values [chunkTokens][vp]
	s      []float32 // [block rows, blockKeys]
	slope  []float32 // [blockKeys] of squeezed scores
	memory []float32
}

func (a *attn) newForward(s span, head int) *forward {
	f := &forward{attn: a, span: s, head: head, m: s.n * a.g}
	f.memory = a.c.scratch.take((f.m+chunkTokens)*(a.kp+a.vp) + 2*pad16(f.m) + (a.rowsTokens*a.g+1)*blockKeys)
	p := f.memory
	f.q, f.out = cut(&p, f.m*a.kp), cut(&p, f.m*a.vp)
	f.kt, f.v = cut(&p, chunkTokens*a.kp), cut(&p, chunkTokens*a.vp)
	f.s, f.slope = cut(&p, a.rowsTokens*a.g*blockKeys), cut(&p, blockKeys)
	f.top, f.sum = cut(&p, f.m), cut(&p, f.m)
	return f
}

func (f *forward) run() {
	f.packRows(f.q, f.qs, f.attn.q, f.span, f.head, f.dk)
	clear(f.out)
	clear(f.sum)
	for i := range f.top {
		f.top[i] = float32(math.Inf(-1))
	}
	first, last := f.reach(f.pos, f.n, f.keys)
	for k0 := first &^ (blockKeys - 1); k0 < last; k0 += chunkTokens {
		n := min(chunkTokens, last-k0)
		f.packT(f.kt, f.ks, f.kv, f.base, k0, n, f.head, f.dk)
		f.packKeys(f.v, f.vs, f.vv, f.base, k0, n, f.head, f.dv)
		for t := 0; t < f.n; t += f.rowsTokens {
			f.rows(t, min(f.rowsTokens, f.n-t), k0, n)
		}
	}
	f.finish()
}

// reach is the range of positions that n tokens from position p on see, of the
// keys that there are.
func (a *attn) reach(p, n, keys int) (first, last int) {
	first, _ = a.Seen(p, keys)
	_, last = a.Seen(p+n-1, keys)
	return first, last
}

// visible is the part of the n keys from position k0 that position p sees.
func (a *attn) visible(p, k0, n, keys int) (lo, hi int) {
	lo, hi = a.Seen(p, keys)
	lo = min(max(0, lo-k0), n)
	return lo, max(lo, min(n, hi-k0))
}

// rows brings nt tokens from the t-th of the span on up to date with the keys
// of one chunk.
func (f *forward) rows(t, nt, k0, n int) {
	r0, m := t*f.g, nt*f.g
	q, out := f.q[r0*f.kp:(r0+m)*f.kp], f.out[r0*f.vp:(r0+m)*f.vp]
	first, last := f.reach(f.pos+t, nt, f.keys)
	for b := 0; b < n; b += blockKeys {
		w := min(blockKeys, n-b, last-k0-b) // no further than the last token sees
		if w <= 0 || k0+b+w <= first {
			continue
		}
		vec.MatMul(f.s, blockKeys, q, f.kp, f.kt[b*f.kp:], blockKeys, m, pad16(w), f.dk, false, false)
		for r := range m {
			s, p := f.s[r*blockKeys:r*blockKeys+w], f.pos+t+r/f.g
			f.shape(s, f.slope[:w], f.head*f.g+r%f.g, func(j int) int { return p - k0 - b - j })
			f.soften(r0+r, s, p, k0+b)
		}
		vec.MatMul(out, f.vp, f.s, blockKeys, f.v[b*f.vp:], f.vp, m, f.vp, w, false, true)
	}
}

// soften turns a row of scores into weights relative to the row's largest
// score so far, and rescales what the row has summed up when that changes.
func (f *forward) soften(r int, s []float32, p, k0 int) {
	lo, hi := f.visible(p, k0, len(s), f.keys)
	clear(s[:lo])
	clear(s[hi:])
	if lo == hi {
		return
	}
	s = s[lo:hi]
	if top := f.scale * vec.Max(s); top > f.top[r] {
		shrink := float32(math.Exp(float64(f.top[r]) - float64(top)))
		f.top[r] = top
		f.sum[r] *= shrink
		row := f.out[r*f.vp : (r+1)*f.vp]
		vec.MulScale(row, row, nil, shrink)
	}
	f.sum[r] += vec.ExpSum(s, s, f.scale, f.top[r])
}

// finish divides by the sums and writes o and lse.
func (f *forward) finish() {
	for r := range f.m {
		tok, h := f.tok+r/f.g, f.head*f.g+r%f.g
		factor, lse := f.settle(h, float64(f.top[r]), float64(f.sum[r]))
		f.write(tok, h, f.out[r*f.vp:][:f.dv], factor, lse)
	}
}

func pad16(n int) int { return (n + 15) &^ 15 }

// packRows copies the rows of a span (token by token, the heads of one key
// head inside) to dst [n·g, d padded], zeros behind d.
func (a *attn) packRows(dst []float32, src plain, v kernels.Heads, s span, head, d int) {
	for t := range s.n {
		for j := range a.g {
			at := v.Off + (s.tok+t)*v.Tok + (head*a.g+j)*v.Head
			row := dst[(t*a.g+j)*pad16(d):][:pad16(d)]
			src.copy(row[:d], at)
			clear(row[d:])
		}
	}
}

// packKeys copies n rows of a key head from position k0 on to dst [n, d padded].
func (a *attn) packKeys(dst []float32, src plain, v kernels.Heads, base, k0, n, head, d int) {
	for i := range n {
		at := v.Off + a.rowOf(base, k0+i)*v.Tok + head*v.Head
		row := dst[i*pad16(d):][:pad16(d)]
		src.copy(row[:d], at)
		clear(row[d:])
	}
}

// packT transposes n rows of a key head from position k0 on to dst, block after
// block of [d, blockKeys] (d padded · blockKeys apart); what pads a block to 16
// columns is 0.
func (a *attn) packT(dst []float32, src plain, v kernels.Heads, base, k0, n, head, d int) {
	for b := 0; b < n; b += blockKeys {
		w := min(blockKeys, n-b)
		blk := dst[b*pad16(d):]
		if src.h == nil && a.together(k0+b, w) {
			vec.Transpose(blk, blockKeys, src.f[v.Off+a.rowOf(base, k0+b)*v.Tok+head*v.Head:], v.Tok, w, d)
		} else {
			wide := a.c.scratch.take(w * d)
			for i := range w {
				src.copy(wide[i*d:][:d], v.Off+a.rowOf(base, k0+b+i)*v.Tok+head*v.Head)
			}
			vec.Transpose(blk, blockKeys, wide, d, w, d)
			a.c.scratch.give(wide)
		}
		if p := pad16(w); p != w {
			for i := range d {
				clear(blk[i*blockKeys+w : i*blockKeys+p])
			}
		}
	}
}
