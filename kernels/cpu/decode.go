package cpu

import (
	"encoding/binary"
	"math"

	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Decoding goes by units of 32 elements. Whatever the type, a value is
// float32((base(code) - z)·s) + t with s, z, t of the unit's group, so that a
// few inner loops serve all types; package block is the specification, which
// they equal in every bit but the sign of a zero.

// unitSize is the number of elements of a unit.
const unitSize = 32

// unitParams is how many floats describe a unit: s, z, t and one unused.
const unitParams = 4

// maxUnits is the number of units decoded at a time.
const maxUnits = 16

// unitOrder is how the codes of a unit lie.
type unitOrder uint8

const (
	nibblesSplit unitOrder = iota // 16 low nibbles, then 16 high ones
	nibblesLow                    // bytes in order, low nibble first
	nibblesHigh                   // bytes in order, high nibble first
	bytesSigned
	bytesUnsigned
)

// unitScale is where the s, z, t of a unit come from.
type unitScale uint8

const (
	scaleD      unitScale = iota // f16 in front of the codes
	scaleDM                      // and an f16 minimum after it
	scaleAbsmax                  // f32 a block of flat elements
	scaleNested                  // the same, quantized
	scaleGroup                   // of an integer group
)

// paramRoom holds s, z, t of some units. The inner loops are called by a switch
// and not by a function value, so that it stays on the stack.
type paramRoom = [maxUnits * unitParams]float32

// unitType is how a storage type is read by units.
type unitType struct {
	raw   *blocks.Raw
	order unitOrder
	scale unitScale
	base  [16]float32
	row   int // bytes of codes from one row to the next
	unit  int // bytes of codes from one unit of a row to the next
	codes int // where codes begin in the data, or in a block
	plane [dtype.NumPlanes]dtype.Plane
}

// Bases of 4-bit codes.
var (
	baseCode   = [16]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	baseIQ4    = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	baseMinus8 = [16]float32{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}
)

// unitsOf returns how raw is read by units, or nil when it is not.
func unitsOf(raw *blocks.Raw) *unitType {
	t := raw.Type
	if raw.Cols%unitSize != 0 || !haveUnits() {
		return nil
	}
	u := &unitType{raw: raw, plane: dtype.Planes(t, raw.Rows, raw.Cols), unit: 16, row: raw.Cols / 2}
	switch t.Kind {
	case dtype.Q4_0:
		u.ggml(18, 2, nibblesSplit, baseMinus8, scaleD)
	case dtype.Q4_1:
		u.ggml(20, 4, nibblesSplit, baseCode, scaleDM)
	case dtype.Q8_0:
		u.ggml(34, 2, bytesSigned, baseCode, scaleD)
	case dtype.IQ4_NL:
		u.ggml(18, 2, nibblesSplit, baseIQ4, scaleD)
	case dtype.NF4, dtype.FP4:
		if t.Group%unitSize != 0 {
			return nil
		}
		u.order, u.base, u.scale = nibblesHigh, blocks.CodeMap4(t.Kind), scaleAbsmax
		if t.Flags&dtype.Nested != 0 {
			u.scale = scaleNested
		}
	case dtype.Int4, dtype.Int8:
		if t.Flags&dtype.Perm != 0 || t.Group > 0 && t.Group%unitSize != 0 {
			return nil
		}
		u.order, u.base, u.scale = nibblesLow, baseCode, scaleGroup
		if t.Kind == dtype.Int8 {
			u.order, u.unit, u.row = bytesUnsigned, unitSize, raw.Cols
		}
	default:
		return nil
	}
	return u
}

// ggml describes blocks of 32 elements with their scale in front.
func (u *unitType) ggml(size, codes int, o unitOrder, base [16]float32, s unitScale) {
	u.unit, u.row, u.codes = size, size*(u.raw.Cols/unitSize), codes
	u.order, u.base, u.scale = o, base, s
}

// at is the offset of the codes of a unit.
func (u *unitType) at(row, col int) int { return row*u.row + col/unitSize*u.unit + u.codes }

// rowOf decodes n elements of a row; col and n are multiples of unitSize.
func (u *unitType) rowOf(dst []float32, row, col, n int) {
	var p paramRoom
	for i := 0; i < n; i += maxUnits * unitSize {
		units := min(n-i, maxUnits*unitSize) / unitSize
		for j := range units {
			u.params(p[j*unitParams:][:unitParams], row, col+i+j*unitSize)
		}
		u.decode(units, u.at(row, col+i), u.unit, &p, dst[i:], unitSize)
	}
}

// strip decodes one unit of each of n rows to rows of dst ldd apart.
func (u *unitType) strip(dst []float32, ldd, row, n, col int) {
	var p paramRoom
	for i := 0; i < n; i += maxUnits {
		units := min(n-i, maxUnits)
		for j := range units {
			u.params(p[j*unitParams:][:unitParams], row+i+j, col)
		}
		u.decode(units, u.at(row+i, col), u.row, &p, dst[i*ldd:], ldd)
	}
}

// params writes s, z and t of the unit at (row, col).
func (u *unitType) params(p []float32, row, col int) {
	d := u.raw.Data
	p[1], p[2] = 0, 0
	switch u.scale {
	case scaleD:
		p[0] = f16At(d[u.at(row, col)-u.codes:])
	case scaleDM:
		b := d[u.at(row, col)-u.codes:]
		p[0], p[2] = f16At(b), f16At(b[2:])
	case scaleAbsmax:
		p[0] = f32At(d[u.plane[dtype.Scales].Off+4*u.block(row, col):])
	case scaleNested:
		p[0] = u.nested(u.block(row, col))
	case scaleGroup:
		p[0], p[1] = u.group(row, col)
	}
}

func (u *unitType) block(row, col int) int { return (row*u.raw.Cols + col) / int(u.raw.Type.Group) }

// nested is the scale of block b of a type whose scales are quantized.
func (u *unitType) nested(b int) float32 {
	scales := u.plane[dtype.Scales]
	n := u.raw.Data[u.plane[dtype.NestedScales].Off:]
	offset := 4 * ceilDiv(scales.Len, 256)
	code := int(u.raw.Data[scales.Off+b])
	return float32(f32At(n[offset+4+4*code:])*f32At(n[b/256*4:])) + f32At(n[offset:])
}

// group is the scale and the zero of an integer type.
func (u *unitType) group(row, col int) (s, z float32) {
	t := u.raw.Type
	at := row * t.Groups(u.raw.Cols)
	if t.Group > 0 {
		at += col / int(t.Group)
	}
	scales := u.raw.Data[u.plane[dtype.Scales].Off:]
	switch t.Scale {
	case dtype.F16:
		s = f16At(scales[2*at:])
	case dtype.BF16:
		s = blocks.FromBF16(binary.LittleEndian.Uint16(scales[2*at:]))
	default:
		s = f32At(scales[4*at:])
	}
	if t.Flags&dtype.Zero != 0 {
		return s, float32(u.raw.Data[u.plane[dtype.Zeros].Off+at])
	}
	return s, float32(int(1) << (t.Bits() - 1))
}

func f16At(b []byte) float32 { return blocks.FromF16(binary.LittleEndian.Uint16(b)) }
func f32At(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
