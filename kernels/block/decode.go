package block

import (
	"encoding/binary"
	"fmt"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Decode writes n elements of m from (row, col) into dst[:n]. col is a multiple
// of Info.Unit of the type, and so is n unless it ends at the row's end. It may
// be called from many goroutines and allocates nothing. A place outside m
// panics; any bytes decode to something.
func Decode(dst []float32, m Raw, row, col, n int) {
	if row < 0 || row >= m.Rows || col < 0 || n < 0 || col+n > m.Cols {
		panic(fmt.Sprintf("block: Decode of row %d, columns %d+%d of a %d×%d matrix", row, col, n, m.Rows, m.Cols))
	}
	if n == 0 {
		return
	}
	dst = dst[:n]
	switch t := m.Type; {
	case t.Flat():
		decodeBook(dst, m, row*m.Cols+col)
		return
	case t.Grouped():
		decodeGroups(dst, m, row, col)
		return
	}
	switch m.Type.Kind {
	case dtype.F32:
		GetF32(dst, m.Data[4*(row*m.Cols+col):])
	case dtype.F16:
		GetF16(dst, m.Data[2*(row*m.Cols+col):])
	case dtype.BF16:
		GetBF16(dst, m.Data[2*(row*m.Cols+col):])
	case dtype.F8E4M3:
		GetE4M3(dst, m.Data[row*m.Cols+col:])
	case dtype.F8E5M2:
		GetE5M2(dst, m.Data[row*m.Cols+col:])
	default:
		decodeUnits(dst, m, row, col)
	}
}

// unitDecoder writes the units u, u+1, … of one block until dst is full.
type unitDecoder func(dst []float32, b []byte, u int)

var unitDecoders = [...]unitDecoder{
	dtype.Q4_0:    decodeQ4_0,
	dtype.Q4_1:    decodeQ4_1,
	dtype.Q5_0:    decodeQ5_0,
	dtype.Q5_1:    decodeQ5_1,
	dtype.Q8_0:    decodeQ8_0,
	dtype.Q2_K:    decodeQ2_K,
	dtype.Q3_K:    decodeQ3_K,
	dtype.Q4_K:    decodeQ4_K,
	dtype.Q5_K:    decodeQ5_K,
	dtype.Q6_K:    decodeQ6_K,
	dtype.IQ4_NL:  decodeIQ4_NL,
	dtype.IQ4_XS:  decodeIQ4_XS,
	dtype.IQ3_S:   decodeIQ3_S,
	dtype.IQ3_XXS: decodeIQ3_XXS,
	dtype.IQ2_S:   decodeIQ2_S,
	dtype.IQ2_XS:  decodeIQ2_XS,
	dtype.IQ2_XXS: decodeIQ2_XXS,
	dtype.IQ1_M:   decodeIQ1_M,
	dtype.IQ1_S:   decodeIQ1_S,
	dtype.TQ2_0:   decodeTQ2_0,
	dtype.TQ1_0:   decodeTQ1_0,
	dtype.Q2_0:    decodeQ2_0,
	dtype.Q1_0:    decodeQ1_0,
	dtype.MXFP4:   decodeMXFP4,
	dtype.NVFP4:   decodeNVFP4,
}

func decodeUnits(dst []float32, m Raw, row, col int) {
	k := m.Type.Kind
	if int(k) >= len(unitDecoders) || unitDecoders[k] == nil {
		panic(fmt.Sprintf("block: %v cannot be decoded", m.Type))
	}
	in, f := k.Info(), unitDecoders[k]
	if col%in.Unit != 0 || len(dst)%in.Unit != 0 {
		panic(fmt.Sprintf("block: Decode of %v: columns %d+%d are no multiples of %d", m.Type, col, len(dst), in.Unit))
	}
	b := m.Data[(row*(m.Cols/in.Block)+col/in.Block)*in.Bytes:]
	for u := col % in.Block / in.Unit; len(dst) > 0; u = 0 {
		n := min(len(dst), in.Block-u*in.Unit)
		f(dst[:n], b[:in.Bytes], u)
		dst, b = dst[n:], b[in.Bytes:]
	}
}

func decodeQ4_0(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[2:])
	d := f16at(b)
	for i, v := range q {
		y[i] = d * float32(int(v&15)-8)
		y[i+16] = d * float32(int(v>>4)-8)
	}
}

func decodeQ4_1(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[4:])
	d, m := f16at(b), f16at(b[2:])
	for i, v := range q {
		y[i] = float32(d*float32(v&15)) + m
		y[i+16] = float32(d*float32(v>>4)) + m
	}
}

func decodeQ5_0(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[6:])
	d, h := f16at(b), binary.LittleEndian.Uint32(b[2:])
	for i, v := range q {
		y[i] = d * float32(int(uint32(v&15)|h<<4&16)-16)
		y[i+16] = d * float32(int(uint32(v>>4)|h>>12&16)-16)
		h >>= 1
	}
}

func decodeQ5_1(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[8:])
	d, m, h := f16at(b), f16at(b[2:]), binary.LittleEndian.Uint32(b[4:])
	for i, v := range q {
		y[i] = float32(d*float32(uint32(v&15)|h<<4&16)) + m
		y[i+16] = float32(d*float32(uint32(v>>4)|h>>12&16)) + m
		h >>= 1
	}
}

func decodeQ8_0(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[32]byte)(b[2:])
	d := f16at(b)
	for i, v := range q {
		y[i] = d * float32(int8(v))
	}
}

// Q2_K: 16 scale bytes (scale low, minimum high nibble), 64 bytes of 2-bit
// codes, f16 d, f16 dmin. A unit is 16 elements.
func decodeQ2_K(dst []float32, b []byte, u int) {
	d, dmin := f16at(b[80:]), f16at(b[82:])
	for ; len(dst) > 0; dst, u = dst[16:], u+1 {
		y := (*[16]float32)(dst)
		q := (*[16]byte)(b[16+u/8*32+u%2*16:])
		dl, ml := d*float32(b[u]&15), float32(dmin*float32(b[u]>>4))
		shift := u % 8 / 2 * 2
		for i, v := range q {
			y[i] = float32(dl*float32(v>>shift&3)) - ml
		}
	}
}

// Q3_K: 32 bytes of high bits, 64 of 2-bit codes, 12 of 6-bit scales, f16 d.
func decodeQ3_K(dst []float32, b []byte, u int) {
	d := f16at(b[108:])
	for ; len(dst) > 0; dst, u = dst[16:], u+1 {
		y := (*[16]float32)(dst)
		h := (*[16]byte)(b[u%2*16:])
		q := (*[16]byte)(b[32+u/8*32+u%2*16:])
		dl := d * float32(scaleQ3(b[96:108], u))
		shift, hs := u%8/2*2, u/2
		for i, v := range q {
			y[i] = dl * float32(int(v>>shift&3)+int(h[i]>>hs&1)*4-4)
		}
	}
}

// scaleQ3 is the 6-bit scale j of 16, less 32.
func scaleQ3(s []byte, j int) int {
	lo := s[j%8] >> (j / 8 * 4) & 15
	return int(lo|s[8+j%4]>>(j/4*2)&3<<4) - 32
}

// scaleMinK4 is the 6-bit scale and minimum j of 8 of Q4_K and Q5_K.
func scaleMinK4(s []byte, j int) (sc, m uint8) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

// Q4_K: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 of codes. A
// unit is 32 elements.
func decodeQ4_K(dst []float32, b []byte, u int) {
	d, dmin := f16at(b), f16at(b[2:])
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		y, q := (*[32]float32)(dst), (*[32]byte)(b[16+u/2*32:])
		sc, m := scaleMinK4(b[4:16], u)
		dl, ml := d*float32(sc), float32(dmin*float32(m))
		shift := u % 2 * 4
		for i, v := range q {
			y[i] = float32(dl*float32(v>>shift&15)) - ml
		}
	}
}

// Q5_K: as Q4_K with 32 bytes of high bits before the codes.
func decodeQ5_K(dst []float32, b []byte, u int) {
	d, dmin := f16at(b), f16at(b[2:])
	h := (*[32]byte)(b[16:])
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		y, q := (*[32]float32)(dst), (*[32]byte)(b[48+u/2*32:])
		sc, m := scaleMinK4(b[4:16], u)
		dl, ml := d*float32(sc), float32(dmin*float32(m))
		shift := u % 2 * 4
		for i, v := range q {
			y[i] = float32(dl*float32(v>>shift&15|h[i]>>u&1<<4)) - ml
		}
	}
}

// Q6_K: 128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, f16 d. A
// unit is 16 elements.
func decodeQ6_K(dst []float32, b []byte, u int) {
	d := f16at(b[208:])
	for ; len(dst) > 0; dst, u = dst[16:], u+1 {
		y := (*[16]float32)(dst)
		half, quarter, side := u/8, u%8/2, u%2*16
		l := (*[16]byte)(b[half*64+quarter%2*32+side:])
		h := (*[16]byte)(b[128+half*32+side:])
		dl := d * float32(int8(b[192+u]))
		ls, hs := quarter/2*4, quarter*2
		for i, v := range l {
			y[i] = dl * float32(int(v>>ls&15|h[i]>>hs&3<<4)-32)
		}
	}
}

// iq4Values is the codebook of IQ4_NL and IQ4_XS.
var iq4Values = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func decodeIQ4_NL(dst []float32, b []byte, _ int) {
	y, q := (*[32]float32)(dst), (*[16]byte)(b[2:])
	d := f16at(b)
	for i, v := range q {
		y[i] = d * iq4Values[v&15]
		y[i+16] = d * iq4Values[v>>4]
	}
}

// IQ4_XS: f16 d, uint16 of high scale pairs, 4 bytes of low scale nibbles, 128
// of codes. A unit is 32 elements.
func decodeIQ4_XS(dst []float32, b []byte, u int) {
	d, hi := f16at(b), binary.LittleEndian.Uint16(b[2:])
	for ; len(dst) > 0; dst, u = dst[32:], u+1 {
		y, q := (*[32]float32)(dst), (*[16]byte)(b[8+16*u:])
		ls := int(b[4+u/2]>>(u%2*4)&15) | int(hi>>(2*u)&3)<<4
		dl := d * float32(ls-32)
		for i, v := range q {
			y[i] = dl * iq4Values[v&15]
			y[i+16] = dl * iq4Values[v>>4]
		}
	}
}
