package block

import (
	"encoding/binary"
	"math"
)

// BF16 rounds x to bfloat16, nearest even. A NaN keeps its top bits and is made
// quiet, as ggml does.
func BF16(x float32) uint16 {
	u := math.Float32bits(x)
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 64
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// FromBF16 widens a bfloat16; every value is exact.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F16 rounds x to IEEE half precision, nearest even; past 65504 it gives
// infinity. A NaN becomes the quiet NaN 0x7e00 with x's sign, as ggml does.
func F16(x float32) uint16 {
	u := math.Float32bits(x)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7e00
	case u >= 0x477ff000: // 65520: halfway to what would be 65536
		return sign | 0x7c00
	case u < 0x38800000: // below the smallest normal half, 2^-14: let the adder round at 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(u)+0.5)-0x3f000000)
	}
	u += 0xfff + u>>13&1
	return sign | uint16((u-0x38000000)>>13)
}

// FromF16 widens a half; every value is exact.
func FromF16(h uint16) float32 {
	em := uint32(h & 0x7fff)
	sign := uint32(h&0x8000) << 16
	if em >= 0x7c00 {
		return math.Float32frombits(sign | 0x7f800000 | em<<13)
	}
	v := math.Float32frombits(em<<13) * 0x1p112
	return math.Float32frombits(sign | math.Float32bits(v))
}

// E4M3 rounds x to float8 e4m3fn, nearest even, and saturates: everything past
// 448, infinity too, becomes 448 (torch 2.15's rule). NaN is 0x7f.
func E4M3(x float32) uint8 {
	u := math.Float32bits(x)
	sign := uint8(u >> 24 & 0x80)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7f
	case u >= 0x43e80000: // 464, halfway past 448
		return sign | 0x7e
	case u < 0x3c800000: // below 2^-6: subnormal steps of 2^-9
		return sign | uint8(math.Float32bits(math.Float32frombits(u)+0x1p14)-0x46800000)
	}
	u += 0x7ffff + u>>20&1
	return sign | uint8((u-0x3c000000)>>20)
}

// FromE4M3 widens a float8 e4m3fn.
func FromE4M3(b uint8) float32 { return e4m3Table[b] }

// E5M2 rounds x to float8 e5m2, nearest even; from 61440 on it gives infinity.
// NaN is 0x7f.
func E5M2(x float32) uint8 {
	u := math.Float32bits(x)
	sign := uint8(u >> 24 & 0x80)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7f
	case u >= 0x47700000: // 61440, halfway past 57344
		return sign | 0x7c
	case u < 0x38800000: // below 2^-14: subnormal steps of 2^-16
		return sign | uint8(math.Float32bits(math.Float32frombits(u)+0x1p7)-0x43000000)
	}
	u += 0xfffff + u>>21&1
	return sign | uint8((u-0x38000000)>>21)
}

// E8M0 is the exponent of the power of two that torch rounds the magnitude of x to:
// the nearest, of two the larger. 0 becomes the smallest, NaN and infinity 0xff.
func E8M0(x float32) uint8 {
	u := math.Float32bits(x) & 0x7fffffff
	switch {
	case u >= 0x7f800000:
		return 0xff
	case u < 0x00800000: // below 2^-126
		if u > 0x00400000 { // past 2^-127
			return 1
		}
		return 0
	}
	return uint8((u + 0x400000) >> 23)
}

// FromE8M0 is the power of two of an exponent; 0xff is NaN.
func FromE8M0(b uint8) float32 {
	switch b {
	case 0:
		return 0x1p-127
	case 0xff:
		return float32(math.NaN())
	}
	return math.Float32frombits(uint32(b) << 23)
}

// E2M1 rounds x to a float of 4 bits, nearest even; past 6 it stays 6.
func E2M1(x float32) uint8 {
	sign := uint8(math.Float32bits(x) >> 28 & 8)
	x = abs32(x)
	for i, mid := range [7]float32{0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5} {
		if x < mid || x == mid && i%2 == 0 {
			return sign | uint8(i)
		}
	}
	return sign | 7
}

// FromE2M1 widens a float of 4 bits.
func FromE2M1(b uint8) float32 { return e2m1Table[b&15] }

var e2m1Table = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, float32(math.Copysign(0, -1)), -0.5, -1, -1.5, -2, -3, -4, -6}

// E2M1Map is what the 16 codes of a float of 4 bits stand for.
func E2M1Map() [16]float32 { return e2m1Table }

// FromE5M2 widens a float8 e5m2.
func FromE5M2(b uint8) float32 { return FromF16(uint16(b) << 8) }

var e4m3Table = func() (t [256]float32) {
	for i := range t {
		e, m := i>>3&15, float64(i&7)
		v := math.Ldexp(1+m/8, e-7)
		switch {
		case e == 0:
			v = math.Ldexp(m, -9)
		case i&0x7f == 0x7f:
			v = math.NaN()
		}
		if i&0x80 != 0 {
			v = math.Copysign(v, -1)
		}
		t[i] = float32(v)
	}
	return t
}()

// PutBF16 writes src rounded to bfloat16 into dst, two bytes each.
func PutBF16(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], BF16(v))
	}
}

// GetBF16 widens the bfloat16 values of src into dst.
func GetBF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(src[2*i])<<16 | uint32(src[2*i+1])<<24)
	}
}

// PutF16 writes src rounded to half precision into dst, two bytes each.
func PutF16(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], F16(v))
	}
}

// GetF16 widens the halves of src into dst.
func GetF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = FromF16(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// PutF32 writes src into dst, four little-endian bytes each.
func PutF32(dst []byte, src []float32) {
	dst = dst[:4*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// GetF32 reads little-endian float32 values.
func GetF32(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// PutE4M3 writes src rounded to float8 e4m3fn into dst.
func PutE4M3(dst []byte, src []float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = E4M3(v)
	}
}

// GetE4M3 widens the float8 e4m3fn values of src into dst.
func GetE4M3(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, b := range src {
		dst[i] = e4m3Table[b]
	}
}

// PutE5M2 writes src rounded to float8 e5m2 into dst.
func PutE5M2(dst []byte, src []float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = E5M2(v)
	}
}

// GetE5M2 widens the float8 e5m2 values of src into dst.
func GetE5M2(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, b := range src {
		dst[i] = FromE5M2(b)
	}
}
