package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// attnCase is attention over a packed batch, or to a cache.
type attnCase struct {
	seq, seqKV []int32 // seqKV nil: seq
	h, k       int
	d, dv      int // dv 0: d

	window, chunk, ahead int
	full                 bool
	softCap              float64
	sinks                bool
	span, zero           int // of Rel; span 0: none
	p                    int // keys picked for a token; 0: no choice

	scale         float64
	q, kk, v, dy  []float64
	sink, rel     []float64
	pick          []int32
	vq, vk, vv, o view
}

func (c attnCase) String() string {
	s := fmt.Sprintf("seq %v heads %d/%d×%d", c.seq, c.h, c.k, c.d)
	for _, x := range []struct {
		name  string
		value any
		shown bool
	}{{"keys", c.seqKV, c.seqKV != nil}, {"dv", c.dv, c.dv > 0}, {"window", c.window, c.window > 0}, {"chunk", c.chunk, c.chunk > 0},
		{"full", "", c.full}, {"ahead", c.ahead, c.ahead > 0}, {"cap", c.softCap, c.softCap > 0}, {"sinks", "", c.sinks},
		{"rel", c.span, c.span > 0}, {"pick", c.p, c.p > 0}} {
		if x.shown {
			s += fmt.Sprintf(" %s %v", x.name, x.value)
		}
	}
	return s
}

// sees says whether a token at position i sees key j: what AttnArgs promises,
// pair by pair.
func (c *attnCase) sees(tok, i, j int) bool {
	switch {
	case j > i && !c.full, c.full && c.ahead > 0 && j > i+c.ahead, c.window > 0 && j <= i-c.window:
		return false
	case c.chunk > 0 && i >= 0 && i/c.chunk != j/c.chunk:
		return false
	case c.p == 0:
		return true
	}
	for _, x := range c.pick[tok*c.p:][:c.p] {
		if int(x) == j {
			return true
		}
	}
	return false
}

// head computes head h of token tok, which stands at position i of keys keys.
// key and value return their rows.
func (c *attnCase) head(tok, i, keys, h int, key, value func(j int) []float64) (o []float64, lse float64) {
	var list []int
	var s []float64
	top := math.Inf(-1)
	for j := range keys {
		if !c.sees(tok, i, j) {
			continue
		}
		x := c.scale * dot(c.q[(tok*c.h+h)*c.d:][:c.d], key(j))
		if c.softCap > 0 {
			x = c.softCap * math.Tanh(x/c.softCap)
		}
		if c.span > 0 {
			x += c.rel[min(max(0, c.zero+i-j), c.span-1)*c.h+h]
		}
		list, s, top = append(list, j), append(s, x), math.Max(top, x)
	}
	o = make([]float64, c.dv)
	var sum float64
	if c.sinks {
		top = math.Max(top, c.sink[h])
		sum = math.Exp(c.sink[h] - top)
	}
	for n, j := range list {
		p := math.Exp(s[n] - top)
		sum += p
		for x, e := range value(j) {
			o[x] += p * e
		}
	}
	if sum == 0 {
		return o, math.Inf(-1)
	}
	for x := range o {
		o[x] /= sum
	}
	return o, top + math.Log(sum)
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

		{seq: []int32{0, 20, 190}, h: 2, k: 1, d: 24, dv: 16},
		{seq: []int32{0, 300}, h: 2, k: 2, d: 12, dv: 40, window: 100},
		{seq: []int32{0, 20, 190}, h: 4, k: 2, d: 16, sinks: true},
		{seq: []int32{0, 300}, h: 2, k: 1, d: 16, sinks: true, window: 9, softCap: 4},
		{seq: []int32{0, 5, 190}, h: 2, k: 2, d: 16, chunk: 32},
		{seq: []int32{0, 300}, h: 2, k: 1, d: 8, chunk: 130, window: 60},
		{seq: []int32{0, 20, 21, 160}, h: 3, k: 1, d: 16, full: true},
		{seq: []int32{0, 600}, h: 2, k: 1, d: 8, full: true, window: 30, ahead: 150},
		{seq: []int32{0, 300}, h: 1, k: 1, d: 8, full: true, chunk: 100},
		{seq: []int32{0, 2, 20}, seqKV: []int32{0, 7, 9}, h: 2, k: 1, d: 16, full: true},
		{seq: []int32{0, 2, 300, 301}, seqKV: []int32{0, 600, 610, 610}, h: 2, k: 2, d: 8, full: true},
		{seq: []int32{0, 300}, seqKV: []int32{0, 10}, h: 1, k: 1, d: 8, full: true, sinks: true},
		{seq: []int32{0, 7, 40}, seqKV: []int32{0, 307, 333}, h: 2, k: 1, d: 8},
		{seq: []int32{0, 9, 20}, seqKV: []int32{0, 5, 8}, h: 2, k: 1, d: 8},
		{seq: []int32{0, 9}, seqKV: []int32{0, 5}, h: 2, k: 1, d: 8, sinks: true, window: 3},
		{seq: []int32{0, 20, 170}, h: 4, k: 2, d: 16, span: 300, zero: 0},
		{seq: []int32{0, 20, 290}, h: 2, k: 2, d: 8, span: 33, zero: 16, full: true},
		{seq: []int32{0, 150}, h: 2, k: 1, d: 16, span: 9, zero: 0, window: 20, softCap: 3},
		{seq: []int32{0, 20, 90}, h: 4, k: 2, d: 16, p: 7},
		{seq: []int32{0, 20, 90}, h: 2, k: 1, d: 20, dv: 12, p: 40, sinks: true, softCap: 5, window: 30},
		{seq: []int32{0, 30}, seqKV: []int32{0, 70}, h: 2, k: 2, d: 8, p: 9, full: true, span: 21, zero: 10},

		{seq: []int32{0, 7, 47}, h: 2, k: 1, d: 6, dv: 3, softCap: 2, sinks: true},
		{seq: []int32{0, 7, 41}, h: 2, k: 2, d: 5, chunk: 16, window: 9},
		{seq: []int32{0, 7, 41}, h: 2, k: 1, d: 4, full: true, window: 6, ahead: 11},
		{seq: []int32{0, 5, 40}, h: 2, k: 1, d: 4, span: 33, zero: 16, full: true},
		{seq: []int32{0, 5, 40}, h: 2, k: 2, d: 4, span: 6, zero: 0, softCap: 3},
		{seq: []int32{0, 5, 40}, h: 4, k: 2, d: 4, p: 7, span: 9, zero: 2},
	} {
		if keys := c.bounds(); s.large(c.queries() * int(keys[len(keys)-1]) * c.h * c.d) {
			continue
		}
		if c.dv == 0 {
			c.dv = c.d
		}
		n, keys := c.queries(), c.keys()
		for i := range views(n, c.h, c.d) {
			c.vq, c.vk = views(n, c.h, c.d)[i], views(keys, c.k, c.d)[i]
			c.o, c.vv = views(n, c.h, c.dv)[i], views(keys, c.k, c.dv)[i]
			s.in(fmt.Sprintf("%v view %d", c, i), func(s *suite) { s.attention(c) })
		}
	}
}

func (c *attnCase) queries() int { return int(c.seq[len(c.seq)-1]) }

func (c *attnCase) bounds() []int32 {
	if c.seqKV == nil {
		return c.seq
	}
	return c.seqKV
}

func (c *attnCase) keys() int { return int(c.bounds()[len(c.bounds())-1]) }

// token computes all heads of token i of sequence sq.
func (c *attnCase) token(i, sq int, o, lse []float64) {
	base, keys := int(c.bounds()[sq]), int(c.bounds()[sq+1]-c.bounds()[sq])
	pos := i - int(c.seq[sq+1]) + keys
	for h := range c.h {
		row := func(x []float64, d int) func(j int) []float64 {
			return func(j int) []float64 { return x[((base+j)*c.k+h/(c.h/c.k))*d:][:d] }
		}
		oh, l := c.head(i, pos, keys, h, row(c.kk, c.d), row(c.v, c.dv))
		copy(o[(i*c.h+h)*c.dv:], oh)
		lse[i*c.h+h] = l
	}
}

// loss is Σ dy·o of the tokens of sequence sq for which of says so.
func (c *attnCase) loss(sq int, of func(i int) bool) float64 {
	n := c.queries()
	o, lse := make([]float64, n*c.h*c.dv), make([]float64, n*c.h)
	var sum float64
	for i := int(c.seq[sq]); i < int(c.seq[sq+1]); i++ {
		if of(i) {
			c.token(i, sq, o, lse)
			sum += dot(o[i*c.h*c.dv:(i+1)*c.h*c.dv], c.dy[i*c.h*c.dv:])
		}
	}
	return sum
}

// at is the sequence of bounds that token t lies in.
func at(bounds []int32, t int) int {
	for s := 1; s < len(bounds); s++ {
		if t < int(bounds[s]) {
			return s - 1
		}
	}
	panic("kerneltest: no such token")
}

// numeric is the gradient with respect to x at some coordinates; loss is that
// part of the sum that depends on coordinate i.
func numeric(s *suite, x []float64, loss func(i int) float64) []float64 {
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
		out[i] = gradient(func() float64 { return loss(i) }, x, []int{i})[i]
	}
	return out
}

// grads are the gradients by differences.
func (c *attnCase) grads(s *suite) (dq, dk, dv, dsink, drel []float64) {
	query := func(i int) float64 {
		t := i / (c.h * c.d)
		return c.loss(at(c.seq, t), func(i int) bool { return i == t })
	}
	key := func(width int) func(i int) float64 {
		return func(i int) float64 {
			sq := at(c.bounds(), i/width)
			j, shift := i/width-int(c.bounds()[sq]), int(c.bounds()[sq+1]-c.bounds()[sq])-int(c.seq[sq+1])
			return c.loss(sq, func(i int) bool { return c.sees(i, i+shift, j) })
		}
	}
	all := func(int) float64 {
		var sum float64
		for sq := range len(c.seq) - 1 {
			sum += c.loss(sq, func(int) bool { return true })
		}
		return sum
	}
	return numeric(s, c.q, query), numeric(s, c.kk, key(c.k*c.d)), numeric(s, c.v, key(c.k*c.dv)), numeric(s, c.sink, all), numeric(s, c.rel, all)
}

// operands draws what the case needs and returns the arguments.
func (s *suite) operands(c *attnCase) *kernels.AttnArgs {
	n, keys := c.queries(), c.keys()
	c.q, c.kk, c.v, c.dy = s.normal(n*c.h*c.d, 1), s.normal(keys*c.k*c.d, 1), s.normal(keys*c.k*c.dv, 1), s.normal(n*c.h*c.dv, 1)
	scale := float32(1.3 / math.Sqrt(float64(c.d)))
	c.scale = float64(scale)
	a := &kernels.AttnArgs{N: n, H: c.h, K: c.k, Dk: c.d, Seq: s.ints(c.seq), Scale: scale, Window: c.window, SoftCap: float32(c.softCap),
		Full: c.full, Ahead: c.ahead, Chunk: c.chunk, Span: c.span, RelZero: c.zero, P: c.p}
	if c.dv != c.d {
		a.Dv = c.dv
	}
	if c.seqKV != nil {
		a.NKV, a.SeqKV = keys, s.ints(c.seqKV)
	}
	if c.sinks {
		c.sink = s.normal(c.h, 2)
		a.Sinks = s.up(c.sink)
	}
	if c.span > 0 {
		c.rel = s.normal(c.span*c.h, 1)
		a.Rel = s.up(c.rel)
	}
	if c.p > 0 {
		c.pick = nil
		for i := range n {
			sq := at(c.seq, i)
			c.pick = append(c.pick, s.picks(c.p, int(c.bounds()[sq+1]-c.bounds()[sq]))...)
		}
		a.Pick = s.ints(c.pick)
	}
	return a
}

// picks draws p different positions of n, or -1.
func (s *suite) picks(p, n int) []int32 {
	out := make([]int32, p)
	order := s.rng.Perm(n)
	for i := range out {
		out[i] = -1
		if i < n && s.rng.IntN(5) > 0 {
			out[i] = int32(order[i])
		}
	}
	return out
}

func (s *suite) attention(c attnCase) {
	n := c.queries()
	a := s.operands(&c)
	q, k, v, dy := s.heads(c.vq, c.q), s.heads(c.vk, c.kk), s.heads(c.vv, c.v), s.heads(c.o, c.dy)
	o, lse := make([]float64, n*c.h*c.dv), make([]float64, n*c.h)
	for sq := range len(c.seq) - 1 {
		for i := c.seq[sq]; i < c.seq[sq+1]; i++ {
			c.token(int(i), sq, o, lse)
		}
	}
	keep := s.alloc(dtype.F32, n*c.h)
	s.check([]result{{name: "o", n: c.o.size(), at: c.o.at, want: o, tol: f32Tol}}, func(d []kernels.Dst) {
		s.b.Attention(c.o.of(d[0]), keep, q, k, v, a)
	})
	s.close("lse", s.get(keep), lse, 1e-6)
	oh := s.heads(c.o, o)
	s.b.Attention(oh, nil, q, k, v, a)
	dq, dk, dv, dsink, drel := c.grads(s)
	results := []result{
		{name: "dq", n: c.vq.size(), at: c.vq.at, want: dq, tol: f32Tol},
		{name: "dk", n: c.vk.size(), at: c.vk.at, want: dk, tol: f32Tol},
		{name: "dv", n: c.vv.size(), at: c.vv.at, want: dv, tol: f32Tol},
	}
	if c.sinks {
		results = append(results, result{name: "dsinks", n: c.h, want: dsink, tol: f32Tol})
	}
	if c.span > 0 {
		results = append(results, result{name: "drel", n: c.span * c.h, want: drel, tol: f32Tol, abs: 1e-6})
	}
	s.check(results, func(d []kernels.Dst) {
		g := &kernels.AttnGrads{Q: c.vq.of(d[0]), K: c.vk.of(d[1]), V: c.vv.of(d[2])}
		if c.sinks {
			g.Sinks = d[3]
		}
		if c.span > 0 {
			g.Rel = d[len(d)-1]
		}
		s.b.AttentionBackward(g, dy, oh, keep, q, k, v, a)
	})
}
