package block

import (
	"github.com/tunekit/tunekit/kernels/dtype"
)

// decodeGroups decodes a type with scales for groups of columns.
func decodeGroups(dst []float32, m Raw, row, col int) {
	if m.Type.Kind.Info().Family == dtype.Micro {
		decodeMicro(dst, m, row, col)
		return
	}
	decodeInt(dst, m, row, col)
}

// microCodec is how one value of a Micro kind is stored.
type microCodec struct {
	largest float32 // finite value
	round   func(float32) uint8
	widen   func(uint8) float32
}

// microOf is the codec of a Micro kind.
func microOf(k dtype.Kind) microCodec {
	switch k {
	case dtype.F8E5M2:
		return microCodec{57344, E5M2, FromE5M2}
	case dtype.F4E2M1:
		return microCodec{6, E2M1, FromE2M1}
	}
	return microCodec{448, E4M3, FromE4M3}
}

// MicroScale is the scale of a group of a Micro type whose largest magnitude is
// top: top becomes the kind's largest value. It is rounded to its stored type
// and never 0. Without a Group it is 1.
func MicroScale(t dtype.Type, top float32) float32 {
	if t.Group == 0 {
		return 1
	}
	if s := RoundScale(t.Scale, top/microOf(t.Kind).largest); s > 0 {
		return s
	}
	return smallest(t.Scale)
}

// roundMicro is v/scale as the codec stores it: a value that a rounded scale
// pushed past the largest stays the largest.
func (c microCodec) roundMicro(v, scale float32) uint8 {
	return c.round(min(max(v/scale, -c.largest), c.largest))
}

// MicroScales writes the scales of groups g, g+1, … of a row of a Micro type into
// dst, with what the row has.
func MicroScales(dst []float32, m Raw, row, g int) {
	p := dtype.Planes(m.Type, m.Rows, m.Cols)
	scales, at := m.Data[p[dtype.Scales].Off:], row*m.Type.Groups(m.Cols)+g
	for i := range dst {
		dst[i] = ScaleAt(scales, m.Type.Scale, at+i)
	}
	if m.Type.Flags&dtype.Nested == 0 {
		return
	}
	of := f32at(m.Data[p[dtype.NestedScales].Off+4*row:])
	for i, s := range dst {
		dst[i] = RowScaled(s, of, m.Type)
	}
}

// RowScaled is a scale s of a Micro type t with Nested, of a row whose number is of.
func RowScaled(s, of float32, t dtype.Type) float32 {
	if t.Flags&dtype.Inverse != 0 {
		return s / of
	}
	return s * of
}

// decodeMicro: value = code · scale of the column's group.
func decodeMicro(dst []float32, m Raw, row, col int) {
	p := dtype.Planes(m.Type, m.Rows, m.Cols)
	c, bits, size := microOf(m.Type.Kind), m.Type.Bits(), int(m.Type.Group)
	if size <= 0 {
		size = max(m.Cols, 1)
	}
	stride := (m.Cols*bits + 7) / 8
	codes := m.Data[p[dtype.Codes].Off+row*stride:][:stride]
	var scale [1]float32
	for len(dst) > 0 {
		n := min(len(dst), size-col%size)
		MicroScales(scale[:], m, row, col/size)
		for i := range dst[:n] {
			dst[i] = c.widen(codeAt(codes, bits, col+i)) * scale[0]
		}
		dst, col = dst[n:], col+n
	}
}

// encodeMicroRow gives each group the scale of its largest magnitude. Where scales
// are nested, the row's is such that the largest of them is the largest of its type.
func encodeMicroRow(m Raw, p *[dtype.NumPlanes]dtype.Plane, row int, x []float32) {
	t := m.Type
	c, bits, groups, group := microOf(t.Kind), t.Bits(), t.Groups(m.Cols), groupOf(m, p)
	scale, most := make([]float32, groups), float32(0)
	for i, v := range x {
		scale[group(i)] = max(scale[group(i)], v, -v)
		most = max(most, v, -v)
	}
	of := float32(1)
	if t.Flags&dtype.Nested != 0 {
		if of = most / (c.largest * microOf(t.Scale).largest); !(of > 0x1p-100) { // of values as good as 0
			of = 1
		}
		stored := of
		if t.Flags&dtype.Inverse != 0 {
			stored = 1 / of
		}
		putF32(m.Data[p[dtype.NestedScales].Off+4*row:], stored)
	}
	for g, top := range scale {
		putScale(m.Data[p[dtype.Scales].Off:], t.Scale, row*groups+g, MicroScale(t, top/of))
	}
	MicroScales(scale, m, row, 0)
	stride := (m.Cols*bits + 7) / 8
	codes := m.Data[p[dtype.Codes].Off+row*stride:][:stride]
	clear(codes)
	for i, v := range x {
		putCode(codes, bits, i, c.roundMicro(v, scale[group(i)]))
	}
}
