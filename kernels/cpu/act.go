package cpu

import (
	"fmt"
	"math"

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

func act(k kernels.ActKind, y, g, u []float32) {
	if k == kernels.SiLU {
		vec.SiLU(y, g, u)
		return
	}
	f := actFunc(k)
	for i, x := range g {
		v, _ := f(x)
		if u != nil {
			v *= u[i]
		}
		y[i] = v
	}
}

func actGrad(k kernels.ActKind, dg, du, dy, g, u []float32) {
	if k == kernels.SiLU {
		vec.SiLUGrad(dg, du, dy, g, u)
		return
	}
	f := actFunc(k)
	for i, x := range g {
		v, slope := f(x)
		d := dy[i]
		if u == nil {
			dg[i] = d * slope
			continue
		}
		up := u[i]
		dg[i] = d * up * slope
		du[i] = d * v
	}
}

// actFunc returns the function that gives an activation's value and slope.
func actFunc(k kernels.ActKind) func(x float32) (v, slope float32) {
	switch k {
	case kernels.GELU:
		return gelu
	case kernels.GELUTanh:
		return geluTanh
	case kernels.ReLU:
		return relu
	}
	panic(fmt.Sprintf("cpu: act: no activation %d", k))
}

func relu(x float32) (v, slope float32) {
	if x > 0 {
		return x, 1
	}
	if x != x {
		return x, x
	}
	return 0, 0
}

// gelu is x·Φ(x) (Hendrycks, Gimpel 2016, arXiv:1606.08415).
func gelu(x32 float32) (v, slope float32) {
	x := float64(x32)
	phi := 0.5 * math.Erfc(-x/math.Sqrt2)
	pdf := math.Exp(-x*x/2) / math.Sqrt(2*math.Pi)
	return float32(x * phi), float32(phi + x*pdf)
}

// geluTanh is 0.5·x·(1+tanh(√(2/π)(x+0.044715x³))).
func geluTanh(x32 float32) (v, slope float32) {
	const k, c = 0.7978845608028654, 0.044715
	x := float64(x32)
	t := math.Tanh(k * (x + c*x*x*x))
	return float32(0.5 * x * (1 + t)), float32(0.5*(1+t) + 0.5*x*(1-t*t)*k*(1+3*c*x*x))
}
