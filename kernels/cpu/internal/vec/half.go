package vec

import "math"

// Widen is dst = src: bf16 as float32.
func Widen(dst []float32, src []uint16) {
	same("widen", len(dst), len(src))
	at().widen(dst, src)
}

// Narrow is dst = src rounded to the nearest bf16, ties to even; a NaN becomes
// a quiet one.
func Narrow(dst []uint16, src []float32) {
	same("narrow", len(dst), len(src))
	at().narrow(dst, src)
}

// NarrowTile is Narrow of rows rows of n values, ldd and lds apart.
func NarrowTile(dst []uint16, ldd int, src []float32, lds, rows, n int) {
	if rows == 0 || n == 0 {
		return
	}
	_, _ = dst[(rows-1)*ldd+n-1], src[(rows-1)*lds+n-1]
	if tile := at().narrowTile; tile != nil && tile(dst, ldd, src, lds, rows, n) {
		return
	}
	for r := range rows {
		Narrow(dst[r*ldd:][:n], src[r*lds:][:n])
	}
}

// halfTable is what a level does on bf16 in one pass, with the bits of widening,
// the function on float32 and rounding.
type halfTable struct {
	silu     func(y, g, u []uint16)
	siluGrad func(dg, du, dy, g, u []uint16)
	rotate   func(n int, y []uint16, ldy int, x []uint16, ldx, k int, c, s []float32)
}

// SiLUHalf is SiLU of bf16. It reports false, and has done nothing, where the
// level has no such function.
func SiLUHalf(y, g, u []uint16) bool {
	same("silu", len(y), len(g), len(u))
	t := at().half
	if t != nil {
		t.silu(y, g, u)
	}
	return t != nil
}

// SiLUGradHalf is SiLUGrad of bf16, or false as SiLUHalf.
func SiLUGradHalf(dg, du, dy, g, u []uint16) bool {
	same("silugrad", len(dg), len(du), len(dy), len(g), len(u))
	t := at().half
	if t != nil {
		t.siluGrad(dg, du, dy, g, u)
	}
	return t != nil
}

// RotateHalf is Rotate of n heads of 2·k bf16, ldy and ldx apart, or false as
// SiLUHalf; so it is where k is not a multiple of 16.
func RotateHalf(n int, y []uint16, ldy int, x []uint16, ldx, k int, c, s []float32) bool {
	t := at().half
	if t == nil || k == 0 || k%16 != 0 || n == 0 {
		return false
	}
	_, _, _, _ = y[(n-1)*ldy+2*k-1], x[(n-1)*ldx+2*k-1], c[k-1], s[k-1]
	t.rotate(n, y, ldy, x, ldx, k, c, s)
	return true
}

func widenGeneric(dst []float32, src []uint16) {
	for i, v := range src {
		dst[i] = math.Float32frombits(uint32(v) << 16)
	}
}

func narrowGeneric(dst []uint16, src []float32) {
	for i, v := range src {
		u := math.Float32bits(v)
		if v != v {
			dst[i] = uint16(u>>16) | 64
			continue
		}
		dst[i] = uint16((u + 0x7fff + u>>16&1) >> 16)
	}
}
