package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// KVAppend stores the keys and values of token i at Pos[i] of Slot[i].
func (c *CPU) KVAppend(kv *kernels.KV, a *kernels.KVAppendArgs) {
	at := newCache(kv, a.Slot, a.Pos, a.N)
	at.append("kvappend: k", plainOf(kv.Keys), a.K, a.N, kv.Dk)
	if kv.Values != nil {
		at.append("kvappend: v", plainOf(kv.Values), a.V, a.N, kv.ValueSize())
	}
}

// append copies n tokens of heads of d to dst.
func (c cacheAt) append(what string, dst plain, v kernels.Heads, n, d int) {
	wantHeads(what, v, n, c.K, d)
	src := plainOf(v.Buffer)
	tmp := make([]float32, d)
	for i := range n {
		row := c.row(i) * c.K * d
		for h := range c.K {
			dst.store(src.get(tmp, v.Off+i*v.Tok+h*v.Head), row+h*d, false, nil)
		}
	}
}

// cacheAt says where tokens lie in a cache.
type cacheAt struct {
	*kernels.KV
	slot, pos []int32
}

func newCache(kv *kernels.KV, slot, pos kernels.Buffer, n int) cacheAt {
	size := kv.Slots * kv.Max * kv.K
	want("kv: keys", kv.Keys, size*kv.Dk)
	want("kv: values", kv.Values, size*kv.ValueSize())
	if kv.Values == nil && kv.ValueSize() > kv.Dk {
		panic(fmt.Sprintf("cpu: kv: values of %d are to be the beginning of keys of %d", kv.ValueSize(), kv.Dk))
	}
	want("kv: slot", slot, n)
	want("kv: pos", pos, n)
	return cacheAt{kv, i32(slot), i32(pos)}
}

// row is the row of token i's position in the cache.
func (c cacheAt) row(i int) int {
	s, p := int(c.slot[i]), int(c.pos[i])
	if s < 0 || s >= c.Slots || p < 0 || p >= c.Max && !c.Ring {
		panic(fmt.Sprintf("cpu: kv: position %d of slot %d, cache of %d slots of %d", p, s, c.Slots, c.Max))
	}
	return s*c.Max + p%c.Max
}

// spans groups tokens that follow one another in the same slot.
func (c cacheAt) spans(a *kernels.AttnArgs) (runs, single []span) {
	for i := 0; i < a.N; {
		j := i + 1
		for j < a.N && c.slot[j] == c.slot[i] && c.pos[j] == c.pos[j-1]+1 {
			j++
		}
		c.row(i)
		c.row(j - 1)
		s := span{tok: i, n: j - i, pos: int(c.pos[i]), base: int(c.slot[i]) * c.Max, keys: int(c.pos[j-1]) + 1}
		if first, _ := a.Seen(s.pos, s.keys); s.keys-first > c.Max {
			panic(fmt.Sprintf("cpu: kv: positions %d … %d are attended to, a ring of %d holds fewer", first, s.keys-1, c.Max))
		}
		if s.n == 1 {
			single = append(single, s)
		} else {
			runs = append(runs, s)
		}
		i = j
	}
	return runs, single
}

// KVAttention attends from token i to the positions up to Pos[i] of Slot[i].
// Runs of tokens (a prompt) go through the same blocks as Attention, single
// tokens through products of one row.
func (c *CPU) KVAttention(o, q kernels.Heads, kv *kernels.KV, args *kernels.KVAttnArgs) {
	at := newCache(kv, args.Slot, args.Pos, args.N)
	keys := kernels.Heads{Buffer: kv.Keys, Tok: kv.K * kv.Dk, Head: kv.Dk}
	values := keys
	if kv.Values != nil {
		values = kernels.Heads{Buffer: kv.Values, Tok: kv.K * kv.ValueSize(), Head: kv.ValueSize()}
	}
	a := c.newAttn(o, q, keys, values, args.Attn(kv))
	if kv.Ring {
		a.ring = kv.Max
	}
	runs, single := at.spans(a.AttnArgs)
	if a.Pick != nil {
		a.forwardPicked(append(runs, single...))
		return
	}
	a.forward(runs)
	a.decode(single)
}

// decodeKeys are the keys of one task of decode. Where conversations and their parts are
// decodeTasks at least, a task takes all key heads, which lie beside one another in a row.
const (
	decodeKeys  = 512
	decodeTasks = 8
)

// decode handles tokens that stand alone. A task takes one key head, or all, and
// decodeKeys positions; the parts of a head are then combined in order.
func (a *attn) decode(spans []span) {
	if len(spans) == 0 {
		return
	}
	parts := 0
	for _, s := range spans {
		parts = max(parts, (s.pos+decodeKeys)/decodeKeys)
	}
	width := a.dv + 2 // sum of weighted values, largest score, sum of weights
	mem := a.c.scratch.take(len(spans) * a.H * parts * width)
	defer a.c.scratch.give(mem)
	each := 1
	if len(spans)*parts >= decodeTasks {
		each = a.K
	}
	par.For(len(spans)*parts*a.K/each, 1, func(lo, hi int) {
		s := a.c.scratch.take((a.g+1)*decodeKeys + a.dk)
		defer a.c.scratch.give(s)
		for t := lo * each; t < hi*each; t++ {
			i, p, k := t/(a.K*parts), t/a.K%parts, t%a.K
			out := mem[((i*a.H+k*a.g)*parts+p)*width:]
			a.decodePart(out, parts*width, spans[i], k, p*decodeKeys, s)
		}
	})
	for i, s := range spans {
		for h := range a.H {
			all := mem[(i*a.H+h)*parts*width:][:parts*width]
			a.combine(all, width, s.tok, h)
		}
	}
}

// decodePart computes the softmax over the positions k0 … k0+decodeKeys for the
// query heads of one key head, whose results lie ld apart in out. s is memory
// for the scores of those heads, for slopes and for a query.
func (a *attn) decodePart(out []float32, ld int, s span, k, k0 int, scores []float32) {
	first, last := a.Seen(s.pos, s.keys)
	lo, hi := max(first, k0), min(last, k0+decodeKeys)
	n := hi - lo
	var keys, values []float32
	var lk, lv int
	if n > 0 {
		var mem [2][]float32
		keys, lk, mem[0] = a.inMemory(a.ks, a.kv, s.base, lo, n, k, a.dk)
		values, lv, mem[1] = a.inMemory(a.vs, a.vv, s.base, lo, n, k, a.dv)
		defer a.c.scratch.give(mem[0])
		defer a.c.scratch.give(mem[1])
	}
	slope, tmp := scores[a.g*decodeKeys:][:decodeKeys], scores[(a.g+1)*decodeKeys:][:a.dk]
	distance := func(j int) int { return s.pos - lo - j }
	for g := range a.g {
		o := out[g*ld:][:a.dv+2]
		clear(o)
		o[a.dv] = float32(math.Inf(-1))
		if n <= 0 {
			continue
		}
		w := scores[g*decodeKeys:][:n]
		vec.DotRows(w, a.qs.get(tmp, a.q.Off+s.tok*a.q.Tok+(k*a.g+g)*a.q.Head), keys, lk, n)
		a.shape(w, slope[:n], k*a.g+g, distance)
		o[a.dv] = a.scale * vec.Max(w)
		o[a.dv+1] = vec.ExpSum(w, w, a.scale, o[a.dv])
		if a.dv%16 != 0 {
			for j, p := range w {
				vec.Axpy(o[:a.dv], p, values[j*lv:][:a.dv])
			}
		}
	}
	if n > 0 && a.dv%16 == 0 {
		vec.MatMul(out, ld, scores, decodeKeys, values, lv, a.g, a.dv, n, false, false)
	}
}

// inMemory returns n rows of a key head from position pos on, ld apart: where
// they lie, or copied to memory that the caller gives back.
func (a *attn) inMemory(src plain, v kernels.Heads, base, pos, n, head, d int) (rows []float32, ld int, memory []float32) {
	if src.h == nil && a.together(pos, n) {
		return src.f[v.Off+a.rowOf(base, pos)*v.Tok+head*v.Head:], v.Tok, nil
	}
	memory = a.c.scratch.take(n * d)
	for i := range n {
		src.copy(memory[i*d:][:d], v.Off+a.rowOf(base, pos+i)*v.Tok+head*v.Head)
	}
	return memory, d, memory
}

// combine joins the parts of one head and writes its output.
func (a *attn) combine(parts []float32, width, tok, h int) {
	top := float32(math.Inf(-1))
	for p := 0; p < len(parts); p += width {
		top = max(top, parts[p+a.dv])
	}
	var sum float64
	o := parts[:a.dv]
	for p := 0; p < len(parts); p += width {
		f := math.Exp(float64(parts[p+a.dv]) - float64(top))
		sum += f * float64(parts[p+a.dv+1])
		if row := parts[p : p+a.dv]; p == 0 {
			vec.MulScale(o, o, nil, float32(f))
		} else {
			vec.Axpy(o, float32(f), row)
		}
	}
	factor, lse := a.settle(h, float64(top), sum)
	a.write(tok, h, o, factor, lse)
}
