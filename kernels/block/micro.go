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
	if k == dtype.F8E5M2 {
		return microCodec{57344, E5M2, FromE5M2}
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

// decodeMicro: value = code · scale of the column's group.
func decodeMicro(dst []float32, m Raw, row, col int) {
	p := dtype.Planes(m.Type, m.Rows, m.Cols)
	c, groups := microOf(m.Type.Kind), m.Type.Groups(m.Cols)
	codes := m.Data[p[dtype.Codes].Off+row*m.Cols+col:][:len(dst)]
	scales, group := m.Data[p[dtype.Scales].Off:], groupOf(m, &p)
	for i, b := range codes {
		dst[i] = c.widen(b) * scaleAt(scales, m.Type.Scale, row*groups+group(col+i))
	}
}

// encodeMicroRow gives each group the scale of its largest magnitude.
func encodeMicroRow(m Raw, p *[dtype.NumPlanes]dtype.Plane, row int, x []float32) {
	c, groups, group := microOf(m.Type.Kind), m.Type.Groups(m.Cols), groupOf(m, p)
	scale := make([]float32, groups)
	for i, v := range x {
		scale[group(i)] = max(scale[group(i)], v, -v)
	}
	for g, top := range scale {
		scale[g] = MicroScale(m.Type, top)
		putScale(m.Data[p[dtype.Scales].Off:], m.Type.Scale, row*groups+g, scale[g])
	}
	codes := m.Data[p[dtype.Codes].Off+row*m.Cols:][:m.Cols]
	for i, v := range x {
		codes[i] = c.roundMicro(v, scale[group(i)])
	}
}
