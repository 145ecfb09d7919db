package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// heads is Heads of attention.cu.
type heads struct {
	p              driver.Ptr
	typ, add       int32
	off, tok, head int64
}

// headsOf checks that h has n tokens of k heads of d.
func headsOf(what string, h kernels.Heads, n, k, d int) heads {
	if h.Skip() {
		return heads{}
	}
	if n > 0 {
		want(what, h.Buffer, h.Off+(n-1)*h.Tok+(k-1)*h.Head+d)
	}
	return heads{ptr(h.Buffer), elementType(h.Buffer), flag(h.Add), int64(h.Off), int64(h.Tok), int64(h.Head)}
}

// attnArgs is AttnArgs of attention.cu.
type attnArgs struct {
	q, k, v, o, d                                          heads
	dq, dk, dv                                             heads
	lse, delta, seq, seqKV, slot, pos, pick, rel, sinks    driver.Ptr
	drel, dsinks                                           dest
	n, nKV, max                                            int64
	seqs, h, kv, dkSize, dvSize                            int32
	scale, softCap                                         float32
	span, relZero, full, window, ahead, chunk, picks, ring int32
	_                                                      int32
}

// attnOf describes a to a kernel.
func attnOf(what string, a *kernels.AttnArgs) *attnArgs {
	if a.H%max(a.K, 1) != 0 {
		panic(fmt.Sprintf("cuda: %s: %d heads share %d", what, a.H, a.K))
	}
	k := &attnArgs{n: int64(a.N), nKV: int64(a.Keys()), h: int32(a.H), kv: int32(a.K), dkSize: int32(a.Dk), dvSize: int32(a.Values()),
		pick: i32(what+": pick", a.Pick, a.N*a.P), picks: int32(a.P), rel: f32(what+": rel", a.Rel, a.Span*a.H), span: int32(a.Span), relZero: int32(a.RelZero),
		sinks: f32(what+": sinks", a.Sinks, a.H), scale: a.Scale, softCap: a.SoftCap,
		full: flag(a.Full), window: int32(a.Window), ahead: int32(a.Ahead), chunk: int32(a.Chunk)}
	if a.Seq != nil {
		k.seqs = int32(a.Seq.Len() - 1)
		k.seq, k.seqKV = i32(what+": seq", a.Seq, 2), i32(what+": keys", a.Bounds(), a.Seq.Len())
	}
	return k
}

// warps queues a kernel with one warp for each of n·h.
func (c *CUDA) warps(name string, n, h int, shared int, a *attnArgs) {
	launch(c, name, driver.Dim{X: uint32(n), Y: uint32(h), Z: 1}, driver.Dim{X: 32, Y: 1, Z: 1}, 4*shared, a)
}

// Attention writes o and lse (Vaswani et al. 2017, arXiv:1706.03762), with the sum
// of the softmax made as keys come (Milakov, Gimelshein 2018, arXiv:1805.02867).
func (c *CUDA) Attention(o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	x := attnOf("attention", a)
	x.q, x.k, x.v = headsOf("attention: q", q, a.N, a.H, a.Dk), headsOf("attention: k", k, a.Keys(), a.K, a.Dk), headsOf("attention: v", v, a.Keys(), a.K, a.Values())
	x.o, x.lse = headsOf("attention: o", o, a.N, a.H, a.Values()), f32("attention: lse", lse, a.N*a.H)
	if size := flashSize(a, 256, []heads{x.q, x.k, x.v}, []heads{x.o}); size > 0 {
		f, rows := c.flashOf(x)
		defer c.Free(rows)
		c.flash("flash", size, a.N, a.H, f)
		return
	}
	c.warps("attention", a.N, a.H, a.Dk+a.Values(), x)
}

// flashArgs is FlashArgs of flash.cu.
type flashArgs struct {
	q, k, v, o, d, dq, dk, dv     heads
	lse, delta, rows, sinks       driver.Ptr
	n, nKV, h, kv, dkSize, dvSize int32
	scale, softCap                float32
}

// flashSize is the size of heads that the kernels on tensor cores are to be made for, up
// to most; 0: it is no work for them. They take bf16 of rows of whole 16 bytes, neither a
// table of distances nor a choice of keys, and give f32 or whole pairs of bf16.
func flashSize(a *kernels.AttnArgs, most int, operands, results []heads) int {
	if !a.BF16 || a.Rel != nil || a.Pick != nil || a.N == 0 || a.Keys() == 0 || a.Dk%8 != 0 || a.Values()%8 != 0 {
		return 0
	}
	for _, h := range operands {
		if h.typ != elementTypes[dtype.BF16] || h.p%16 != 0 || (h.off|h.tok|h.head)%8 != 0 {
			return 0
		}
	}
	for _, h := range results {
		if h.p != 0 && h.typ != elementTypes[dtype.F32] && (h.typ != elementTypes[dtype.BF16] || h.p%4 != 0 || (h.off|h.tok|h.head)%2 != 0) {
			return 0
		}
	}
	for size := 64; size <= most; size *= 2 {
		if max(a.Dk, a.Values()) <= size {
			return size
		}
	}
	return 0
}

// flashOf describes x to those kernels; the buffer holds what queries see, and is to be
// freed.
func (c *CUDA) flashOf(x *attnArgs) (*flashArgs, *Buf) {
	rows := c.scratch(dtype.I32, 2*int(x.n))
	each(c, "attn_rows", int(x.n), &struct {
		attnArgs
		rows driver.Ptr
	}{*x, ptr(rows)})
	return &flashArgs{q: x.q, k: x.k, v: x.v, o: x.o, d: x.d, dq: x.dq, dk: x.dk, dv: x.dv, lse: x.lse, delta: x.delta, rows: ptr(rows), sinks: x.sinks,
		n: int32(x.n), nKV: int32(x.nKV), h: x.h, kv: x.kv, dkSize: x.dkSize, dvSize: x.dvSize, scale: x.scale, softCap: x.softCap}, rows
}

// flashRows are the rows, of heads of their size in bf16, that the kernels of flash.cu
// hold in shared memory.
var flashRows = map[string]int{
	"flash_64": 2 * 64, "flash_128": 2 * 64, "flash_256": 2 * 32, // keys and values
	"flash_grad_q_64": 4 * 64, "flash_grad_q_128": 4 * 32, // and the next ones
	"flash_grad_kv_64": 2*64 + 4*32, "flash_grad_kv_128": 2*64 + 4*32, // and queries with their gradients, and the next ones
}

// flash queues a kernel for heads of size, with one block for 64 of n tokens and each of
// h heads.
func (c *CUDA) flash(kind string, size, n, h int, f *flashArgs) {
	name := fmt.Sprintf("%s_%d", kind, size)
	launch(c, name, driver.Dim{X: blocksOf(n, 64), Y: uint32(h), Z: 1}, driver.Dim{X: 128, Y: 1, Z: 1}, 2*size*flashRows[name], f)
}

// AttentionBackward makes each gradient by itself, from the lse of the forward
// (Dao et al. 2022, arXiv:2205.14135): dq by queries, dk and dv by keys.
func (c *CUDA) AttentionBackward(g *kernels.AttnGrads, do, o kernels.Heads, lse kernels.Buffer, q, k, v kernels.Heads, a *kernels.AttnArgs) {
	dv := a.Values()
	x := attnOf("attention backward", a)
	x.q, x.k, x.v = headsOf("attention backward: q", q, a.N, a.H, a.Dk), headsOf("attention backward: k", k, a.Keys(), a.K, a.Dk), headsOf("attention backward: v", v, a.Keys(), a.K, dv)
	x.o, x.d, x.lse = headsOf("attention backward: o", o, a.N, a.H, dv), headsOf("attention backward: do", do, a.N, a.H, dv), f32("attention backward: lse", lse, a.N*a.H)
	x.dq, x.dk, x.dv = headsOf("attention backward: dq", g.Q, a.N, a.H, a.Dk), headsOf("attention backward: dk", g.K, a.Keys(), a.K, a.Dk), headsOf("attention backward: dv", g.V, a.Keys(), a.K, dv)
	delta := c.scratch(dtype.F32, a.N*a.H)
	defer c.Free(delta)
	x.delta = ptr(delta)
	c.warps("attn_delta", a.N, a.H, 0, x)
	if size := flashSize(a, 128, []heads{x.q, x.k, x.v, x.d}, []heads{x.dq, x.dk, x.dv}); size > 0 {
		f, rows := c.flashOf(x)
		defer c.Free(rows)
		if !g.Q.Skip() {
			c.flash("flash_grad_q", size, a.N, a.H, f)
		}
		if !g.K.Skip() || !g.V.Skip() {
			c.flash("flash_grad_kv", size, a.Keys(), a.K, f)
		}
	} else {
		if !g.Q.Skip() {
			c.warps("attn_grad_q", a.N, a.H, 2*a.Dk+dv, x)
		}
		if !g.K.Skip() || !g.V.Skip() {
			c.warps("attn_grad_kv", a.Keys(), a.K, 2*a.Dk+2*dv, x)
		}
	}
	if !g.Sinks.Skip() {
		x.dsinks = destOf("attention backward: dsinks", g.Sinks, a.H)
		c.warps("attn_grad_sinks", a.H, 1, 0, x)
	}
	if !g.Rel.Skip() {
		x.drel = destOf("attention backward: drel", g.Rel, a.Span*a.H)
		c.warps("attn_grad_rel", a.Span, a.H, 0, x)
	}
}

type appendArgs struct {
	x                    heads
	cache                dest
	slot, pos            driver.Ptr
	n, max               int64
	heads, size, ring, _ int32
}

// KVAppend stores the keys and values of tokens.
func (c *CUDA) KVAppend(kv *kernels.KV, a *kernels.KVAppendArgs) {
	for _, part := range []struct {
		to   kernels.Buffer
		from kernels.Heads
		size int
	}{{kv.Keys, a.K, kv.Dk}, {kv.Values, a.V, kv.ValueSize()}} {
		if part.to == nil {
			continue
		}
		each(c, "kv_append", a.N*kv.K*part.size, &appendArgs{x: headsOf("kv append", part.from, a.N, kv.K, part.size),
			cache: destOf("kv append: cache", kernels.To(part.to), kv.Slots*kv.Max*kv.K*part.size), slot: i32("kv append: slot", a.Slot, a.N), pos: i32("kv append: pos", a.Pos, a.N),
			n: int64(a.N), max: int64(kv.Max), heads: int32(kv.K), size: int32(part.size), ring: flag(kv.Ring)})
	}
}

// KVAttention is Attention to what slots of a cache hold.
func (c *CUDA) KVAttention(o, q kernels.Heads, kv *kernels.KV, a *kernels.KVAttnArgs) {
	x := attnOf("kv attention", a.Attn(kv))
	x.slot, x.pos, x.max, x.ring = i32("kv attention: slot", a.Slot, a.N), i32("kv attention: pos", a.Pos, a.N), int64(kv.Max), flag(kv.Ring)
	keys := kernels.Heads{Buffer: kv.Keys, Tok: kv.K * kv.Dk, Head: kv.Dk}
	values := kernels.Heads{Buffer: kv.Values, Tok: kv.K * kv.ValueSize(), Head: kv.ValueSize()}
	if kv.Values == nil {
		values = keys
	}
	x.k, x.v = headsOf("kv attention: keys", keys, kv.Slots*kv.Max, kv.K, kv.Dk), headsOf("kv attention: values", values, kv.Slots*kv.Max, kv.K, kv.ValueSize())
	x.q, x.o = headsOf("kv attention: q", q, a.N, a.H, kv.Dk), headsOf("kv attention: o", o, a.N, a.H, kv.ValueSize())
	c.warps("attention", a.N, a.H, kv.Dk+kv.ValueSize(), x)
}
