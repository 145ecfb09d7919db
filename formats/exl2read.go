package formats

import (
	"encoding/binary"
	"fmt"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// EXL2 stores a weight transposed, its input columns in the order of their
// importance, cut into groups of 2, 3, 4, 5, 6 or 8 bits each. No type has such
// groups: a weight is decoded to the F16 values that ExLlamaV2 computes with.

const exl2Weight = ".q_weight"

// exl2 reads one weight: q_weight [words, out], the codes of each output in
// consecutive bits; q_scale [groups, out/8], 4 bits each; q_scale_max [groups];
// q_groups, the bits and the first word of each group; q_invperm [in], the place of
// each column.
func (g *grouper) exl2(prefix string, w *array) error {
	if m := g.method(); m != "" && m != "exl2" {
		return unsupported(g.where, "", "tensor %s is packed as EXL2 has it, but quantization_config.quant_method is %s", quote(w.name), quote(m))
	}
	scale, err := g.need(prefix+".q_scale", "I32")
	if err != nil {
		return err
	}
	top, err := g.need(prefix+".q_scale_max", "F16")
	if err != nil {
		return err
	}
	groups, err := g.need(prefix+".q_groups", "I16")
	if err != nil {
		return err
	}
	order, err := g.need(prefix+".q_invperm", "I32")
	if err != nil {
		return err
	}
	if w.dtype != "I32" || len(w.shape) != 2 || w.shape[1] == 0 || w.shape[1]%8 != 0 || len(top.shape) != 1 || len(order.shape) != 1 || order.shape[0] == 0 {
		return g.errShape(w)
	}
	n, wide := top.shape[0], w.shape[1]
	for _, err := range []error{shaped(scale, n, wide/8), shaped(groups, 2*n)} {
		if err != nil {
			return err
		}
	}
	out := g.exl2Rows(prefix, wide)
	load := func(m block.Raw, p parts) error { return importEXL2(m, int(wide), p) }
	if err := g.add(prefix+".weight", dtype.Of(dtype.F16), []int64{out, order.shape[0]},
		[]string{"weight", "scale", "max", "groups", "order"}, []*array{w, scale, top, groups, order}, load); err != nil {
		return err
	}
	g.extra(prefix + ".q_perm")
	return nil
}

// exl2Rows is how many of the stored outputs a weight has, the others only fill
// words of 32: as many as biases, or a size of the configuration that is no multiple
// of 32. A wrong guess is a shape that its model refuses.
func (g *grouper) exl2Rows(prefix string, wide int64) int64 {
	var sizes []int64
	if b := g.by[prefix+".bias"]; b != nil && len(b.shape) == 1 {
		sizes = b.shape
	} else if o, err := parseObject("config.json", g.a.config); err == nil {
		text, _ := o.get("text_config").(object)
		for _, o := range []object{o, text} {
			for _, key := range []string{"vocab_size", "intermediate_size"} {
				n, _ := sizeOf(o.get(key))
				sizes = append(sizes, n)
			}
		}
	}
	for _, n := range sizes {
		if n > 0 && n < wide && wide-n < 32 {
			return n
		}
	}
	return wide
}

// importEXL2 decodes as ExLlamaV2 does, every product rounded to F16: a code less
// half of its range, times the scale, which is (code+1)² of the group's largest/256.
func importEXL2(m block.Raw, wide int, p parts) error {
	in, words := m.Cols, len(p["weight"])/(4*wide)
	column, err := exl2Order(p["order"])
	if err != nil {
		return err
	}
	word := func(row, n int) uint32 { return binary.LittleEndian.Uint32(p["weight"][4*(row*wide+n):]) }
	scales := make([]float32, m.Rows)
	row := 0
	for k := range len(p["max"]) / 2 {
		bits, first := int(binary.LittleEndian.Uint16(p["groups"][4*k:])), int(binary.LittleEndian.Uint16(p["groups"][4*k+2:]))
		end, rows := words, in-row
		if 4*k+4 < len(p["groups"]) {
			end = int(binary.LittleEndian.Uint16(p["groups"][4*k+6:]))
			rows = (end - first) * 32 / max(bits, 1)
		}
		switch {
		case bits < 2 || bits > 8 || bits == 7:
			return fmt.Errorf("group %d has %d bits; there are 2, 3, 4, 5, 6 and 8", k, bits)
		case first > end || end > words || rows < 1 || row+rows > in || (rows*bits+31)/32 != end-first:
			return fmt.Errorf("group %d of %d bits holds words %d to %d of %d for %d of %d columns", k, bits, first, end, words, rows, in)
		}
		top := half(block.FromF16(binary.LittleEndian.Uint16(p["max"][2*k:])) / 256)
		for n := range scales {
			s := float32(nibble(p["scale"][4*(k*wide/8):], n) + 1)
			scales[n] = half(float32(s*s) * top)
		}
		mask, zero := uint32(1)<<bits-1, int32(1)<<(bits-1)
		for r := range rows {
			at, shift := first+r*bits/32, r*bits%32
			for n, s := range scales {
				code := word(at, n) >> shift
				if shift+bits > 32 {
					code |= word(at+1, n) << (32 - shift)
				}
				v := float32(int32(code&mask)-zero) * s
				binary.LittleEndian.PutUint16(m.Data[2*(n*in+column[row+r]):], block.F16(v))
			}
		}
		row += rows
	}
	if row != in {
		return fmt.Errorf("its groups have %d of %d columns", row, in)
	}
	return nil
}

// exl2Order is the column that each stored one is, of the places of all.
func exl2Order(b []byte) ([]int, error) {
	column := make([]int, len(b)/4)
	for i := range column {
		column[i] = -1
	}
	for c := range column {
		at := int64(int32(binary.LittleEndian.Uint32(b[4*c:])))
		if at < 0 || at >= int64(len(column)) || column[at] >= 0 {
			return nil, fmt.Errorf("q_invperm[%d] is %d, of %d places each once", c, at, len(column))
		}
		column[at] = c
	}
	return column, nil
}

// half rounds to F16.
func half(x float32) float32 { return block.FromF16(block.F16(x)) }
