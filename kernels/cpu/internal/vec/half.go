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
