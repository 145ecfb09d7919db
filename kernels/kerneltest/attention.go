package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// attention64 is one head of one query token: softmax over the keys lo … hi.
// q is [d]; k(j) and v(j) are rows of d.
func attention64(q []float64, k, v func(j int) []float64, lo, hi int, scale, softCap float64) (o []float64, lse float64) {
	s := make([]float64, hi-lo)
	top := math.Inf(-1)
	for j := lo; j < hi; j++ {
		s[j-lo] = scale * dot(q, k(j))
		if softCap > 0 {
			s[j-lo] = softCap * math.Tanh(s[j-lo]/softCap)
		}
		top = math.Max(top, s[j-lo])
	}
	var sum float64
	o = make([]float64, len(q))
	for j, x := range s {
		p := math.Exp(x - top)
		sum += p
		for i, e := range v(lo + j) {
			o[i] += p * e
		}
	}
	for i := range o {
		o[i] /= sum
	}
	return o, top + math.Log(sum)
}

// attnCase is a packed batch.
type attnCase struct {
	seq          []int32
	h, k, d      int
	window       int
	q, kk, v, dy []float64
	scale        float64
	softCap      float64
	vq, vk       view
}

func testAttention(s *suite) {
	for _, c := range []attnCase{
		{seq: []int32{0, 1}, h: 1, k: 1, d: 1},
		{seq: []int32{0, 3, 3, 10}, h: 2, k: 1, d: 5},
		{seq: []int32{0, 33, 50, 51}, h: 4, k: 2, d: 16, window: 7},
		{seq: []int32{0, 20, 150}, h: 3, k: 1, d: 64},
		{seq: []int32{0, 300}, h: 4, k: 4, d: 24, window: 140},
		{seq: []int32{0, 5, 345}, h: 9, k: 3, d: 20},
		{seq: []int32{0, 40}, h: 2, k: 2, d: 256},
		{seq: []int32{0, 600}, h: 1, k: 1, d: 8, window: 260},
		{seq: []int32{0, 17}, h: 70, k: 1, d: 4},
		{seq: []int32{0, 20, 190}, h: 4, k: 2, d: 24, softCap: 2},
		{seq: []int32{0, 300}, h: 2, k: 1, d: 16, softCap: 50, window: 30},
	} {
		n := int(c.seq[len(c.seq)-1])
		for i := range views(n, c.h, c.d) {
			c.vq, c.vk = views(n, c.h, c.d)[i], views(n, c.k, c.d)[i]
			s.in(fmt.Sprintf("seq %v heads %d/%d×%d window %d cap %g view %d", c.seq, c.h, c.k, c.d, c.window, c.softCap, i), func(s *suite) { s.attention(c) })
		}
	}
}

func (c *attnCase) first(pos int) int {
	if c.window > 0 {
		return max(0, pos-c.window+1)
	}
	return 0
}

// token computes all heads of token i of the sequence that starts at base.
func (c *attnCase) token(i, base int, o, lse []float64) {
	for h := range c.h {
		row := func(x []float64) func(j int) []float64 {
			return func(j int) []float64 { return x[((base+j)*c.k+h/(c.h/c.k))*c.d:][:c.d] }
		}
		p := i - base
		oh, l := attention64(c.q[(i*c.h+h)*c.d:][:c.d], row(c.kk), row(c.v), c.first(p), p+1, c.scale, c.softCap)
		copy(o[(i*c.h+h)*c.d:], oh)
		lse[i*c.h+h] = l
	}
}

func (c *attnCase) forward() (o, lse []float64) {
	n := int(c.seq[len(c.seq)-1])
	o, lse = make([]float64, n*c.h*c.d), make([]float64, n*c.h)
	for s := 1; s < len(c.seq); s++ {
		for i := c.seq[s-1]; i < c.seq[s]; i++ {
			c.token(int(i), int(c.seq[s-1]), o, lse)
		}
	}
	return o, lse
}

// loss is Σ dy·o over the tokens whose output depends on token t: those of its
// sequence from t on.
func (c *attnCase) loss(t int, queryOnly bool) func() float64 {
	base, end := 0, 0
	for s := 1; s < len(c.seq); s++ {
		if int(c.seq[s-1]) <= t && t < int(c.seq[s]) {
			base, end = int(c.seq[s-1]), int(c.seq[s])
		}
	}
	if queryOnly {
		end = t + 1
	} else if c.window > 0 {
		end = min(end, t+c.window)
	}
	n := int(c.seq[len(c.seq)-1])
	o, lse := make([]float64, n*c.h*c.d), make([]float64, n*c.h)
	return func() float64 {
		var sum float64
		for i := t; i < end; i++ {
			c.token(i, base, o, lse)
			sum += dot(o[i*c.h*c.d:(i+1)*c.h*c.d], c.dy[i*c.h*c.d:])
		}
		return sum
	}
}

// numeric is the gradient with respect to x, whose tokens are width wide, at
// some coordinates.
func (c *attnCase) numeric(s *suite, x []float64, width int, query bool) []float64 {
	which := s.some(len(x), 10)
	if which == nil {
		which = make([]int, len(x))
		for i := range which {
			which[i] = i
		}
	}
	out := make([]float64, len(x))
	for i := range out {
		out[i] = math.NaN()
	}
	for _, i := range which {
		out[i] = gradient(c.loss(i/width, query), x, []int{i})[i]
	}
	return out
}

func (s *suite) attention(c attnCase) {
	n := int(c.seq[len(c.seq)-1])
	c.q, c.kk, c.v, c.dy = s.normal(n*c.h*c.d, 1), s.normal(n*c.k*c.d, 1), s.normal(n*c.k*c.d, 1), s.normal(n*c.h*c.d, 1)
	scale := float32(1.3 / math.Sqrt(float64(c.d)))
	c.scale = float64(scale)
	a := &kernels.AttnArgs{N: n, H: c.h, K: c.k, D: c.d, Seq: s.ints(c.seq), Scale: scale, Window: c.window, SoftCap: float32(c.softCap)}
	q, k, v, dy := s.heads(c.vq, c.q), s.heads(c.vk, c.kk), s.heads(c.vk, c.v), s.heads(c.vq, c.dy)
	o, lse := c.forward()
	keep := s.alloc(dtype.F32, n*c.h)
	s.check([]result{{name: "o", n: c.vq.size(), at: c.vq.at, want: o, tol: f32Tol}}, func(d []kernels.Dst) {
		s.b.Attention(c.vq.of(d[0]), keep, q, k, v, a)
	})
	s.close("lse", s.get(keep), lse, 1e-6)
	oh := s.heads(c.vq, o)
	s.b.Attention(oh, nil, q, k, v, a)
	s.check([]result{
		{name: "dq", n: c.vq.size(), at: c.vq.at, want: c.numeric(s, c.q, c.h*c.d, true), tol: f32Tol},
		{name: "dk", n: c.vk.size(), at: c.vk.at, want: c.numeric(s, c.kk, c.k*c.d, false), tol: f32Tol},
		{name: "dv", n: c.vk.size(), at: c.vk.at, want: c.numeric(s, c.v, c.k*c.d, false), tol: f32Tol},
	}, func(d []kernels.Dst) {
		s.b.AttentionBackward(c.vq.of(d[0]), c.vk.of(d[1]), c.vk.of(d[2]), dy, oh, keep, q, k, v, a)
	})
}

// testKV fills a cache piece by piece and attends from tokens in the mixture
// of prompts and single tokens that generation has.
func testKV(s *suite) {
	for _, c := range []struct {
		h, k, d, window int
		softCap         float32
	}{{1, 1, 3, 0, 0}, {4, 2, 16, 0, 0}, {9, 3, 20, 0, 0}, {2, 2, 64, 9, 0}, {8, 1, 256, 0, 0}, {4, 1, 16, 0, 3}} {
		for i := range 2 {
			s.in(fmt.Sprintf("heads %d/%d×%d window %d cap %g view %d", c.h, c.k, c.d, c.window, c.softCap, i), func(s *suite) { s.kv(c.h, c.k, c.d, c.window, c.softCap, i) })
		}
	}
}

func (s *suite) kv(h, k, d, window int, softCap float32, layout int) {
	const slots, most = 3, 1100
	long := 600 / h // the prompt that makes a slot long, for one head past 1024
	keys, values := make([]float64, slots*most*k*d), make([]float64, slots*most*k*d)
	for i := range keys { // what was never appended must not matter
		keys[i], values[i] = math.NaN(), math.NaN()
	}
	cache := &kernels.KV{Keys: s.up(keys), Values: s.up(values), Slots: slots, Max: most, K: k, D: d}
	at := [slots]int{}
	for _, pieces := range [][slots]int{{5, 1, 0}, {1, 60, 1}, {1, 1, 1}, {long, 2, 1}, {1, 0, 1}, {long * 2 / 3, 1, 1}, {1, 1, 1}} {
		var slot, pos []int32
		for sl, n := range pieces {
			for range n {
				slot, pos = append(slot, int32(sl)), append(pos, int32(at[sl]))
				at[sl]++
			}
		}
		n := len(slot)
		q, kk, v := s.normal(n*h*d, 1), s.normal(n*k*d, 1), s.normal(n*k*d, 1)
		vq, vk := views(n, h, d)[layout], views(n, k, d)[layout]
		sb, pb := s.ints(slot), s.ints(pos)
		s.b.KVAppend(cache, s.heads(vk, kk), s.heads(vk, v), n, sb, pb)
		want := make([]float64, n*h*d)
		for i := range n {
			base := int(slot[i]) * most
			copy(keys[(base+int(pos[i]))*k*d:], kk[i*k*d:(i+1)*k*d])
			copy(values[(base+int(pos[i]))*k*d:], v[i*k*d:(i+1)*k*d])
		}
		scale := float32(1 / math.Sqrt(float64(d)))
		for i := range n {
			for j := range h {
				row := func(x []float64) func(int) []float64 {
					return func(p int) []float64 { return x[((int(slot[i])*most+p)*k+j/(h/k))*d:][:d] }
				}
				lo := 0
				if window > 0 {
					lo = max(0, int(pos[i])-window+1)
				}
				o, _ := attention64(q[(i*h+j)*d:][:d], row(keys), row(values), lo, int(pos[i])+1, float64(scale), float64(softCap))
				copy(want[(i*h+j)*d:], o)
			}
		}
		qh := s.heads(vq, q)
		s.check([]result{{name: fmt.Sprintf("o of pieces %v", pieces), n: vq.size(), at: vq.at, want: want, tol: f32Tol}}, func(ds []kernels.Dst) {
			s.b.KVAttention(vq.of(ds[0]), qh, cache, n, h, sb, pb, scale, window, softCap)
		})
	}
}
