package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// halfTol is half a unit in the last place of a bf16, and a little for results
// that lie near the middle of two.
const halfTol = 0x1.02p-8

// half makes a bf16 buffer of x, and rounds x to it.
func (s *suite) half(x []float64) kernels.Buffer {
	b := s.alloc(dtype.BF16, len(x))
	s.b.Add(kernels.To(b), &kernels.AddArgs{N: len(x), A: s.up(x), Alpha: 1})
	for i, v := range s.full(b) {
		x[i] = float64(v)
	}
	return b
}

// full returns the values of a buffer of float32 or bf16.
func (s *suite) full(b kernels.Buffer) []float32 {
	y := s.alloc(dtype.F32, b.Len())
	s.b.Add(kernels.To(y), &kernels.AddArgs{N: b.Len(), A: b, Alpha: 1})
	return s.get(y)
}

// twin is an operand in bf16 and the same values in float32.
type twin struct{ half, full kernels.Buffer }

func (s *suite) twin(n int) twin {
	x := s.normal(n, 1)
	h := s.half(x)
	return twin{h, s.up(x)}
}

// pick is the operand in the one type or the other.
func (w twin) pick(half bool) kernels.Buffer {
	if half {
		return w.half
	}
	return w.full
}

// halves compares an operation on bf16 with itself on float32, whose results
// have n elements each: written, and added to what is there.
func (s *suite) halves(n []int, op func(half bool, d []kernels.Dst)) {
	s.Helper()
	s.halvesTo(halfTol, n, op)
}

// halvesTo is halves with a tolerance of its own.
func (s *suite) halvesTo(tol float64, n []int, op func(half bool, d []kernels.Dst)) {
	s.Helper()
	for _, add := range []bool{false, true} {
		var got, want []kernels.Dst
		for _, n := range n {
			old := s.twin(n + 2*guard)
			got = append(got, kernels.Dst{Buffer: s.b.Slice(old.half, guard, n), Add: add})
			want = append(want, kernels.Dst{Buffer: s.b.Slice(old.full, guard, n), Add: add})
		}
		op(true, got)
		op(false, want)
		for i := range n {
			g, w := s.full(got[i].Buffer), s.full(want[i].Buffer)
			w64 := make([]float64, len(w))
			for j, v := range w {
				w64[j] = float64(v)
			}
			s.near(fmt.Sprintf("result %d, add %v", i, add), g, w64, tol, 1e-6)
		}
	}
}

func testHalf(s *suite) {
	for _, c := range []linearCase{
		{n: 3, in: 35, out: 17, r: 4}, {n: 40, in: 70, out: 33, r: 5, bias: true, bf16: true}, {n: 21, in: 64, out: 300, bf16: true},
		{n: 40, in: 64, out: 48, drop: 0.25, r: 3, alpha: 2}, {n: 20, in: 5000, out: 40},
	} {
		c.t = dtype.Of(dtype.F32)
		if s.largeProduct(c.bf16, c.n*c.in*c.out) {
			continue
		}
		s.in("linear "+c.String(), func(s *suite) { s.halfLinear(c) })
	}
	s.in("rope", func(s *suite) {
		const n, h, d, rot = 9, 3, 20, 12
		x, cs := s.twin(n*h*d), s.up(s.normal(n*rot, 1))
		v := kernels.Heads{Tok: h * d, Head: d}
		s.halves([]int{n * h * d}, func(half bool, dst []kernels.Dst) {
			y, from := v, v
			y.Buffer, y.Add, from.Buffer = dst[0].Buffer, dst[0].Add, x.pick(half)
			s.b.Rope(y, from, &kernels.RopeArgs{N: n, H: h, D: d, Rot: rot, Off: 3, CS: cs})
		})
	})
	for _, c := range []halfAttention{
		{seq: []int32{0, 20, 150}, h: 4, k: 2, d: 20},
		{seq: []int32{0, 20, 150}, h: 4, k: 2, d: 64},
		{seq: []int32{0, 20, 150}, h: 4, k: 2, d: 64, bf16: true},
		{seq: []int32{0, 1, 40, 40, 603}, h: 3, k: 1, d: 16, window: 170, bf16: true},
		{seq: []int32{0, 301}, h: 5, k: 5, d: 112, bf16: true},
		{seq: []int32{0, 140}, h: 200, k: 2, d: 32, window: 1, bf16: true},
		{seq: []int32{0, 70}, h: 2, k: 1, d: 48, softCap: 3, bf16: true},
		{seq: []int32{0, 20, 150}, h: 4, k: 2, d: 64, sinks: true, bf16: true},
		{seq: []int32{0, 300}, h: 2, k: 1, d: 32, chunk: 50, bf16: true},
		{seq: []int32{0, 300}, h: 2, k: 1, d: 32, full: true},
		{seq: []int32{0, 40}, h: 2, k: 1, d: 32, p: 9},
		{seq: []int32{0, 5, 39}, h: 2, k: 1, d: 8, softCap: 3, sinks: true, bf16: true},
	} {
		if n := int(c.seq[len(c.seq)-1]); s.large(n * n * c.h * c.d) {
			continue
		}
		s.in(fmt.Sprintf("attention %+v", c), func(s *suite) { s.halfAttention(c) })
	}
	s.in("logprob", func(s *suite) {
		const n, c, v = 40, 35, 70
		x, w := s.twin(n*c), kernels.Mat{Buffer: s.up(s.normal(v*c, 1)), Rows: v, Cols: c, Of: v}
		targets := s.choices(v, n)
		targets[3] = -1
		a := kernels.LogProbArgs{N: n, W: w, Target: s.ints(targets), Coef: s.up(s.normal(n, 1)), Scale: 0.5}
		for _, lse := range []kernels.Buffer{nil, s.alloc(dtype.F32, n)} { // all tokens, and those with a target
			s.halves([]int{n * c}, func(half bool, d []kernels.Dst) {
				a := a
				a.X = x.pick(half)
				s.b.LogProb(&kernels.LogProbOut{LSE: lse}, d[0], kernels.Dst{}, kernels.Dst{}, &a)
			})
		}
	})
	s.in("cache", func(s *suite) {
		const n, h, k, d = 5, 4, 2, 20
		q, kk, v := s.twin(n*h*d), s.twin(n*k*d), s.twin(n*k*d)
		cache := &kernels.KV{Keys: s.alloc(dtype.F32, 8*k*d), Values: s.alloc(dtype.F32, 8*k*d), Slots: 1, Max: 8, K: k, Dk: d}
		slot, place, pos := s.ints(make([]int32, n)), s.ints([]int32{0, 1, 2, 3, 4}), s.ints([]int32{0, 1, 2, 3, 2})
		s.halves([]int{n * h * d}, func(half bool, dst []kernels.Dst) {
			heads := func(b kernels.Buffer, h int, add bool) kernels.Heads {
				return kernels.Heads{Buffer: b, Tok: h * d, Head: d, Add: add}
			}
			s.b.KVAppend(cache, &kernels.KVAppendArgs{N: n, K: heads(kk.pick(half), k, false), V: heads(v.pick(half), k, false), Slot: slot, Pos: place})
			s.b.KVAttention(heads(dst[0].Buffer, h, dst[0].Add), heads(q.pick(half), h, false), cache, &kernels.KVAttnArgs{N: n, H: h, Slot: slot, Pos: pos, Scale: 0.3})
		})
	})
}

func (s *suite) halfLinear(c linearCase) {
	w, _ := s.weights(c.t, c.out, c.in, 1)
	x, dy, u, du := s.twin(c.n*c.in), s.twin(c.n*c.out), s.twin(c.n*c.r), s.twin(c.n*c.r)
	drop, _ := s.drop(c.drop, c.n)
	b, a := s.up(s.normal(c.out*c.r, 1)), s.up(s.normal(c.r*c.in, 1))
	var bias kernels.Buffer
	if c.bias {
		bias = s.up(s.normal(c.out, 1))
	}
	args := func(half bool) *kernels.LinearArgs {
		return &kernels.LinearArgs{N: c.n, X: x.pick(half), W: w, Alpha: c.alpha, BF16: c.bf16, Drop: drop}
	}
	s.halves([]int{c.n * c.out}, func(half bool, d []kernels.Dst) {
		l := args(half)
		if l.Bias = bias; c.r > 0 {
			l.U, l.B = u.pick(half), kernels.Mat{Buffer: b, Rows: c.out, Cols: c.r, Of: c.out}
		}
		s.b.Linear(d[0], l)
	})
	s.halves([]int{c.n * c.in}, func(half bool, d []kernels.Dst) {
		l := args(half)
		if c.r > 0 {
			l.U, l.B = du.pick(half), kernels.Mat{Buffer: a, Rows: c.r, Cols: c.in, Of: c.r}
		}
		s.b.LinearBackward(d[0], kernels.Dst{}, kernels.Dst{}, dy.pick(half), l)
	})
	var dw, db [2][]float32
	for i, half := range []bool{false, true} {
		wb, bb := s.alloc(dtype.F32, c.in*c.out), s.alloc(dtype.F32, c.out)
		s.b.LinearBackward(kernels.Dst{}, kernels.To(wb), kernels.To(bb), dy.pick(half), args(half))
		dw[i], db[i] = s.get(wb), s.get(bb)
	}
	s.sameValues("dw", dw[1], dw[0])
	s.sameValues("dbias", db[1], db[0])
}

// sameValues compares results that depend on the same numbers.
func (s *suite) sameValues(name string, got, want []float32) {
	s.Helper()
	for i, w := range want {
		if d := math.Abs(float64(got[i] - w)); !(d <= f32Tol*math.Max(1, math.Abs(float64(w)))) {
			s.Errorf("%s: element %d of bf16 operands is %v, of float32 %v", name, i, got[i], w)
			return
		}
	}
}

// halfAttention is attention on bf16, with bf16 set in bf16 arithmetic, too.
type halfAttention struct {
	seq     []int32
	h, k, d int
	window  int
	softCap float32
	chunk   int
	full    bool
	sinks   bool
	p       int // keys picked at random
	bf16    bool
}

func (s *suite) halfAttention(c halfAttention) {
	n, h, k, d := int(c.seq[len(c.seq)-1]), c.h, c.k, c.d
	all := kernels.AttnArgs{N: n, H: h, K: k, Dk: d, Seq: s.ints(c.seq), Scale: float32(1.3 / math.Sqrt(float64(d))),
		Window: c.window, SoftCap: c.softCap, Chunk: c.chunk, Full: c.full, P: c.p}
	if c.sinks {
		all.Sinks = s.up(s.normal(h, 2))
	}
	if c.p > 0 {
		var pick []int32
		for range n {
			pick = append(pick, s.picks(c.p, n)...)
		}
		all.Pick = s.ints(pick)
	}
	args := func(half bool) *kernels.AttnArgs {
		a := all
		a.BF16 = half && c.bf16
		return &a
	}
	tol, gradTol := halfTol, halfTol
	if c.bf16 { // weights and gradients of scores are rounded, too
		tol, gradTol = 0x1p-6, 0x1p-5
	}
	q, kk, v, do, o := s.twin(n*h*d), s.twin(n*k*d), s.twin(n*k*d), s.twin(n*h*d), s.twin(n*h*d)
	lse := map[bool]kernels.Buffer{true: s.alloc(dtype.F32, n*h), false: s.alloc(dtype.F32, n*h)}
	heads := func(b kernels.Buffer, h int) kernels.Heads { return kernels.Heads{Buffer: b, Tok: h * d, Head: d} }
	to := func(dst kernels.Dst, h int) kernels.Heads {
		v := heads(dst.Buffer, h)
		v.Add = dst.Add
		return v
	}
	s.halvesTo(tol, []int{n * h * d}, func(half bool, dst []kernels.Dst) {
		s.b.Attention(to(dst[0], h), lse[half], heads(q.pick(half), h), heads(kk.pick(half), k), heads(v.pick(half), k), args(half))
	})
	exact := s.get(lse[false])
	want := make([]float64, len(exact))
	for i, x := range exact {
		want[i] = float64(x)
	}
	s.near("lse", s.get(lse[true]), want, 1e-5, 1e-5)
	s.halvesTo(gradTol, []int{n * h * d, n * k * d, n * k * d}, func(half bool, dst []kernels.Dst) {
		g := &kernels.AttnGrads{Q: to(dst[0], h), K: to(dst[1], k), V: to(dst[2], k)}
		s.b.AttentionBackward(g, heads(do.pick(half), h), heads(o.pick(half), h), lse[half],
			heads(q.pick(half), h), heads(kk.pick(half), k), heads(v.pick(half), k), args(half))
	})
}
