package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// KVAppend stores the keys and values of token i at pos[i] of slot[i].
func (c *CPU) KVAppend(kv *kernels.KV, k, v kernels.Heads, n int, slot, pos kernels.Buffer) {
	wantHeads("kvappend: k", k, n, kv.K, kv.D)
	wantHeads("kvappend: v", v, n, kv.K, kv.D)
	at := newCache(kv, slot, pos, n)
	for _, x := range []struct {
		dst []float32
		src kernels.Heads
	}{{f32(kv.Keys), k}, {f32(kv.Values), v}} {
		src := f32(x.src.Buffer)
		for i := range n {
			row := x.dst[at.row(i)*kv.K*kv.D:][:kv.K*kv.D]
			for h := range kv.K {
				from := x.src.Off + i*x.src.Tok + h*x.src.Head
				copy(row[h*kv.D:(h+1)*kv.D], src[from:from+kv.D])
			}
		}
	}
}

// cacheAt says where tokens lie in a cache.
type cacheAt struct {
	*kernels.KV
	slot, pos []int32
}

func newCache(kv *kernels.KV, slot, pos kernels.Buffer, n int) cacheAt {
	size := kv.Slots * kv.Max * kv.K * kv.D
	want("kv: keys", kv.Keys, size)
	want("kv: values", kv.Values, size)
	want("kv: slot", slot, n)
	want("kv: pos", pos, n)
	return cacheAt{kv, i32(slot), i32(pos)}
}

// row is the row of token i's position in the cache.
func (c cacheAt) row(i int) int {
	s, p := int(c.slot[i]), int(c.pos[i])
	if s < 0 || s >= c.Slots || p < 0 || p >= c.Max {
		panic(fmt.Sprintf("cpu: kv: position %d of slot %d, cache of %d slots of %d", p, s, c.Slots, c.Max))
	}
	return s*c.Max + p
}

// spans groups tokens that follow one another in the same slot.
func (c cacheAt) spans(n int) (runs, single []span) {
	for i := 0; i < n; {
		j := i + 1
		for j < n && c.slot[j] == c.slot[i] && c.pos[j] == c.pos[j-1]+1 {
			j++
		}
		s := span{tok: i, n: j - i, pos: int(c.pos[i]), base: c.row(i) - int(c.pos[i])}
		c.row(j - 1)
		if s.n == 1 {
			single = append(single, s)
		} else {
			runs = append(runs, s)
		}
		i = j
	}
	return runs, single
}

// KVAttention attends from token i to the positions up to pos[i] of slot[i].
// Runs of tokens (a prompt) go through the same blocks as Attention, single
// tokens through products of one row.
func (c *CPU) KVAttention(o, q kernels.Heads, kv *kernels.KV, n, h int, slot, pos kernels.Buffer, scale float32, window int, softCap float32) {
	wantHeads("kvattention: q", q, n, h, kv.D)
	wantHeads("kvattention: o", o, n, h, kv.D)
	runs, single := newCache(kv, slot, pos, n).spans(n)
	keys := kernels.Heads{Buffer: kv.Keys, Tok: kv.K * kv.D, Head: kv.D}
	values := keys
	values.Buffer = kv.Values
	a := c.newAttn(o, q, keys, values, &kernels.AttnArgs{N: n, H: h, K: kv.K, D: kv.D, Scale: scale, Window: window, SoftCap: softCap})
	a.forward(runs)
	a.decode(single)
}

// decodeKeys are the keys of one task of decode.
const decodeKeys = 512

// decode handles tokens that stand alone. A task takes one key head and
// decodeKeys positions; the parts of a head are then combined in order.
func (a *attn) decode(spans []span) {
	if len(spans) == 0 {
		return
	}
	parts := 0
	for _, s := range spans {
		parts = max(parts, (s.pos+decodeKeys)/decodeKeys)
	}
	width := a.d + 2 // sum of weighted values, largest score, sum of weights
	mem := a.c.scratch.take(len(spans) * a.h * parts * width)
	defer a.c.scratch.give(mem)
	par.For(len(spans)*a.k*parts, 1, func(lo, hi int) {
		s := a.c.scratch.take(a.g * decodeKeys)
		defer a.c.scratch.give(s)
		for t := lo; t < hi; t++ {
			i, k, p := t/(a.k*parts), t/parts%a.k, t%parts
			out := mem[((i*a.h+k*a.g)*parts+p)*width:]
			a.decodePart(out, parts*width, spans[i], k, p*decodeKeys, s)
		}
	})
	for i, s := range spans {
		for h := range a.h {
			all := mem[(i*a.h+h)*parts*width:][:parts*width]
			a.combine(all, width, s.tok, h)
		}
	}
}

// decodePart computes the softmax over the positions k0 … k0+decodeKeys for the
// query heads of one key head, whose results lie ld apart in out.
func (a *attn) decodePart(out []float32, ld int, s span, k, k0 int, scores []float32) {
	first, last := a.keys(s.pos, s.pos+1)
	lo, hi := max(first, k0), min(last, k0+decodeKeys)
	n := hi - lo
	ka := a.kv.Off + (s.base+lo)*a.kv.Tok + k*a.kv.Head
	va := a.vv.Off + (s.base+lo)*a.vv.Tok + k*a.vv.Head
	for g := range a.g {
		o := out[g*ld:][:a.d+2]
		clear(o)
		o[a.d] = float32(math.Inf(-1))
		if n <= 0 {
			continue
		}
		w := scores[g*decodeKeys:][:n]
		qa := a.q.Off + s.tok*a.q.Tok + (k*a.g+g)*a.q.Head
		vec.DotRows(w, a.qs.f[qa:qa+a.d], a.ks.f[ka:], a.kv.Tok, n)
		for j := 0; a.squeeze > 0 && j < n; j += blockKeys {
			var slope [blockKeys]float32
			m := min(blockKeys, n-j)
			a.cap(w[j:j+m], slope[:m])
		}
		o[a.d] = a.scale * vec.Max(w)
		o[a.d+1] = vec.ExpSum(w, w, a.scale, o[a.d])
		if a.d%16 != 0 {
			for j, p := range w {
				vec.Axpy(o[:a.d], p, a.vs.f[va+j*a.vv.Tok:][:a.d])
			}
		}
	}
	if n > 0 && a.d%16 == 0 {
		vec.MatMul(out, ld, scores, decodeKeys, a.vs.f[va:], a.vv.Tok, a.g, a.d, n, false, false)
	}
}

// combine joins the parts of one head and writes its output.
func (a *attn) combine(parts []float32, width, tok, h int) {
	top := float32(math.Inf(-1))
	for p := 0; p < len(parts); p += width {
		top = max(top, parts[p+a.d])
	}
	var sum float64
	o := parts[:a.d]
	for p := 0; p < len(parts); p += width {
		f := math.Exp(float64(parts[p+a.d]) - float64(top))
		sum += f * float64(parts[p+a.d+1])
		if row := parts[p : p+a.d]; p == 0 {
			vec.MulScale(o, o, nil, float32(f))
		} else {
			vec.Axpy(o, float32(f), row)
		}
	}
	vec.MulScale(o, o, nil, float32(1/sum))
	at := a.o.Off + tok*a.o.Tok + h*a.o.Head
	store(a.os.f[at:at+a.d], o, a.o.Add)
}
