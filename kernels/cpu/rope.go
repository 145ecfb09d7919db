package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Rope rotates pairs of the elements Off … Off+Rot of every head; the other
// elements are copied. y may be x where it does not add.
func (c *CPU) Rope(y, x kernels.Heads, a *kernels.RopeArgs) {
	n, h, d, rot := a.N, a.H, a.D, a.Rot
	if rot%2 != 0 || rot < 0 || a.Off < 0 || a.Off+rot > d {
		panic(fmt.Sprintf("cpu: rope: %d rotated elements from %d on of a head of %d", rot, a.Off, d))
	}
	want("rope: cs", a.CS, n*rot)
	wantHeads("rope: x", x, n, h, d)
	wantHeads("rope: y", y, n, h, d)
	r := &rope{RopeArgs: a, half: rot / 2, cs: f32(a.CS)}
	xs, ys := plainOf(x.Buffer), plainOf(y.Buffer)
	whole := a.Pairs == kernels.HalfSplit && rot == d && !y.Add && xs.h != nil && ys.h != nil
	par.For(n, rowGrain(h*d), func(lo, hi int) {
		tmp := c.scratch.take(2*rot + 3*d)
		defer c.scratch.give(tmp)
		for i := lo; i < hi; i++ {
			r.angles(i, tmp)
			if whole && vec.RotateHalf(h, ys.h[y.Off+i*y.Tok:], y.Head, xs.h[x.Off+i*x.Tok:], x.Head, rot/2, tmp[:rot/2], tmp[rot/2:rot]) {
				continue
			}
			for j := range h {
				at := y.Off + i*y.Tok + j*y.Head
				src := xs.get(tmp[2*rot:][:d], x.Off+i*x.Tok+j*x.Head)
				out := tmp[2*rot+d:][:d]
				if y.Add {
					r.head(out, src, tmp)
					ys.store(out, at, true, tmp[2*rot+2*d:][:d])
					continue
				}
				out = ys.into(out, at)
				r.head(out, src, tmp)
				ys.put(out, at)
			}
		}
	})
}

// wantHeads panics unless the last element of the view exists.
func wantHeads(what string, v kernels.Heads, n, h, d int) {
	if v.Skip() || n == 0 || h == 0 {
		return
	}
	if v.Off < 0 || v.Tok < 0 || v.Head < 0 {
		panic(fmt.Sprintf("cpu: %s: negative stride in %+v", what, v))
	}
	want(what, v.Buffer, v.Off+(n-1)*v.Tok+(h-1)*v.Head+d)
}

type rope struct {
	*kernels.RopeArgs
	half int
	cs   []float32
}

// angles puts token i's cosines into tmp[:half] and its sines, negated for the
// inverse, behind them.
func (r *rope) angles(i int, tmp []float32) {
	cs := r.cs[i*2*r.half : (i+1)*2*r.half]
	cos, sin := tmp[:r.half], tmp[r.half:2*r.half]
	sign := float32(1)
	if r.Inverse {
		sign = -1
	}
	for j := range cos {
		cos[j], sin[j] = cs[2*j], sign*cs[2*j+1]
	}
}

func (r *rope) head(y, x, tmp []float32) {
	k, end := r.half, r.Off+r.Rot
	cos, sin := tmp[:k], tmp[k:2*k]
	copy(y[:r.Off], x[:r.Off])
	copy(y[end:r.D], x[end:r.D])
	y, x = y[r.Off:end], x[r.Off:end]
	if r.Pairs == kernels.HalfSplit {
		vec.Rotate(y[:k], y[k:], x[:k], x[k:], cos, sin)
		return
	}
	for j := range k {
		a, b := x[2*j], x[2*j+1]
		y[2*j] = float32(a*cos[j]) - float32(b*sin[j])
		y[2*j+1] = float32(b*cos[j]) + float32(a*sin[j])
	}
}
