package cpu

import (
	"encoding/binary"
	"math"
	"math/bits"

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

// unitLoop names an inner loop.
type unitLoop uint8

const (
	loopQ40 unitLoop = iota // scale, 16 low nibbles, then 16 high ones; any codebook
	loopQ41                 // scale, minimum, the same
	loopQ80                 // scale, 32 signed bytes
	loopQ50                 // scale, 32 high bits, as loopQ40 without a codebook
	loopQ51                 // scale, minimum, the same
	loopK4                  // blocks of 256: see decode_blocks.go, and decode_k.go for AVX2
	loopK5
	loopK6
	loopK2
	loopK3
	loopXS
	loopLow   // bytes in order, low nibble first
	loopHigh  // bytes in order, high nibble first
	loopBytes // 32 unsigned bytes
	loopE4M3  // 32 float8
	loopE2M1  // bytes in order, low nibble first; the second half may have another scale
)

// bytesOfUnit is how many bytes a loop reads for a unit.
var bytesOfUnit = [...]int{loopQ40: 18, loopQ41: 20, loopQ80: 34, loopQ50: 22, loopQ51: 24, loopK4: 144, loopK5: 176, loopK6: 210, loopK2: 84, loopK3: 110, loopXS: 136, loopLow: 16, loopHigh: 16, loopBytes: 32, loopE4M3: 32, loopE2M1: 16}

// paramRoom holds s, z, t of some units. The inner loops are called by a switch
// and not by a function value, so that it stays on the stack.
type paramRoom = [maxUnits * unitParams]float32

// unitType is how a storage type is read by units. Apart from GGUF's blocks,
// which hold their own, units have scales in a plane: unit (row, col) that of
// index row·perRow + (row·flat + col) >> shift.
type unitType struct {
	raw          *blocks.Raw
	loop         unitLoop
	columnar     bool // columns of many rows are decoded at a time
	layout       *blockLayout
	base         [16]float32
	row, unit    int // bytes of codes from one row, or unit of a row, to the next
	perRow, flat int
	shift        uint
	scales       []byte
	zeros        []byte // nil: zero is the middle code
	outer        []byte // of nested scales: their scales, their offset, their map; of floats a number for each row
	middle       float32
}

// Bases of 4-bit codes.
var (
	baseCode   = [16]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	baseMinus8 = [16]float32{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}
	baseIQ4    = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
)

// unitsOf returns how raw is read by units, or nil when it is not.
func unitsOf(raw *blocks.Raw) *unitType {
	t := raw.Type
	if raw.Cols%unitSize != 0 || !haveUnits() {
		return nil
	}
	u := &unitType{raw: raw, base: baseCode}
	switch t.Kind {
	case dtype.Q4_0:
		u.loop, u.base = loopQ40, baseMinus8
	case dtype.Q4_1:
		u.loop = loopQ41
	case dtype.Q8_0:
		u.loop = loopQ80
	case dtype.Q5_0:
		u.loop = loopQ50
	case dtype.Q5_1:
		u.loop = loopQ51
	case dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K, dtype.IQ4_XS:
		k := blockLoops[t.Kind]
		u.loop = k.loop
		if haveColumns() {
			u.columnar, u.layout = true, k.layout
		} else if !u.isK() {
			return nil
		}
	case dtype.IQ4_NL:
		u.loop, u.base = loopQ40, baseIQ4
	case dtype.NF4, dtype.FP4:
		u.loop, u.base = loopHigh, blocks.CodeMap4(t.Kind)
	case dtype.Int4:
		u.loop = loopLow
	case dtype.Int8:
		u.loop = loopBytes
	case dtype.F8E4M3:
		u.loop = loopE4M3
	case dtype.F4E2M1:
		u.loop, u.base = loopE2M1, blocks.E2M1Map()
	default:
		return nil
	}
	u.unit = bytesOfUnit[u.loop]
	u.row = raw.Cols / t.Kind.Info().Block * u.unit
	if u.loop >= loopLow {
		u.row = raw.Cols / unitSize * u.unit
		if !u.groups() {
			return nil
		}
	}
	switch {
	case u.loop == loopLow || u.loop == loopBytes:
		u.columnar = haveColumns() && u.outer == nil
	case u.loop == loopHigh:
		u.columnar = haveColumns() && (u.outer != nil || t.Scale == dtype.F32)
	}
	return u
}

// groups sets where the scales are, and reports whether a unit has one.
func (u *unitType) groups() bool {
	t, cols := u.raw.Type, u.raw.Cols
	size := int(t.Group)
	if u.loop != loopHigh && (size <= 0 || size >= cols) {
		size = 1 << 30 // more than a row has: it is one group
	}
	least := unitSize
	if u.loop == loopE2M1 {
		least /= 2
	}
	if size < least || size&(size-1) != 0 || t.Flags&dtype.Perm != 0 || !t.HasPlanes() {
		return false
	}
	u.shift = uint(bits.TrailingZeros(uint(size)))
	if u.loop == loopHigh {
		u.flat = cols
	} else {
		u.perRow = t.Groups(cols)
		u.middle = float32(int(1) << (t.Bits() - 1))
	}
	u.scales = u.raw.Plane(dtype.Scales)
	if t.Flags&dtype.Zero != 0 {
		u.zeros = u.raw.Plane(dtype.Zeros)
	}
	if t.Flags&dtype.Nested != 0 {
		u.outer = u.raw.Plane(dtype.NestedScales)
	}
	return true
}

// rowOf decodes n elements of a row; col and n are multiples of unitSize.
func (u *unitType) rowOf(dst []float32, row, col, n int) {
	if u.columnar {
		u.columns(dst, 0, row, 1, col, n)
		return
	}
	var p paramRoom
	if u.isK() {
		u.rowK(dst, &p, row, col, n)
		return
	}
	for i := 0; i < n; i += maxUnits * unitSize {
		units := min(n-i, maxUnits*unitSize) / unitSize
		u.params(&p, units, row, 0, col+i, unitSize)
		u.decode(units, row*u.row+(col+i)/unitSize*u.unit, u.unit, &p, dst[i:], unitSize)
	}
}

// strip decodes one unit of each of n rows to rows of dst ldd apart.
func (u *unitType) strip(dst []float32, ldd, row, n, col int) {
	if u.columnar {
		u.columns(dst, ldd, row, n, col, unitSize)
		return
	}
	var p paramRoom
	for i := 0; i < n; i += maxUnits {
		units := min(n-i, maxUnits)
		if u.isK() {
			u.stripK(dst[i*ldd:], ldd, &p, row+i, units, col)
			continue
		}
		u.params(&p, units, row+i, 1, col, 0)
		u.decode(units, (row+i)*u.row+col/unitSize*u.unit, u.row, &p, dst[i*ldd:], ldd)
	}
}

// params writes s and z (t stays 0) of n units from (row, col) on, drow and
// dcol apart.
func (u *unitType) params(p *paramRoom, n, row, drow, col, dcol int) {
	if u.loop < loopLow {
		return
	}
	if u.loop >= loopE4M3 {
		u.floats(p, n, row, drow, col, dcol)
		return
	}
	at := func(i int) int {
		r := row + i*drow
		return r*u.perRow + (r*u.flat+col+i*dcol)>>u.shift
	}
	switch {
	case u.outer != nil:
		u.nested(p, n, at)
	case u.raw.Type.Scale == dtype.F16:
		for i := range n {
			p[i*unitParams] = blocks.FromF16(binary.LittleEndian.Uint16(u.scales[2*at(i):]))
		}
	case u.raw.Type.Scale == dtype.BF16:
		for i := range n {
			p[i*unitParams] = blocks.FromBF16(binary.LittleEndian.Uint16(u.scales[2*at(i):]))
		}
	default:
		for i := range n {
			p[i*unitParams] = f32At(u.scales[4*at(i):])
		}
	}
	for i := range n {
		z := u.middle
		if u.zeros != nil {
			z = float32(u.zeros[at(i)])
		}
		p[i*unitParams+1] = z
	}
}

// nested decodes scales that are quantized themselves, 256 to a scale.
func (u *unitType) nested(p *paramRoom, n int, at func(int) int) {
	front := len(u.outer) - 4*257
	offset, codes := f32At(u.outer[front:]), u.outer[front+4:]
	for i := range n {
		b := at(i)
		p[i*unitParams] = float32(f32At(codes[4*int(u.scales[b]):])*f32At(u.outer[b>>8*4:])) + offset
	}
}

// floats are the scales of both halves of n units of small floats.
func (u *unitType) floats(p *paramRoom, n, row, drow, col, dcol int) {
	t := u.raw.Type
	for i := range n {
		r, c := row+i*drow, col+i*dcol
		for half := range 2 {
			if half == 1 && u.shift > 4 { // one scale
				p[i*unitParams+1] = p[i*unitParams]
				break
			}
			s := blocks.ScaleAt(u.scales, t.Scale, r*u.perRow+(c+half*unitSize/2)>>u.shift)
			if t.Flags&dtype.Nested != 0 {
				s = blocks.RowScaled(s, f32At(u.outer[4*r:]), t)
			}
			p[i*unitParams+half] = s
		}
	}
}

func f32At(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
