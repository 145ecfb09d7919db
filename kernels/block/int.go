package block

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// ScaleAt reads scale i of a plane of scales of kind k: F16, BF16, F8E4M3, F8E8M0 or F32.
func ScaleAt(p []byte, k dtype.Kind, i int) float32 {
	switch k {
	case dtype.F16:
		return FromF16(binary.LittleEndian.Uint16(p[2*i:]))
	case dtype.BF16:
		return FromBF16(binary.LittleEndian.Uint16(p[2*i:]))
	case dtype.F8E4M3:
		return FromE4M3(p[i])
	case dtype.F8E8M0:
		return FromE8M0(p[i])
	case dtype.F32:
		return f32at(p[4*i:])
	}
	panic(fmt.Sprintf("block: scales of %v", k))
}

// putScale rounds v to kind k, stores it as scale i and returns what was stored.
func putScale(p []byte, k dtype.Kind, i int, v float32) float32 {
	switch k {
	case dtype.F16:
		putF16(p[2*i:], v)
	case dtype.BF16:
		binary.LittleEndian.PutUint16(p[2*i:], BF16(v))
	case dtype.F8E4M3:
		p[i] = E4M3(v)
	case dtype.F8E8M0:
		p[i] = E8M0(v)
	default:
		putF32(p[4*i:], v)
	}
	return ScaleAt(p, k, i)
}

// decodeInt: value = (code - zero) · scale of the column's group.
func decodeInt(dst []float32, m Raw, row, col int) {
	t := m.Type
	p := dtype.Planes(t, m.Rows, m.Cols)
	bits, groups := t.Bits(), t.Groups(m.Cols)
	stride := (m.Cols*bits + 7) / 8
	codes := m.Data[p[dtype.Codes].Off+row*stride:][:stride]
	unpackCodes(dst, codes, bits, col)
	scales := m.Data[p[dtype.Scales].Off:]
	zeros := m.Data[p[dtype.Zeros].Off:][:p[dtype.Zeros].Len]
	zero := float32(int(1) << (bits - 1))
	if t.Flags&dtype.Perm != 0 {
		decodePerm(dst, m, row*groups, scales, zeros, zero, m.Data[p[dtype.PermIndex].Off+4*col:])
		return
	}
	size := int(t.Group)
	if size <= 0 {
		size = m.Cols
	}
	for len(dst) > 0 {
		g := col / size
		n := min(len(dst), (g+1)*size-col)
		if len(zeros) > 0 {
			zero = float32(zeros[row*groups+g])
		}
		s := ScaleAt(scales, t.Scale, row*groups+g)
		part := dst[:n]
		for i, c := range part {
			part[i] = (c - zero) * s
		}
		dst, col = dst[n:], col+n
	}
}

func decodePerm(dst []float32, m Raw, base int, scales, zeros []byte, zero float32, index []byte) {
	groups := m.Type.Groups(m.Cols)
	last, s := -1, float32(0)
	for i := range dst {
		g := int(int32(binary.LittleEndian.Uint32(index[4*i:])))
		if uint(g) >= uint(groups) {
			g = 0 // Check refuses such a matrix; never read outside it
		}
		if g != last {
			last, s = g, ScaleAt(scales, m.Type.Scale, base+g)
			if len(zeros) > 0 {
				zero = float32(zeros[base+g])
			}
		}
		dst[i] = (dst[i] - zero) * s
	}
}

// unpackCodes writes the codes of the columns col, col+1, … of one row as floats.
func unpackCodes(dst []float32, row []byte, bits, col int) {
	switch bits {
	case 2:
		for i := range dst {
			c := col + i
			dst[i] = float32(row[c>>2] >> (c & 3 * 2) & 3)
		}
	case 3, 5, 6:
		for i := range dst {
			dst[i] = float32(straddling(row, bits, col+i))
		}
	case 4:
		unpack4(dst, row, col)
	default:
		for i, v := range row[col : col+len(dst)] {
			dst[i] = float32(v)
		}
	}
}

func unpack4(dst []float32, row []byte, col int) {
	if col&1 != 0 && len(dst) > 0 {
		dst[0] = float32(row[col>>1] >> 4)
		dst, col = dst[1:], col+1
	}
	q := row[col>>1:]
	for len(dst) >= 2 {
		y := (*[2]float32)(dst)
		y[0], y[1] = float32(q[0]&15), float32(q[0]>>4)
		dst, q = dst[2:], q[1:]
	}
	if len(dst) > 0 {
		dst[0] = float32(q[0] & 15)
	}
}

// straddling reads code i of a row packed as one stream of bits, where a code may
// lie in two bytes.
func straddling(row []byte, bits, i int) uint8 {
	b := i * bits
	v := uint16(row[b>>3])
	if b&7+bits > 8 {
		v |= uint16(row[b>>3+1]) << 8
	}
	return uint8(v>>(b&7)) & uint8(1<<bits-1)
}

// putCode sets the code of column c in a row whose bits there are zero.
func putCode(row []byte, bits, c int, v uint8) {
	b := c * bits
	row[b>>3] |= v << (b & 7)
	if over := b&7 + bits - 8; over > 0 {
		row[b>>3+1] |= v >> (bits - over)
	}
}

// codeAt reads the code of column c.
func codeAt(row []byte, bits, c int) uint8 {
	if 8%bits != 0 {
		return straddling(row, bits, c)
	}
	b := c * bits
	return row[b>>3] >> (b & 7) & uint8(1<<bits-1)
}

// IntGrid is the scale and the zero point of a group whose values lie between
// lo and hi, taken to include 0. Asymmetric: scale = (hi-lo)/(2^b-1), zero =
// round(-lo/scale). Symmetric: scale = 2·max(hi,-lo)/(2^b-1), zero = 2^(b-1). The
// scale is rounded to its stored type first, and never to 0.
func IntGrid(t dtype.Type, lo, hi float32) (scale, zero float32) {
	lo, hi = min(lo, 0), max(hi, 0)
	top := float32(int(1)<<t.Bits() - 1)
	if t.Flags&dtype.Zero == 0 {
		hi = max(hi, -lo)
		lo = -hi
	}
	if lo == 0 && hi == 0 {
		lo, hi = -1, 1
	}
	scale = RoundScale(t.Scale, (hi-lo)/top)
	if scale == 0 {
		scale = smallest(t.Scale)
	}
	if t.Flags&dtype.Zero == 0 {
		return scale, (top + 1) / 2
	}
	return scale, min(max(roundEven(-lo/scale), 0), top)
}

// notAbove is a symmetric scale of 16 bits that is not rounded up. The largest
// magnitude of a group lies half way between two codes. Rounded to nearest, a
// negative one then always takes the outer code, as it does with scales of 32
// bits; a positive one has only the inner. (Perplexity of SmolLM2-135M in groups
// of 64: 19.97, against 20.77 where chance decides.)
func notAbove(t dtype.Type, scale, lo, hi float32) float32 {
	top := float32(int(1)<<t.Bits() - 1)
	exact := 2 * max(hi, -lo) / top
	if t.Flags&dtype.Zero != 0 || scale <= exact || exact == 0 {
		return scale
	}
	less := float32(1)
	switch t.Scale {
	case dtype.F16:
		less -= 0x1p-11
	case dtype.BF16:
		less -= 0x1p-8
	}
	if s := RoundScale(t.Scale, exact*less); s > 0 {
		return s
	}
	return scale
}

// smallest is a scale for values that are as good as 0.
func smallest(k dtype.Kind) float32 {
	switch k {
	case dtype.F16:
		return 0x1p-24
	case dtype.F8E4M3:
		return 0x1p-9
	}
	return 0x1p-126
}

// encodeIntRow rounds one row to nearest on the grid of each group; halves go to
// even, as in GPTQ's and llm-compressor's round-to-nearest.
func encodeIntRow(m Raw, p *[dtype.NumPlanes]dtype.Plane, row int, x []float32) {
	t := m.Type
	bits, groups := t.Bits(), t.Groups(m.Cols)
	stride := (m.Cols*bits + 7) / 8
	codes := m.Data[p[dtype.Codes].Off+row*stride:][:stride]
	clear(codes)
	lo, hi := make([]float32, groups), make([]float32, groups)
	group := groupOf(m, p)
	for c, v := range x {
		g := group(c)
		lo[g], hi[g] = min(lo[g], v), max(hi[g], v)
	}
	top := float32(int(1)<<bits - 1)
	scale, zero := hi, lo
	for g := range groups {
		low, high := lo[g], hi[g]
		scale[g], zero[g] = IntGrid(t, low, high)
		scale[g] = notAbove(t, scale[g], low, high)
		putScale(m.Data[p[dtype.Scales].Off:], t.Scale, row*groups+g, scale[g])
		if t.Flags&dtype.Zero != 0 {
			m.Data[p[dtype.Zeros].Off+row*groups+g] = uint8(zero[g])
		}
	}
	for c, v := range x {
		g := group(c)
		q := min(max(roundEven(v/scale[g])+zero[g], 0), top)
		putCode(codes, bits, c, uint8(q))
	}
}

func groupOf(m Raw, p *[dtype.NumPlanes]dtype.Plane) func(c int) int {
	if m.Type.Flags&dtype.Perm != 0 {
		index := m.Data[p[dtype.PermIndex].Off:]
		return func(c int) int { return int(int32(binary.LittleEndian.Uint32(index[4*c:]))) }
	}
	size := int(m.Type.Group)
	if size <= 0 {
		size = max(m.Cols, 1)
	}
	return func(c int) int { return c / size }
}

func roundEven(v float32) float32 { return float32(math.RoundToEven(float64(v))) }

// SetInt stores one row of an Int matrix: codes [Cols], and the scale and zero
// point of each group. scales must be what Scale reads back, since they are
// rounded to the stored type; zeros are ignored without dtype.Zero. Rows may be
// set in parallel.
func SetInt(m Raw, row int, codes []uint8, scales, zeros []float32) {
	t := m.Type
	groups, bits := t.Groups(m.Cols), t.Bits()
	if bits == 0 || len(codes) != m.Cols || len(scales) != groups || len(zeros) != groups {
		panic(fmt.Sprintf("block: SetInt: %d codes, %d scales, %d zeros for %v with %d columns", len(codes), len(scales), len(zeros), t, m.Cols))
	}
	p := dtype.Planes(t, m.Rows, m.Cols)
	stride := (m.Cols*bits + 7) / 8
	out := m.Data[p[dtype.Codes].Off+row*stride:][:stride]
	clear(out)
	for c, v := range codes {
		putCode(out, bits, c, v)
	}
	for g := range groups {
		putScale(m.Data[p[dtype.Scales].Off:], t.Scale, row*groups+g, scales[g])
		if t.Flags&dtype.Zero != 0 {
			m.Data[p[dtype.Zeros].Off+row*groups+g] = uint8(zeros[g])
		}
	}
}

// RoundScale is v as a plane of scales of kind k (see dtype.Type.Scale) gives it back.
func RoundScale(k dtype.Kind, v float32) float32 {
	var b [4]byte
	return putScale(b[:], k, 0, v)
}
