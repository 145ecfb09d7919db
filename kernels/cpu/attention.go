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
	pos  int // position of the first one
	base int // row in k and v of position 0
}

// attn is one call's operands.
type attn struct {
	c          *CPU
	h, k, d    int
	g, dp      int     // query heads a key head; d padded to 16
	scale      float32 // of scores, or of what cap leaves of them
	squeeze    float32 // scores are squeezed by tanh(squeeze·s) first; 0: not
	window     int
	qs, os     plain
	ks, vs     plain
	q, o       kernels.Heads
	kv, vv     kernels.Heads
	lse        []float32 // [N, H] or nil
	rowsTokens int       // tokens of a block of rows
}

func (c *CPU) newAttn(o, q, k, v kernels.Heads, a *kernels.AttnArgs) *attn {
	if a.H <= 0 || a.K <= 0 || a.H%a.K != 0 || a.D <= 0 {
		panic(fmt.Sprintf("cpu: attention: %d query heads over %d key heads of %d", a.H, a.K, a.D))
	}
	g := a.H / a.K
	at := &attn{c: c, h: a.H, k: a.K, d: a.D, g: g, dp: (a.D + 15) &^ 15, scale: a.Scale, window: a.Window,
		qs: plainOf(q.Buffer), os: plainOf(o.Buffer), ks: plainOf(k.Buffer), vs: plainOf(v.Buffer),
		q: q, o: o, kv: k, vv: v, rowsTokens: max(1, blockRows/g)}
	if a.SoftCap > 0 {
		at.squeeze, at.scale = a.Scale/a.SoftCap, a.SoftCap
	}
	return at
}

// cap squeezes a row of raw scores, at most blockKeys of them; slope is what
// their gradients are then multiplied by.
func (a *attn) cap(s, slope []float32) {
	vec.MulScale(s, s, nil, a.squeeze)
	vec.Tanh.Slope(s, slope, s)
	vec.MulScale(slope, slope, nil, a.squeeze)
}

// sequences returns the spans of a packed batch.
func sequences(a *kernels.AttnArgs) []span {
	seq := i32(a.Seq)
	out := make([]span, 0, len(seq))
	for i := 1; i < len(seq); i++ {
		lo, hi := int(seq[i-1]), int(seq[i])
		if hi < lo {
			panic(fmt.Sprintf("cpu: attention: sequence %d is %d … %d", i-1, lo, hi))
		}
		if hi > lo {
			out = append(out, span{tok: lo, n: hi - lo, base: lo})
		}
	}
	if len(seq) == 0 || seq[0] != 0 || int(seq[len(seq)-1]) != a.N {
		panic(fmt.Sprintf("cpu: attention: sequences %v do not cover %d tokens", seq, a.N))
	}
	return out
}

// Attention is softmax(Scale·q·kᵀ)·v, causal, within each sequence.
func (c *CPU) Attention(o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	wantHeads("attention: q", q, a.N, a.H, a.D)
	wantHeads("attention: k", k, a.N, a.K, a.D)
	wantHeads("attention: v", v, a.N, a.K, a.D)
	wantHeads("attention: o", o, a.N, a.H, a.D)
	want("attention: lse", lse, a.N*a.H)
	at := c.newAttn(o, q, k, v, a)
	at.lse = f32(lse)
	if at.inPairs(a) {
		at.forwardPairs(sequences(a))
		return
	}
	at.forward(sequences(a))
}

// forward runs a task for every key head and piece of a span.
func (a *attn) forward(spans []span) {
	per := max(16, min(chunkTokens, (64<<10)/(a.g*a.dp)))
	var pieces []span
	for _, s := range spans {
		for t := 0; t < s.n; t += per {
			pieces = append(pieces, span{tok: s.tok + t, n: min(per, s.n-t), pos: s.pos + t, base: s.base})
		}
	}
	par.For(len(pieces)*a.k, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f := a.newForward(pieces[len(pieces)-1-i/a.k], i%a.k) // the longest first
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
	q, out []float32 // [m, dp]
	top    []float32 // [m] largest score so far, scaled
	sum    []float32 // [m]
	kt, v  []float32 // packed keys [blocks][d][blockKeys], values [chunkTokens][dp]
	s      []float32 // [block rows, blockKeys]
	memory []float32
}

func (a *attn) newForward(s span, head int) *forward {
	f := &forward{attn: a, span: s, head: head, m: s.n * a.g}
	f.memory = a.c.scratch.take(2*f.m*a.dp + 2*((f.m+15)&^15) + 2*chunkTokens*a.dp + a.rowsTokens*a.g*blockKeys)
	p := f.memory
	f.q, f.out = cut(&p, f.m*a.dp), cut(&p, f.m*a.dp)
	f.kt, f.v = cut(&p, chunkTokens*a.dp), cut(&p, chunkTokens*a.dp)
	f.s = cut(&p, a.rowsTokens*a.g*blockKeys)
	f.top, f.sum = cut(&p, f.m), cut(&p, f.m)
	return f
}

func (f *forward) run() {
	f.packRows(f.q, f.qs, f.attn.q, f.span, f.head)
	clear(f.out)
	clear(f.sum)
	for i := range f.top {
		f.top[i] = float32(math.Inf(-1))
	}
	first, last := f.keys(f.pos, f.pos+f.n)
	for k0 := first &^ (blockKeys - 1); k0 < last; k0 += chunkTokens {
		n := min(chunkTokens, last-k0)
		f.packT(f.kt, f.ks, f.kv, f.base+k0, n, f.head)
		f.packKeys(f.v, f.vs, f.vv, f.base+k0, n, f.head)
		for t := 0; t < f.n; t += f.rowsTokens {
			f.rows(t, min(f.rowsTokens, f.n-t), k0, n)
		}
	}
	f.finish()
}

// keys is the range of positions that tokens at positions [lo, hi) see.
func (a *attn) keys(lo, hi int) (first, last int) {
	if a.window > 0 {
		first = max(0, lo-a.window+1)
	}
	return first, hi
}

// visible is the part of the n keys from position k0 that position p sees.
func (a *attn) visible(p, k0, n int) (lo, hi int) {
	if a.window > 0 {
		lo = min(max(0, p-a.window+1-k0), n)
	}
	return lo, max(lo, min(n, p+1-k0))
}

// rows brings nt tokens from the t-th of the span on up to date with the keys
// of one chunk.
func (f *forward) rows(t, nt, k0, n int) {
	r0, m := t*f.g, nt*f.g
	q, out := f.q[r0*f.dp:(r0+m)*f.dp], f.out[r0*f.dp:(r0+m)*f.dp]
	first, last := f.keys(f.pos+t, f.pos+t+nt)
	for b := 0; b < n; b += blockKeys {
		w := min(blockKeys, n-b, last-k0-b) // no further than the last token sees
		if w <= 0 || k0+b+w <= first {
			continue
		}
		vec.MatMul(f.s, blockKeys, q, f.dp, f.kt[b*f.dp:], blockKeys, m, pad16(w), f.d, false, false)
		for r := range m {
			if f.squeeze > 0 {
				var slope [blockKeys]float32
				f.cap(f.s[r*blockKeys:r*blockKeys+w], slope[:w])
			}
			f.soften(r0+r, f.s[r*blockKeys:r*blockKeys+w], f.pos+t+r/f.g, k0+b)
		}
		vec.MatMul(out, f.dp, f.s, blockKeys, f.v[b*f.dp:], f.dp, m, f.dp, w, false, true)
	}
}

// soften turns a row of scores into weights relative to the row's largest
// score so far, and rescales what the row has summed up when that changes.
func (f *forward) soften(r int, s []float32, p, k0 int) {
	lo, hi := f.visible(p, k0, len(s))
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
		row := f.out[r*f.dp : (r+1)*f.dp]
		vec.MulScale(row, row, nil, shrink)
	}
	f.sum[r] += vec.ExpSum(s, s, f.scale, f.top[r])
}

// finish divides by the sums and writes o and lse.
func (f *forward) finish() {
	for r := range f.m {
		tok, h := f.tok+r/f.g, f.head*f.g+r%f.g
		row := f.out[r*f.dp:][:f.d]
		vec.MulScale(row, row, nil, 1/f.sum[r])
		at := f.o.Off + tok*f.o.Tok + h*f.o.Head
		f.os.store(row, at, f.o.Add, f.s[:f.d])
		if f.lse != nil {
			f.lse[tok*f.h+h] = float32(float64(f.top[r]) + math.Log(float64(f.sum[r])))
		}
	}
}

func pad16(n int) int { return (n + 15) &^ 15 }

// packRows copies the rows of a span (token by token, the heads of one key
// head inside) to dst [n·g, dp], zeros behind d.
func (a *attn) packRows(dst []float32, src plain, v kernels.Heads, s span, head int) {
	for t := range s.n {
		for j := range a.g {
			at := v.Off + (s.tok+t)*v.Tok + (head*a.g+j)*v.Head
			row := dst[(t*a.g+j)*a.dp:][:a.dp]
			src.copy(row[:a.d], at)
			clear(row[a.d:])
		}
	}
}

// packKeys copies n rows of a key head to dst [n, dp].
func (a *attn) packKeys(dst []float32, src plain, v kernels.Heads, tok, n, head int) {
	for i := range n {
		at := v.Off + (tok+i)*v.Tok + head*v.Head
		row := dst[i*a.dp:][:a.dp]
		src.copy(row[:a.d], at)
		clear(row[a.d:])
	}
}

// packT transposes n rows of a key head to dst, block after block of
// [d, blockKeys] (dp·blockKeys apart); what pads a block to 16 columns is 0.
func (a *attn) packT(dst []float32, src plain, v kernels.Heads, tok, n, head int) {
	for b := 0; b < n; b += blockKeys {
		w := min(blockKeys, n-b)
		at := v.Off + (tok+b)*v.Tok + head*v.Head
		blk := dst[b*a.dp:]
		if src.h == nil {
			vec.Transpose(blk, blockKeys, src.f[at:], v.Tok, w, a.d)
		} else {
			wide := a.c.scratch.take(w * a.d)
			for i := range w {
				src.copy(wide[i*a.d:][:a.d], at+i*v.Tok)
			}
			vec.Transpose(blk, blockKeys, wide, a.d, w, a.d)
			a.c.scratch.give(wide)
		}
		if p := pad16(w); p != w {
			for i := range a.d {
				clear(blk[i*blockKeys+w : i*blockKeys+p])
			}
		}
	}
}
