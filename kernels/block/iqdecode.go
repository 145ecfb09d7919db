package block

import (
	"math"
	"math/bits"
)

// Decoders of the types that store points of a lattice: 256 elements a block, a
// unit of 32.

// Magnitudes that coordinates of points stand for, in units of a scale.
var (
	levels2   = [8]uint8{8, 25, 43}
	levels3XX = [8]uint8{4, 12, 20, 28, 36, 44, 52, 62}
	levels3S  = [8]uint8{1, 3, 5, 7, 9, 11, 13, 15}
	levels1   = [8]uint8{0, 1, 2} // one less is the value
)

// The points by their index, with the levels in place of coordinates.
var (
	grid2XXS = lattice2XXS.grid(&levels2)
	grid2XS  = lattice2XS.grid(&levels2)
	grid2S   = lattice2S.grid(&levels2)
	grid1S   = lattice1S.grid(&levels1)
	grid3XXS = lattice3XXS.grid(&levels3XX)
	grid3S   = lattice3S.grid(&levels3S)
)

func (g *lattice) grid(levels *[8]uint8) [][8]uint8 {
	out := make([][8]uint8, len(g.points))
	for j, p := range g.points {
		for i := range g.dims {
			out[j][i] = levels[g.coordinate(int(p), i)]
		}
	}
	return out
}

// evenSigns are eight signs of which an even number is set, by the first seven.
func evenSigns(seven uint32) uint8 {
	s := uint8(seven & 127)
	return s | uint8(bits.OnesCount8(s)&1)<<7
}

// signed writes scale·g to y, negated where a bit of signs is set.
func signed(y []float32, scale float32, g *[8]uint8, signs uint8) {
	for i := range y {
		v := scale * float32(g[i&7])
		y[i] = math.Float32frombits(math.Float32bits(v) ^ uint32(signs>>i)<<31)
	}
}

// IQ2_XXS: f16 d, and for 32 elements four indices and a word of four times
// seven signs and a 4-bit scale.
func decodeIQ2_XXS(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		q, w := b[2+8*u:6+8*u], le.Uint32(b[6+8*u:])
		scale := float32(d*(0.5+float32(w>>28))) * 0.25
		for l := range 4 {
			signed(dst[8*l:8*l+8], scale, &grid2XXS[q[l]], evenSigns(w>>(7*l)))
		}
	}
}

// IQ2_XS: f16 d, 32 words of a 9-bit index and seven signs, 16 4-bit scales.
func decodeIQ2_XS(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		for l := range 4 {
			w := le.Uint16(b[2+8*u+2*l:])
			scale := scale2(d, b[66+u], l)
			signed(dst[8*l:8*l+8], scale, &grid2XS[w&511], evenSigns(uint32(w>>9)))
		}
	}
}

// scale2 is the scale of part l of four of 32 elements, of which two have a nibble.
func scale2(d float32, s byte, l int) float32 {
	return float32(d*(0.5+float32(s>>(l/2*4)&15))) * 0.25
}

// IQ2_S: f16 d, the low bytes of 32 indices, 32 bytes of signs, 8 bytes of the
// indices' high bits, 16 4-bit scales.
func decodeIQ2_S(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		high := uint(b[66+u])
		for l := range 4 {
			index := uint(b[2+4*u+l]) | high<<(8-2*l)&0x300
			signed(dst[8*l:8*l+8], scale2(d, b[74+u], l), &grid2S[index], b[34+4*u+l])
		}
	}
}

// IQ3_XXS: f16 d, 64 indices, and for 32 elements a word of four times seven
// signs and a 4-bit scale.
func decodeIQ3_XXS(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		q, w := b[2+8*u:10+8*u], le.Uint32(b[66+4*u:])
		scale := float32(d*(0.5+float32(w>>28))) * 0.5
		for l := range 4 {
			signs := evenSigns(w >> (7 * l))
			signed(dst[8*l:8*l+4], scale, &grid3XXS[q[2*l]], signs)
			signed(dst[8*l+4:8*l+8], scale, &grid3XXS[q[2*l+1]], signs>>4)
		}
	}
}

// IQ3_S: f16 d, the low bytes of 64 indices, 8 bytes of their high bits, 32
// bytes of signs, eight 4-bit scales.
func decodeIQ3_S(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		q, high := b[2+8*u:10+8*u], uint(b[66+u])
		scale := d * float32(1+2*(b[106+u/2]>>(u%2*4)&15))
		for l := range 8 {
			index := uint(q[l]) | high>>l&1<<8
			signed(dst[4*l:4*l+4], scale, &grid3S[index], b[74+4*u+l/2]>>(l%2*4))
		}
	}
}

// delta1 is how far the values of IQ1_S and IQ1_M lie off -1, 0 and 1.
const delta1 = 0.125

// shifted writes scale·(value ± delta1) to y.
func shifted(y []float32, scale float32, g *[8]uint8, minus bool) {
	off := float32(-1 + delta1)
	if minus {
		off = -1 - delta1
	}
	for i := range y {
		y[i] = scale * (float32(g[i&7]) + off)
	}
}

// IQ1_S: f16 d, the low bytes of 32 indices, and for 32 elements a word of the
// four indices' high bits, a 3-bit scale and the side of delta1.
func decodeIQ1_S(dst []float32, b []byte, u int) {
	d := f16at(b)
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		w := uint(le.Uint16(b[34+2*u:]))
		scale := d * float32(2*(w>>12&7)+1)
		for l := range 4 {
			index := uint(b[2+4*u+l]) | w>>(3*l)&7<<8
			shifted(dst[8*l:8*l+8], scale, &grid1S[index], w>>15 != 0)
		}
	}
}

// IQ1_M: the low bytes of 32 indices, 16 bytes of the high bits of two with the
// sides of delta1, four words of four 3-bit scales and a nibble of f16 d.
func decodeIQ1_M(dst []float32, b []byte, u int) {
	d := FromF16(scaleIQ1_M(b))
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		w := le.Uint16(b[48+u/2*2:]) >> (u % 2 * 6)
		for l := range 4 {
			h := uint(b[32+2*u+l/2]) >> (l % 2 * 4)
			scale := d * float32(2*(w>>(l/2*3)&7)+1)
			shifted(dst[8*l:8*l+8], scale, &grid1S[uint(b[4*u+l])|h&7<<8], h&8 != 0)
		}
	}
}

// scaleIQ1_M is the scale of a block of IQ1_M, whose nibbles lie in four words.
func scaleIQ1_M(b []byte) uint16 {
	s := b[48:56]
	return le.Uint16(s)>>12 | le.Uint16(s[2:])>>12<<4 | le.Uint16(s[4:])>>12<<8 | le.Uint16(s[6:])>>12<<12
}
