package vec

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// halfOps are functions on bf16 and what they are made of; the first outs
// slices are written.
var halfOps = []struct {
	name       string
	args, outs int
	half       func(x [][]uint16) bool
	full       func(x [][]float32)
}{
	{"silu", 3, 1, func(x [][]uint16) bool { return SiLUHalf(x[0], x[1], x[2]) }, func(x [][]float32) { SiLU(x[0], x[1], x[2]) }},
	{"silugrad", 5, 2, func(x [][]uint16) bool { return SiLUGradHalf(x[0], x[1], x[2], x[3], x[4]) },
		func(x [][]float32) { SiLUGrad(x[0], x[1], x[2], x[3], x[4]) }},
}

// TestHalf holds functions on bf16 to the bits of widening, the function on
// float32 and rounding, and to not writing beyond their end.
func TestHalf(t *testing.T) {
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		for _, o := range halfOps {
			for n := range 70 {
				var h [][]uint16
				var f [][]float32
				for range o.args {
					x := make([]uint16, n+1)
					Narrow(x, normals(r, n+1))
					w := make([]float32, n+1)
					Widen(w, x)
					h, f = append(h, x), append(f, w)
				}
				cutH, cutF := make([][]uint16, o.args), make([][]float32, o.args)
				for i := range h {
					cutH[i], cutF[i] = h[i][:n], f[i][:n]
				}
				if !o.half(cutH) {
					return
				}
				o.full(cutF)
				for i := range o.outs {
					want := make([]uint16, n+1)
					Narrow(want, f[i])
					sameHalves(t, fmt.Sprintf("%s of %d, result %d", o.name, n, i), h[i], want)
				}
			}
		}
	})
}

func TestRotateHalf(t *testing.T) {
	const n, k, ldx, ldy = 3, 32, 70, 66
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		x, y, want := make([]uint16, n*ldx), make([]uint16, n*ldy), make([]uint16, n*ldy)
		Narrow(x, normals(r, n*ldx))
		c, s := normals(r, k), normals(r, k)
		if RotateHalf(n, y, ldy, x, ldx, 8, c, s) {
			t.Error("halves of 8 elements")
		}
		if !RotateHalf(n, y, ldy, x, ldx, k, c, s) {
			return
		}
		in, out := make([]float32, 2*k), make([]float32, 2*k)
		for h := range n {
			Widen(in, x[h*ldx:][:2*k])
			Rotate(out[:k], out[k:], in[:k], in[k:], c, s)
			Narrow(want[h*ldy:][:2*k], out)
		}
		sameHalves(t, "rotate", y, want)
	})
}

func sameHalves(t *testing.T, what string, got, want []uint16) {
	t.Helper()
	for i, w := range want {
		if got[i] != w {
			t.Fatalf("%s: element %d is %x, want %x", what, i, got[i], w)
		}
	}
}
