package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// plain is a buffer of activations: float32, or bf16, which methods widen and
// round row by row. The zero plain is an absent buffer.
type plain struct {
	f []float32
	h []uint16
}

func plainOf(b kernels.Buffer) plain {
	if b == nil {
		return plain{}
	}
	switch b.Type().Kind {
	case dtype.F32:
		return plain{f: f32(b)}
	case dtype.BF16:
		return plain{h: elems[uint16](b, dtype.BF16)}
	}
	panic(fmt.Sprintf("cpu: buffer of %v where F32 or BF16 is needed", b.Type()))
}

func (p plain) absent() bool { return p.f == nil && p.h == nil }

// from is p without its first n elements.
func (p plain) from(n int) plain {
	if p.h != nil {
		return plain{h: p.h[n:]}
	}
	return plain{f: p.f[n:]}
}

// get returns len(tmp) elements from at on, in tmp where they are not float32.
func (p plain) get(tmp []float32, at int) []float32 {
	if p.h == nil {
		return p.f[at:][:len(tmp)]
	}
	vec.Widen(tmp, p.h[at:][:len(tmp)])
	return tmp
}

// copy writes the elements from at on to dst.
func (p plain) copy(dst []float32, at int) {
	if p.h == nil {
		copy(dst, p.f[at:][:len(dst)])
		return
	}
	vec.Widen(dst, p.h[at:][:len(dst)])
}

// into returns where to write len(tmp) elements from at on: in place, or tmp.
// put brings them there.
func (p plain) into(tmp []float32, at int) []float32 {
	if p.h == nil {
		return p.f[at:][:len(tmp)]
	}
	return tmp
}

// put ends what into began; x is what into returned.
func (p plain) put(x []float32, at int) {
	if p.h != nil {
		vec.Narrow(p.h[at:][:len(x)], x)
	}
}

// store writes x, or adds it in float32; tmp is as long as x.
func (p plain) store(x []float32, at int, add bool, tmp []float32) {
	switch {
	case p.h == nil:
		store(p.f[at:][:len(x)], x, add)
	case add:
		vec.Lin2(tmp, 1, p.get(tmp, at), 1, x)
		p.put(tmp, at)
	default:
		p.put(x, at)
	}
}

// lines is a matrix with k contiguous: [lines, k].
func (p plain) lines(ld int) operand { return operand{f: p.f, h: p.h, ld: ld} }

// columns is a matrix with lines contiguous: [k, lines].
func (p plain) columns(ld int) operand { return operand{f: p.f, h: p.h, ld: ld, across: true} }

// gemmTo computes dst [m,n] = or += the sum of terms, in float32 or rounded to bf16.
func (c *CPU) gemmTo(dst kernels.Dst, m, n int, terms ...product) {
	d := plainOf(dst.Buffer)
	if d.h == nil {
		c.gemm(d.f, n, m, n, dst.Add, terms...)
		return
	}
	g := &gemm{half: d.h, ldc: n, m: m, n: n}
	g.plan(terms)
	if len(g.rounds) == 1 && !dst.Add && m > 0 && n > 0 {
		g.run(c)
		return
	}
	s := c.workspace(m * n)
	defer s.free()
	sum := s.take(m * n)
	if dst.Add {
		c.eachRow(m, n, func(r int, _ []float32) { vec.Widen(sum[r*n:][:n], d.h[r*n:][:n]) })
	}
	c.gemm(sum, n, m, n, dst.Add, terms...)
	c.eachRow(m, n, func(r int, _ []float32) { vec.Narrow(d.h[r*n:][:n], sum[r*n:][:n]) })
}

// eachRow calls f for rows of width w, on several threads, with w floats to use.
func (c *CPU) eachRow(rows, w int, f func(r int, tmp []float32)) {
	par.For(rows, rowGrain(w), func(lo, hi int) {
		tmp := c.scratch.take(w)
		defer c.scratch.give(tmp)
		for r := lo; r < hi; r++ {
			f(r, tmp)
		}
	})
}
