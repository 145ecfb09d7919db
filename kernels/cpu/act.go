package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// actGrain: an activation costs more than a copy.
const actGrain = elemGrain / 2

// Act is y = act(Gate)·Up, element by element. y may be Gate or Up.
func (c *CPU) Act(y kernels.Dst, a *kernels.ActArgs) {
	n := a.N * a.F
	want("act: y", y.Buffer, n)
	want("act: gate", a.Gate, n)
	want("act: up", a.Up, n)
	if y.Skip() {
		return
	}
	out, g, u := plainOf(y.Buffer), plainOf(a.Gate), plainOf(a.Up)
	if a.Kind == kernels.SiLU && !y.Add && onHalves(n, []plain{out, g, u}, func(x [][]uint16) bool { return vec.SiLUHalf(x[0], x[1], x[2]) }) {
		return
	}
	c.eachPiece(n, 4, func(at int, tmp [][]float32) {
		up := []float32(nil)
		if a.Up != nil {
			up = u.get(tmp[1], at)
		}
		res := tmp[2]
		if !y.Add {
			res = out.into(tmp[2], at)
		}
		act(a.Kind, res, g.get(tmp[0], at), up)
		if y.Add {
			out.store(res, at, true, tmp[3])
			return
		}
		out.put(res, at)
	})
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

// eachPiece calls f for pieces of n elements, on several threads, with k slices
// of the piece's length to use.
func (c *CPU) eachPiece(n, k int, f func(at int, tmp [][]float32)) {
	par.For(n, actGrain, func(lo, hi int) {
		room := c.scratch.take(k * actPiece)
		defer c.scratch.give(room)
		tmp := make([][]float32, k)
		for at := lo; at < hi; at += actPiece {
			for i := range tmp {
				tmp[i] = room[i*actPiece:][:min(actPiece, hi-at)]
			}
			f(at, tmp)
		}
	})
}

// ActBackward: dgate = dy·Up·act'(Gate), dup = dy·act(Gate). dgate and dup may
// be dy, Gate or Up where they do not add.
func (c *CPU) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	n := a.N * a.F
	for _, b := range []kernels.Buffer{dgate.Buffer, dup.Buffer, dy, a.Gate, a.Up} {
		want("act backward", b, n)
	}
	g, u, d := plainOf(a.Gate), plainOf(a.Up), plainOf(dy)
	dg, du := plainOf(dgate.Buffer), plainOf(dup.Buffer)
	if a.Kind == kernels.SiLU && !dgate.Add && !dup.Add && onHalves(n, []plain{dg, du, d, g, u}, func(x [][]uint16) bool {
		return vec.SiLUGradHalf(x[0], x[1], x[2], x[3], x[4])
	}) {
		return
	}
	c.eachPiece(n, 6, func(at int, tmp [][]float32) {
		up := []float32(nil)
		if a.Up != nil {
			up = u.get(tmp[2], at)
		}
		first, second := tmp[3], tmp[4]
		if !dg.absent() && !dgate.Add {
			first = dg.into(first, at)
		}
		if !du.absent() && !dup.Add {
			second = du.into(second, at)
		}
		actGrad(a.Kind, first, second, d.get(tmp[0], at), g.get(tmp[1], at), up)
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

// part is x[lo:hi], nil of nil.
func part(x []float32, lo, hi int) []float32 {
	if x == nil {
		return nil
	}
	return x[lo:hi]
}

// curves are the activations that are computed with their slopes.
var curves = map[kernels.ActKind]func(v, s, x []float32){
	kernels.GELU: vec.GELU.Slope, kernels.GELUTanh: vec.GELUTanh.Slope, kernels.ReLU: relu,
}

// curveLen is how many elements of a curve are held at a time, on the stack.
const curveLen = 512

func act(k kernels.ActKind, y, g, u []float32) {
	if k == kernels.SiLU {
		vec.SiLU(y, g, u)
		return
	}
	f := curve(k)
	var slope, value [curveLen]float32
	for i := 0; i < len(g); i += curveLen {
		n := min(curveLen, len(g)-i)
		if u == nil {
			f(y[i:i+n], slope[:n], g[i:i+n])
			continue
		}
		f(value[:n], slope[:n], g[i:i+n])
		vec.MulScale(y[i:i+n], value[:n], u[i:i+n], 1)
	}
}

func actGrad(k kernels.ActKind, dg, du, dy, g, u []float32) {
	if k == kernels.SiLU {
		vec.SiLUGrad(dg, du, dy, g, u)
		return
	}
	f := curve(k)
	var slope, value [curveLen]float32
	for i := 0; i < len(g); i += curveLen {
		n := min(curveLen, len(g)-i)
		f(value[:n], slope[:n], g[i:i+n])
		if u == nil {
			vec.MulScale(dg[i:i+n], dy[i:i+n], slope[:n], 1)
			continue
		}
		vec.MulScale(slope[:n], slope[:n], u[i:i+n], 1)
		vec.MulScale(value[:n], value[:n], dy[i:i+n], 1)
		vec.MulScale(dg[i:i+n], dy[i:i+n], slope[:n], 1)
		copy(du[i:i+n], value[:n])
	}
}

func curve(k kernels.ActKind) func(v, s, x []float32) {
	f, ok := curves[k]
	if !ok {
		panic(fmt.Sprintf("cpu: act: no activation %d", k))
	}
	return f
}

func relu(v, s, x []float32) {
	for i, x := range x {
		switch {
		case x > 0:
			v[i], s[i] = x, 1
		case x != x:
			v[i], s[i] = x, x
		default:
			v[i], s[i] = 0, 0
		}
	}
}
