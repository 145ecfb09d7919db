package block

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
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

// FloatRows is how many rows share the scales of an InTiles type; the last run of a
// matrix may be shorter.
const FloatRows = 128

// InTiles reports 8-bit floats whose blocks of FloatRows rows and as many columns have a
// scale each, as EncodeTiles makes them: every row of a block holds the block's.
func InTiles(t dtype.Type) bool { return t.Kind == dtype.F8E4M3 && t.Group == FloatRows }

// EncodeTiles quantizes x [Rows*Cols] into m, of an InTiles type: a block's largest magnitude
// becomes the kind's largest value, and blocks at the edges are cut off. It refuses values that
// are not finite (ErrNotFinite).
func EncodeTiles(m Raw, x []float32) error {
	if !InTiles(m.Type) || len(x) != m.Rows*m.Cols {
		panic(fmt.Sprintf("block: EncodeTiles: %d values into %d×%d of %v", len(x), m.Rows, m.Cols, m.Type))
	}
	if err := checkFinite(x, 0, m.Cols); err != nil {
		return err
	}
	c, groups, size := microOf(m.Type.Kind), m.Type.Groups(m.Cols), int(m.Type.Group)
	codes, scales := m.Plane(dtype.Codes), m.Plane(dtype.Scales)
	par.For((m.Rows+FloatRows-1)/FloatRows, 1, func(lo, hi int) {
		scale := make([]float32, groups)
		for run := lo; run < hi; run++ {
			first, end := run*FloatRows, min((run+1)*FloatRows, m.Rows)
			clear(scale)
			for i, v := range x[first*m.Cols : end*m.Cols] {
				g := i % m.Cols / size
				scale[g] = max(scale[g], v, -v)
			}
			for g, top := range scale {
				scale[g] = MicroScale(m.Type, top)
			}
			for r := first; r < end; r++ {
				for g, s := range scale {
					putScale(scales, m.Type.Scale, r*groups+g, s)
				}
				for i, v := range x[r*m.Cols : (r+1)*m.Cols] {
					codes[r*m.Cols+i] = c.roundMicro(v, scale[i/size])
				}
			}
		}
	})
	return nil
}

// EncodeFP4 quantizes x [Rows*Cols] into m, floats of 4 bits in the groups of MXFP4 or of NVFP4, as compressed-tensors 0.20.1
// does (calculate_qparams, generate_gparam, quantize). It refuses values that are not finite (ErrNotFinite).
//
// MXFP4 (scales F8E8M0): a group's scale is the power of two below its largest magnitude, the one above from seven quarters
// of it on, less two.
//
// NVFP4 (scales F8E4M3, Nested and Inverse): m is len(tops) matrices of as many rows, one below another, and tops[i] is the
// largest magnitude in matrix i and in all that share its number. like is the kind that the weights are held in: what is
// computed of largest magnitudes is rounded to it.
func EncodeFP4(m Raw, x, tops []float32, like dtype.Kind) error {
	nested := m.Type.Flags&dtype.Nested != 0
	if m.Type.Kind != dtype.F4E2M1 || len(x) != m.Rows*m.Cols || nested && (len(tops) == 0 || m.Rows%len(tops) != 0) {
		panic(fmt.Sprintf("block: EncodeFP4: %d values into %d×%d of %v, %d largest ones", len(x), m.Rows, m.Cols, m.Type, len(tops)))
	}
	if err := checkFinite(x, 0, m.Cols); err != nil {
		return err
	}
	c, groups, size := microOf(m.Type.Kind), m.Type.Groups(m.Cols), int(m.Type.Group)
	codes, scales, numbers := m.Plane(dtype.Codes), m.Plane(dtype.Scales), m.Plane(dtype.NestedScales)
	stride := (m.Cols + 1) / 2
	par.For(m.Rows, rowGrain(m.Cols), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			number := float32(1)
			if nested {
				number = nvfp4Number(tops[r/(m.Rows/len(tops))], like)
				putF32(numbers[4*r:], number)
			}
			clear(codes[r*stride : (r+1)*stride])
			for g := range groups {
				part := x[r*m.Cols+g*size : r*m.Cols+min((g+1)*size, m.Cols)]
				top := float32(0)
				for _, v := range part {
					top = max(top, v, -v)
				}
				at := r*groups + g
				if nested {
					scales[at] = nvfp4Scale(top, number, like)
				} else {
					scales[at] = mxfp4Scale(top)
				}
				scale := ScaleAt(scales, m.Type.Scale, at) / number
				for i, v := range part {
					if v /= scale; v != 0 { // of -0 the code is 0
						putCode(codes[r*stride:(r+1)*stride], 4, g*size+i, c.roundMicro(v, 1))
					}
				}
			}
		}
	})
	return nil
}

// mxfp4Scale is the exponent of the scale of a group of MXFP4.
func mxfp4Scale(top float32) uint8 {
	return uint8(max(int((math.Float32bits(top)+0x200000)>>23)-2, 0))
}

// nvfp4Number is what divides the scales of an NVFP4 matrix, 6·448 times the reciprocal of top, each in the kind of the weights;
// in float32 where F16 cannot hold it, and 1 of values as good as 0.
func nvfp4Number(top float32, like dtype.Kind) float32 {
	for _, k := range []dtype.Kind{like, dtype.F32} {
		if v := RoundScale(k, RoundScale(k, 1/top)*(6*448)); v <= math.MaxFloat32 {
			return v
		}
	}
	return 1
}

// nvfp4Scale is the scale of a group of NVFP4, in F8E4M3; an eighth of values as good as 0.
func nvfp4Scale(top, number float32, like dtype.Kind) uint8 {
	if code := E4M3(min(number*RoundScale(like, top/6), 448)); code > 0 {
		return code
	}
	return E4M3(0.125)
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
