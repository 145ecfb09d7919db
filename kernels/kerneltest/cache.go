package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// kvCase is a cache and how tokens attend to it.
type kvCase struct {
	attnCase
	max    int  // 0: more than is needed
	ring   bool // of max positions
	half   bool // the cache is bf16
	latent bool // values are the beginning of keys
}

// testKV fills a cache piece by piece and attends from tokens in the mixture
// of prompts and single tokens that generation has.
func testKV(s *suite) {
	for _, c := range []kvCase{
		{attnCase: attnCase{h: 1, k: 1, d: 3}},
		{attnCase: attnCase{h: 4, k: 2, d: 16}},
		{attnCase: attnCase{h: 9, k: 3, d: 20}},
		{attnCase: attnCase{h: 2, k: 2, d: 64, window: 9}},
		{attnCase: attnCase{h: 8, k: 1, d: 256}},
		{attnCase: attnCase{h: 4, k: 1, d: 16, softCap: 3}},
		{attnCase: attnCase{h: 4, k: 2, d: 24, dv: 16, sinks: true}},
		{attnCase: attnCase{h: 2, k: 1, d: 16, chunk: 50, span: 40}},
		{attnCase: attnCase{h: 2, k: 1, d: 16, p: 12}},
		{attnCase: attnCase{h: 4, k: 2, d: 16}, half: true},
		{attnCase: attnCase{h: 4, k: 1, d: 20, window: 30, sinks: true}, half: true, ring: true, max: 400},
		{attnCase: attnCase{h: 4, k: 2, d: 16, window: 40}, ring: true, max: 190},
		{attnCase: attnCase{h: 4, k: 1, d: 24, dv: 16}, latent: true},
	} {
		if c.dv == 0 {
			c.dv = c.d
		}
		if c.max == 0 {
			c.max = 1100
		}
		if s.large(100 * c.h * c.d) {
			continue
		}
		for i := range 2 {
			s.in(fmt.Sprintf("%v ring %v of %d half %v latent %v view %d", c.attnCase, c.ring, c.max, c.half, c.latent, i), func(s *suite) { s.kv(c, i) })
		}
	}
}

// place makes a buffer of the cache's type of NaN: what was never appended must not matter.
func (s *suite) place(c *kvCase, n int) kernels.Buffer {
	x := make([]float64, n)
	for i := range x {
		x[i] = math.NaN()
	}
	if !c.half {
		return s.up(x)
	}
	b := s.alloc(dtype.BF16, n)
	s.b.Add(kernels.To(b), &kernels.AddArgs{N: n, A: s.up(x), Alpha: 1})
	return b
}

func (s *suite) kv(c kvCase, layout int) {
	const slots, most = 3, 1100
	h, k, d := c.h, c.k, c.d
	cache := &kernels.KV{Keys: s.place(&c, slots*c.max*k*d), Slots: slots, Max: c.max, K: k, Dk: d, Dv: c.dv, Ring: c.ring}
	if !c.latent {
		cache.Values = s.place(&c, slots*c.max*k*c.dv)
	}
	if c.sinks {
		c.sink = s.normal(h, 2)
	}
	c.rel = s.normal(c.span*h, 1)
	scale := float32(1 / math.Sqrt(float64(d)))
	c.scale = float64(scale)
	keys, values := make([]float64, slots*most*k*d), make([]float64, slots*most*k*c.dv) // all that was ever appended
	long := 600 / h                                                                     // the prompt that makes a slot long, for one head past 1024
	many := 60
	if s.large(100 * long * h * d) {
		long, many = 13, 7
	}
	have := [slots]int{}
	for _, pieces := range [][slots]int{{5, 1, 0}, {1, many, 1}, {1, 1, 1}, {long, 2, 1}, {1, 0, 1}, {long * 2 / 3, 1, 1}, {1, 1, 1}} {
		var slot, pos []int32
		c.pick = nil
		for sl, n := range pieces {
			for range n {
				slot, pos = append(slot, int32(sl)), append(pos, int32(have[sl]))
				c.pick = append(c.pick, s.picks(c.p, have[sl]+1)...)
				have[sl]++
			}
		}
		n := len(slot)
		c.q = s.normal(n*h*d, 1)
		kk, v := s.normal(n*k*d, 1), s.normal(n*k*c.dv, 1)
		vq, vk := views(n, h, d)[layout], views(n, k, d)[layout]
		vo, vv := views(n, h, c.dv)[layout], views(n, k, c.dv)[layout]
		put := &kernels.KVAppendArgs{N: n, K: s.heads(vk, kk), V: s.heads(vv, v), Slot: s.ints(slot), Pos: s.ints(pos)}
		if c.latent {
			put.V = kernels.Heads{}
		}
		s.b.KVAppend(cache, put)
		if c.half {
			kk, v = roundBF16(kk), roundBF16(v)
		}
		want := make([]float64, n*h*c.dv)
		for i := range n {
			at := int(slot[i])*most + int(pos[i])
			copy(keys[at*k*d:], kk[i*k*d:(i+1)*k*d])
			copy(values[at*k*c.dv:], v[i*k*c.dv:(i+1)*k*c.dv])
		}
		for i := range n {
			for j := range h {
				row := func(x []float64, d, width int) func(int) []float64 {
					return func(p int) []float64 { return x[((int(slot[i])*most+p)*k+j/(h/k))*d:][:width] }
				}
				value := row(values, c.dv, c.dv)
				if c.latent {
					value = row(keys, d, c.dv)
				}
				o, _ := c.head(i, int(pos[i]), int(pos[i])+1, j, row(keys, d, d), value)
				copy(want[(i*h+j)*c.dv:], o)
			}
		}
		a := &kernels.KVAttnArgs{N: n, H: h, Slot: put.Slot, Pos: put.Pos, Scale: scale, SoftCap: float32(c.softCap), Window: c.window, Chunk: c.chunk, Span: c.span, P: c.p}
		if a.Sinks = s.up(c.sink); c.span > 0 {
			a.Rel = s.up(c.rel)
		}
		if c.p > 0 {
			a.Pick = s.ints(c.pick)
		}
		qh := s.heads(vq, c.q)
		s.check([]result{{name: fmt.Sprintf("o of pieces %v", pieces), n: vo.size(), at: vo.at, want: want, tol: f32Tol}}, func(ds []kernels.Dst) {
			s.b.KVAttention(vo.of(ds[0]), qh, cache, a)
		})
	}
}
