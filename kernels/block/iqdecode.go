package block

import (
	"math/bits"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Decoders of the types that store points of a lattice: 256 elements a block, a
// unit of 32. They, and others of few bits, look up the numbers of eights of
// elements, their signs and scales, and multiply them all at once.

// eights are up to 256 decoded elements before they are multiplied.
type eights struct {
	values [256]uint8 // signed
	signs  [32]uint8
	scales [32]float32
}

// set sets eight i: its values, the signs that turn them and their scale.
func (r *eights) set(i int, values *[8]uint8, signs uint8, scale float32) {
	*(*[8]uint8)(r.values[8*i:]) = *values
	r.signs[i], r.scales[i] = signs, scale
}

// expand writes scale·value, with its sign turned where a bit of signs is set.
func (r *eights) expand(dst []float32) {
	if r.expandLanes(dst) {
		return
	}
	for i := range len(dst) / 8 {
		y, v := (*[8]float32)(dst[8*i:]), (*[8]uint8)(r.values[8*i:])
		turned := [2]float32{r.scales[i], -r.scales[i]}
		for j, b := range v {
			y[j] = turned[r.signs[i]>>j&1] * float32(int8(b))
		}
	}
}

// Magnitudes that coordinates of points stand for, in units of a scale.
var (
	levels2   = [8]uint8{8, 25, 43}
	levels3XX = [8]uint8{4, 12, 20, 28, 36, 44, 52, 62}
	levels3S  = [8]uint8{1, 3, 5, 7, 9, 11, 13, 15}
)

// The points by their index, with the levels in place of coordinates.
var (
	grid2XXS = lattice2XXS.grid(&levels2)
	grid2XS  = lattice2XS.grid(&levels2)
	grid2S   = lattice2S.grid(&levels2)
	grid3XXS = lattice3XXS.grid(&levels3XX)
	grid3S   = lattice3S.grid(&levels3S)
	grid1S   = shiftedGrid()
)

// Points are the points that codes of a type index, their coordinates packed: of
// IQ3_XXS and IQ3_S four of three bits, of the others eight of two, the first in the
// lowest bits. nil: the type has none. They are not the caller's to change.
func Points(k dtype.Kind) []uint16 {
	switch k {
	case dtype.IQ2_XXS:
		return lattice2XXS.points
	case dtype.IQ2_XS:
		return lattice2XS.points
	case dtype.IQ2_S:
		return lattice2S.points
	case dtype.IQ3_XXS:
		return lattice3XXS.points
	case dtype.IQ3_S:
		return lattice3S.points
	case dtype.IQ1_S, dtype.IQ1_M:
		return lattice1S.points
	}
	return nil
}

// Grid are the values that codes of a type index, in units of a scale, signed bytes: of
// IQ3_XXS and IQ3_S magnitudes in the first four of eight; of IQ2_XXS, IQ2_XS and IQ2_S
// eight magnitudes; of IQ1_S and IQ1_M the values of all points in eighths above -1, 0
// and 1, then of all points below. nil: the type has none. They are not the caller's to
// change.
func Grid(k dtype.Kind) [][8]uint8 {
	switch k {
	case dtype.IQ2_XXS:
		return grid2XXS
	case dtype.IQ2_XS:
		return grid2XS
	case dtype.IQ2_S:
		return grid2S
	case dtype.IQ3_XXS:
		return grid3XXS
	case dtype.IQ3_S:
		return grid3S
	case dtype.IQ1_S, dtype.IQ1_M:
		return grid1S
	}
	return nil
}

func (g *lattice) grid(levels *[8]uint8) [][8]uint8 {
	out := make([][8]uint8, len(g.points))
	for j, p := range g.points {
		for i := range g.dims {
			out[j][i] = levels[g.coordinate(int(p), i)]
		}
	}
	return out
}

// delta1 is how far the values of IQ1_S and IQ1_M lie off -1, 0 and 1.
const delta1 = 0.125

// downGrid is the place in grid1S of the points whose values lie below.
const downGrid = 2048

// shiftedGrid are the values of IQ1_S and IQ1_M in eighths: of all points above
// -1, 0 and 1, then of all points below.
func shiftedGrid() [][8]uint8 {
	up, down := [8]uint8{256 - 7, 1, 9}, [8]uint8{256 - 9, 255, 7}
	return append(lattice1S.grid(&up), lattice1S.grid(&down)...)
}

// evenSigns are eight signs of which an even number is set, by the first seven.
func evenSigns(seven uint32) uint8 {
	s := uint8(seven & 127)
	return s | uint8(bits.OnesCount8(s)&1)<<7
}

// IQ2_XXS: f16 d, and for 32 elements four indices and a word of four times
// seven signs and a 4-bit scale.
func decodeIQ2_XXS(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		q := b[2+8*(u+k):][:8]
		w := le.Uint32(q[4:])
		scale := float32(d*(0.5+float32(w>>28))) * 0.25
		for l := range 4 {
			r.set(4*k+l, &grid2XXS[q[l]], evenSigns(w>>(7*l)), scale)
		}
	}
	r.expand(dst)
}

// IQ2_XS: f16 d, 32 words of a 9-bit index and seven signs, 16 4-bit scales.
func decodeIQ2_XS(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		q, s := b[2+8*(u+k):][:8], b[66+u+k]
		for l := range 4 {
			w := le.Uint16(q[2*l:])
			r.set(4*k+l, &grid2XS[w&511], evenSigns(uint32(w>>9)), scale2(d, s, l))
		}
	}
	r.expand(dst)
}

// scale2 is the scale of part l of four of 32 elements, of which two have a nibble.
func scale2(d float32, s byte, l int) float32 {
	return float32(d*(0.5+float32(s>>(l/2*4)&15))) * 0.25
}

// IQ2_S: f16 d, the low bytes of 32 indices, 32 bytes of signs, 8 bytes of the
// indices' high bits, 16 4-bit scales.
func decodeIQ2_S(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		at := u + k
		q, signs, high, s := b[2+4*at:][:4], b[34+4*at:][:4], uint(b[66+at]), b[74+at]
		for l := range 4 {
			r.set(4*k+l, &grid2S[uint(q[l])|high<<(8-2*l)&0x300], signs[l], scale2(d, s, l))
		}
	}
	r.expand(dst)
}

// set4 sets half h of eight i.
func (r *eights) set4(i, h int, values *[8]uint8) {
	*(*[4]uint8)(r.values[8*i+4*h:]) = [4]uint8(values[:4])
}

// IQ3_XXS: f16 d, 64 indices, and for 32 elements a word of four times seven
// signs and a 4-bit scale.
func decodeIQ3_XXS(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		q, w := b[2+8*(u+k):][:8], le.Uint32(b[66+4*(u+k):])
		scale := float32(d*(0.5+float32(w>>28))) * 0.5
		for l := range 4 {
			i := 4*k + l
			r.set4(i, 0, &grid3XXS[q[2*l]])
			r.set4(i, 1, &grid3XXS[q[2*l+1]])
			r.signs[i], r.scales[i] = evenSigns(w>>(7*l)), scale
		}
	}
	r.expand(dst)
}

// IQ3_S: f16 d, the low bytes of 64 indices, 8 bytes of their high bits, 32
// bytes of signs, eight 4-bit scales.
func decodeIQ3_S(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		at := u + k
		q, high, signs := b[2+8*at:][:8], uint(b[66+at]), b[74+4*at:][:4]
		scale := d * float32(1+2*(b[106+at/2]>>(at%2*4)&15))
		for l := range 4 {
			i := 4*k + l
			r.set4(i, 0, &grid3S[uint(q[2*l])|high>>(2*l)&1<<8])
			r.set4(i, 1, &grid3S[uint(q[2*l+1])|high>>(2*l+1)&1<<8])
			r.signs[i], r.scales[i] = signs[l], scale
		}
	}
	r.expand(dst)
}

// IQ1_S: f16 d, the low bytes of 32 indices, and for 32 elements a word of the
// four indices' high bits, a 3-bit scale and the side of delta1.
func decodeIQ1_S(dst []float32, b []byte, u int) {
	var r eights
	d := f16at(b)
	for k := range len(dst) / 32 {
		q, w := b[2+4*(u+k):][:4], uint(le.Uint16(b[34+2*(u+k):]))
		scale := d * float32(2*(w>>12&7)+1) * 0.125
		for l := range 4 {
			r.set(4*k+l, &grid1S[uint(q[l])|w>>(3*l)&7<<8|w>>15*downGrid], 0, scale)
		}
	}
	r.expand(dst)
}

// IQ1_M: the low bytes of 32 indices, 16 bytes of the high bits of two with the
// sides of delta1, four words of four 3-bit scales and a nibble of f16 d.
func decodeIQ1_M(dst []float32, b []byte, u int) {
	var r eights
	d := FromF16(scaleIQ1_M(b))
	for k := range len(dst) / 32 {
		at := u + k
		q, high := b[4*at:][:4], b[32+2*at:][:2]
		w := le.Uint16(b[48+at/2*2:]) >> (at % 2 * 6)
		for l := range 4 {
			h := uint(high[l/2]) >> (l % 2 * 4)
			scale := d * float32(2*(w>>(l/2*3)&7)+1) * 0.125
			r.set(4*k+l, &grid1S[uint(q[l])|h&7<<8|h>>3&1*downGrid], 0, scale)
		}
	}
	r.expand(dst)
}

// scaleIQ1_M is the scale of a block of IQ1_M, whose nibbles lie in four words.
func scaleIQ1_M(b []byte) uint16 {
	s := b[48:56]
	return le.Uint16(s)>>12 | le.Uint16(s[2:])>>12<<4 | le.Uint16(s[4:])>>12<<8 | le.Uint16(s[6:])>>12<<12
}
