package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// actGrain: an activation costs more than a copy.
const actGrain = elemGrain / 2

// Act is y = act(Gate)·Up, element by element. y may be Gate or Up where these
// are separate.
func (c *CPU) Act(y kernels.Dst, a *kernels.ActArgs) {
	n := a.N * a.F
	want("act: y", y.Buffer, n)
	g := gatesOf("act", a)
	if y.Skip() {
		return
	}
	out := plainOf(y.Buffer)
	if g.separate() && a.Kind == kernels.SiLU && !y.Add && onHalves(n, []plain{out, g.gate, g.up}, func(x [][]uint16) bool { return vec.SiLUHalf(x[0], x[1], x[2]) }) {
		return
	}
	c.eachPiece(n, g.width(), 4, func(at int, tmp [][]float32) {
		gate, up := g.get(at, tmp[0], tmp[1], tmp[4])
		res := tmp[2]
		if !y.Add {
			res = out.into(tmp[2], at)
		}
		act(a, res, gate, up)
		if y.Add {
			out.store(res, at, true, tmp[3])
			return
		}
		out.put(res, at)
	})
}

// gates is where the operands of an activation lie; of its gradients, too.
type gates struct {
	layout   kernels.ActLayout
	n, f     int
	gate, up plain // up is absent where they lie together
}

func gatesOf(what string, a *kernels.ActArgs) *gates {
	want(what+": gate", a.Gate, a.GateLen())
	want(what+": up", a.Up, a.N*a.F)
	if a.Up != nil && a.Layout != kernels.Separate {
		panic("cpu: " + what + ": up lies with the gate and is given, too")
	}
	if _, bounded := a.Kind.Opened(); bounded && !a.Gated() {
		panic("cpu: " + what + ": an activation that is always gated has no up")
	}
	return &gates{a.Layout, a.N, a.F, plainOf(a.Gate), plainOf(a.Up)}
}

func (g *gates) separate() bool { return g.layout == kernels.Separate }

// width is what a piece must not cross.
func (g *gates) width() int {
	if g.separate() {
		return max(g.n*g.f, 1)
	}
	return g.f
}

// get returns the gates and ups of len(tg) elements from at of [N, F] on; up is
// nil where there is none. wide has room for twice as many.
func (g *gates) get(at int, tg, tu, wide []float32) (gate, up []float32) {
	switch g.layout {
	case kernels.Separate:
		if !g.up.absent() {
			up = g.up.get(tu, at)
		}
		return g.gate.get(tg, at), up
	case kernels.Halves:
		first := at + at/g.f*g.f
		return g.gate.get(tg, first), g.gate.get(tu, first+g.f)
	}
	for i, v := range g.gate.get(wide, 2*at) {
		if i&1 == 0 {
			tg[i/2] = v
		} else {
			tu[i/2] = v
		}
	}
	return tg, tu
}

// onHalves calls f for pieces of n elements where all operands are bf16, and
// reports whether it has done its work.
func onHalves(n int, ps []plain, f func(x [][]uint16) bool) bool {
	x := make([][]uint16, len(ps))
	for i, p := range ps {
		if p.h == nil {
			return false
		}
		x[i] = p.h[:0]
	}
	if !f(x) { // of nothing: does the level have it?
		return false
	}
	par.For(n, actGrain, func(lo, hi int) {
		x := make([][]uint16, len(ps))
		for i, p := range ps {
			x[i] = p.h[lo:hi]
		}
		f(x)
	})
	return true
}

// actPiece is how many elements are in work at a time, so that what is widened
// or waits to be added stays in the nearest cache.
const actPiece = 1024

// eachPiece calls f for pieces of n elements that cross no multiple of width, on
// several threads, with k slices of the piece's length to use and one of twice that.
func (c *CPU) eachPiece(n, width, k int, f func(at int, tmp [][]float32)) {
	par.For(n, actGrain, func(lo, hi int) {
		room := c.scratch.take((k + 2) * actPiece)
		defer c.scratch.give(room)
		tmp := make([][]float32, k+1)
		for at := lo; at < hi; {
			m := min(actPiece, hi-at, width-at%width)
			for i := range k {
				tmp[i] = room[i*actPiece:][:m]
			}
			tmp[k] = room[k*actPiece:][:2*m]
			f(at, tmp)
			at += m
		}
	})
}

// ActBackward: dgate = dy·Up·act'(Gate), dup = dy·act(Gate). dgate and dup may
// be dy, Gate or Up where they do not add and are separate.
func (c *CPU) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	n := a.N * a.F
	want("act backward: dgate", dgate.Buffer, a.GateLen())
	want("act backward: dup", dup.Buffer, n)
	want("act backward: dy", dy, n)
	g, d := gatesOf("act backward", a), plainOf(dy)
	dg, du := plainOf(dgate.Buffer), plainOf(dup.Buffer)
	if g.separate() && a.Kind == kernels.SiLU && !dgate.Add && !dup.Add && onHalves(n, []plain{dg, du, d, g.gate, g.up}, func(x [][]uint16) bool {
		return vec.SiLUGradHalf(x[0], x[1], x[2], x[3], x[4])
	}) {
		return
	}
	if !g.separate() {
		c.actBackwardTogether(g, dgate, d, a)
		return
	}
	c.eachPiece(n, g.width(), 6, func(at int, tmp [][]float32) {
		gate, up := g.get(at, tmp[1], tmp[2], tmp[6])
		first, second := tmp[3], tmp[4]
		if !dg.absent() && !dgate.Add {
			first = dg.into(first, at)
		}
		if !du.absent() && !dup.Add {
			second = du.into(second, at)
		}
		actGrad(a, first, second, d.get(tmp[0], at), gate, up)
		finish := func(p plain, x []float32, add bool) {
			if add {
				p.store(x, at, true, tmp[5])
			} else {
				p.put(x, at)
			}
		}
		if !dg.absent() {
			finish(dg, first, dgate.Add)
		}
		if !du.absent() && a.Up != nil {
			finish(du, second, dup.Add)
		}
	})
}

// actBackwardTogether is ActBackward where gates and ups lie in one matrix, and
// their gradients, too.
func (c *CPU) actBackwardTogether(g *gates, dgate kernels.Dst, dy plain, a *kernels.ActArgs) {
	if dgate.Skip() {
		return
	}
	d := plainOf(dgate.Buffer)
	c.eachPiece(g.n*g.f, g.f, 6, func(at int, tmp [][]float32) {
		gate, up := g.get(at, tmp[1], tmp[2], tmp[6])
		actGrad(a, tmp[3], tmp[4], dy.get(tmp[0], at), gate, up)
		if g.layout == kernels.Halves {
			first := at + at/g.f*g.f
			d.store(tmp[3], first, dgate.Add, tmp[5])
			d.store(tmp[4], first+g.f, dgate.Add, tmp[5])
			return
		}
		both, m := tmp[6], len(gate)
		for i, v := range tmp[3] {
			both[2*i], both[2*i+1] = v, tmp[4][i]
		}
		d.store(both[:m], 2*at, dgate.Add, tmp[5])
		d.store(both[m:], 2*at+m, dgate.Add, tmp[5])
	})
}

// part is x[lo:hi], nil of nil.
func part(x []float32, lo, hi int) []float32 {
	if x == nil {
		return nil
	}
	return x[lo:hi]
}

// curveLen is how many elements of a curve are held at a time, on the stack.
const curveLen = 512

// act is y = act(g)·u, u nil: act(g).
func act(a *kernels.ActArgs, y, g, u []float32) {
	if a.Kind == kernels.SiLU {
		vec.SiLU(y, g, u)
		return
	}
	f := curveOf(a)
	var slope, value, open [curveLen]float32
	for i := 0; i < len(g); i += curveLen {
		n := min(curveLen, len(g)-i)
		if u == nil {
			f(y[i:i+n], slope[:n], g[i:i+n])
			continue
		}
		f(value[:n], slope[:n], g[i:i+n])
		up := u[i : i+n]
		if add, bounded := a.Kind.Opened(); bounded {
			up = opened(open[:n], up, a.Limit, add)
		}
		vec.MulScale(y[i:i+n], value[:n], up, 1)
	}
}

// actGrad is the gradient of act; du is not written where u is nil.
func actGrad(a *kernels.ActArgs, dg, du, dy, g, u []float32) {
	if a.Kind == kernels.SiLU {
		vec.SiLUGrad(dg, du, dy, g, u)
		return
	}
	f := curveOf(a)
	var slope, value, open [curveLen]float32
	for i := 0; i < len(g); i += curveLen {
		n := min(curveLen, len(g)-i)
		f(value[:n], slope[:n], g[i:i+n])
		if u == nil {
			vec.MulScale(dg[i:i+n], dy[i:i+n], slope[:n], 1)
			continue
		}
		up := u[i : i+n]
		if add, bounded := a.Kind.Opened(); bounded {
			shut(value[:n], up, a.Limit)
			up = opened(open[:n], up, a.Limit, add)
		}
		vec.MulScale(slope[:n], slope[:n], up, 1)
		vec.MulScale(value[:n], value[:n], dy[i:i+n], 1)
		vec.MulScale(dg[i:i+n], dy[i:i+n], slope[:n], 1)
		copy(du[i:i+n], value[:n])
	}
}
