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
	out, g, u := f32(y.Buffer), f32(a.Gate), f32(a.Up)
	par.For(n, actGrain, func(lo, hi int) {
		if !y.Add {
			act(a.Kind, out[lo:hi], g[lo:hi], part(u, lo, hi))
			return
		}
		tmp := c.scratch.take(hi - lo)
		act(a.Kind, tmp, g[lo:hi], part(u, lo, hi))
		vec.Axpy(out[lo:hi], 1, tmp)
		c.scratch.give(tmp)
	})
}

// ActBackward: dgate = dy·Up·act'(Gate), dup = dy·act(Gate). dgate and dup may
// be dy, Gate or Up where they do not add.
func (c *CPU) ActBackward(dgate, dup kernels.Dst, dy kernels.Buffer, a *kernels.ActArgs) {
	n := a.N * a.F
	for _, b := range []kernels.Buffer{dgate.Buffer, dup.Buffer, dy, a.Gate, a.Up} {
		want("act backward", b, n)
	}
	g, u, d := f32(a.Gate), f32(a.Up), f32(dy)
	dg, du := f32(dgate.Buffer), f32(dup.Buffer)
	direct := dg != nil && !dgate.Add && (u == nil || du != nil && !dup.Add)
	par.For(n, actGrain, func(lo, hi int) {
		if direct {
			actGrad(a.Kind, dg[lo:hi], part(du, lo, hi), d[lo:hi], g[lo:hi], part(u, lo, hi))
			return
		}
		w := hi - lo
		tmp := c.scratch.take(2 * w)
		actGrad(a.Kind, tmp[:w], tmp[w:], d[lo:hi], g[lo:hi], part(u, lo, hi))
		if dg != nil {
			store(dg[lo:hi], tmp[:w], dgate.Add)
		}
		if du != nil && u != nil {
			store(du[lo:hi], tmp[w:], dup.Add)
		}
		c.scratch.give(tmp)
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
