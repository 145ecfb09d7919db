package formats

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// A weight is written as EXL2 that is a symmetric matrix of Int codes whose
// columns have an order (dtype.Perm) and whose F16 scales are of EXL2's kind:
// (n+1)² of a sixteenth's square of the group's largest, n from 0 to 15. All its
// groups have one width.

// EXL2Scales are the scales that a group can have whose largest is top, which
// EXL2Top rounded.
func EXL2Scales(top float32) (s [16]float32) {
	unit := half(top / 256)
	for n := range s {
		s[n] = half(float32((n+1)*(n+1)) * unit)
	}
	return s
}

// EXL2Top is the least largest scale of a group that is no less than v, of those
// that survive being divided by 256 as halves; 0 becomes the least of all.
func EXL2Top(v float32) float32 {
	unit := block.F16(v / 256)
	for block.FromF16(unit)*256 < v && unit < 0x7bff {
		unit++
	}
	return 256 * block.FromF16(max(unit, 1))
}

func exl2Layout(p TensorPlan, prefix string) (layout, error) {
	rows, cols, groups, err := matrix(p, dtype.Int2, dtype.Int3, dtype.Int4, dtype.Int5, dtype.Int6, dtype.Int8)
	t := p.Type
	switch {
	case err != nil:
	case t.Flags != dtype.Perm || t.Scale != dtype.F16 || t.Group <= 0 || t.Group%32 != 0:
		err = fmt.Errorf("%v cannot be stored as EXL2: it has symmetric codes, F16 scales, groups of whole words and an order of columns", t)
	case rows%32 != 0 || cols%32 != 0:
		err = fmt.Errorf("%v: EXL2 has rows and columns in multiples of 32", p.Shape)
	case cols*int64(t.Bits())/32 > math.MaxInt16:
		err = fmt.Errorf("%v: the words of a column do not fit EXL2's numbers of 16 bits", p.Shape)
	}
	if err != nil {
		return layout{}, err
	}
	bits := int64(t.Bits())
	return layout{
		slots: []slot{
			{role: "weight", name: prefix + exl2Weight, dtype: "I32", shape: []int64{cols * bits / 32, rows}},
			{role: "scale", name: prefix + ".q_scale", dtype: "I32", shape: []int64{groups, rows / 8}},
			{role: "max", name: prefix + ".q_scale_max", dtype: "F16", shape: []int64{groups}},
			{role: "groups", name: prefix + ".q_groups", dtype: "I16", shape: []int64{2 * groups}},
			{role: "order", name: prefix + ".q_invperm", dtype: "I32", shape: []int64{cols}},
		},
		out: exportEXL2,
		in:  codesOfEXL2,
	}, nil
}

// exl2Place is where each column of m is stored: those of a group beside each
// other, in their own order.
func exl2Place(m block.Raw) ([]int, error) {
	size := int(m.Type.Group)
	filled := make([]int, m.Type.Groups(m.Cols))
	place := make([]int, m.Cols)
	index := m.Plane(dtype.PermIndex)
	for c := range place {
		g := int(binary.LittleEndian.Uint32(index[4*c:]))
		if g >= len(filled) || filled[g] == size {
			return nil, fmt.Errorf("column %d is one too many in group %d of %d columns", c, g, size)
		}
		place[c] = g*size + filled[g]
		filled[g]++
	}
	return place, nil
}

func exportEXL2(m block.Raw) (parts, error) {
	place, err := exl2Place(m)
	if err != nil {
		return nil, err
	}
	bits, groups, size := m.Type.Bits(), m.Type.Groups(m.Cols), int(m.Type.Group)
	p := parts{"weight": make([]byte, m.Cols*bits/8*m.Rows), "scale": make([]byte, groups*m.Rows/2), "max": make([]byte, 2*groups), "groups": make([]byte, 4*groups), "order": make([]byte, 4*m.Cols)}
	for c, at := range place {
		binary.LittleEndian.PutUint32(p["order"][4*c:], uint32(at))
	}
	scales := m.Plane(dtype.Scales)
	scale := func(row, g int) float32 { return block.FromF16(binary.LittleEndian.Uint16(scales[2*(row*groups+g):])) }
	for g := range groups {
		binary.LittleEndian.PutUint16(p["groups"][4*g:], uint16(bits))
		binary.LittleEndian.PutUint16(p["groups"][4*g+2:], uint16(g*size*bits/32))
		top := float32(0)
		for r := range m.Rows {
			top = max(top, scale(r, g))
		}
		binary.LittleEndian.PutUint16(p["max"][2*g:], block.F16(top))
		all := EXL2Scales(top)
		for r := range m.Rows {
			n := 0
			for n < len(all) && all[n] != scale(r, g) {
				n++
			}
			if n == len(all) {
				return nil, fmt.Errorf("the scale %g of row %d, group %d, is none of the sixteen that go with %g", scale(r, g), r, g, top)
			}
			p["scale"][(g*m.Rows+r)/2] |= byte(n) << (r % 2 * 4)
		}
	}
	words := p["weight"]
	for r := range m.Rows {
		row := m.Plane(dtype.Codes)[r*m.Cols*bits/8:][:m.Cols*bits/8]
		for c, at := range place {
			code := block.BitsAt(row, c*bits, bits)
			for b := range bits { // bit by bit: a code of 3 lies in two words
				at := at*bits + b
				word := at/32*m.Rows + r
				words[4*word+at%32/8] |= code >> b & 1 << (at % 8)
			}
		}
	}
	return p, nil
}

// codesOfEXL2 reads back what exportEXL2 wrote.
func codesOfEXL2(m block.Raw, p parts) error {
	bits, groups, size := m.Type.Bits(), m.Type.Groups(m.Cols), int(m.Type.Group)
	column, err := exl2Order(p["order"])
	if err != nil {
		return err
	}
	index := m.Plane(dtype.PermIndex)
	for at, c := range column {
		binary.LittleEndian.PutUint32(index[4*c:], uint32(at/size))
	}
	for g := range groups {
		if n := int(binary.LittleEndian.Uint16(p["groups"][4*g:])); n != bits {
			return fmt.Errorf("group %d has %d bits, expected %d", g, n, bits)
		}
		all := EXL2Scales(block.FromF16(binary.LittleEndian.Uint16(p["max"][2*g:])))
		for r := range m.Rows {
			binary.LittleEndian.PutUint16(m.Plane(dtype.Scales)[2*(r*groups+g):], block.F16(all[nibble(p["scale"][g*m.Rows/2:], r)]))
		}
	}
	stride := m.Cols * bits / 8
	for r := range m.Rows {
		row := m.Plane(dtype.Codes)[r*stride:][:stride]
		clear(row)
		for at, c := range column {
			for b := range bits {
				from, to := at*bits+b, c*bits+b
				word := from/32*m.Rows + r
				row[to/8] |= p["weight"][4*word+from%32/8] >> (from % 8) & 1 << (to % 8)
			}
		}
	}
	return nil
}

// EXL2Bits is what a matrix of a type takes in an EXL2 folder: codes, 4 bits a
// scale, the largest and the place of each group, the order of the columns.
func EXL2Bits(t dtype.Type, rows, cols int) float64 {
	groups := float64(t.Groups(cols))
	return float64(rows)*(float64(cols)*float64(t.Bits())+4*groups) + 48*groups + 32*float64(cols)
}

// exl2Config says what is known without calibration: ExLlamaV2 reads the method
// alone. Its bits are those of all that is quantized, scales counted.
func exl2Config(plan []TensorPlan) object {
	var bits, n float64
	for _, p := range plan {
		if p.Type.Quantized() {
			bits += EXL2Bits(p.Type, int(p.Shape[0]), int(p.Shape[1]))
			n += float64(p.Shape[0] * p.Shape[1])
		}
	}
	return object{{"quant_method", "exl2"}, {"version", "0.2.0"}, {"bits", math.Round(100*bits/n) / 100}, {"head_bits", 16}}
}
