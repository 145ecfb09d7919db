package formats

import (
	"encoding/json"
	"strconv"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Weights of bitsandbytes: 4-bit codebooks and LLM.int8().

// bnb4 reads a 4-bit weight of bitsandbytes. Its shape stands only in the
// quant_state, a few bytes of JSON stored as a tensor.
func (g *grouper) bnb4(name, code string, state *array) error {
	kind, ok := map[string]dtype.Kind{"nf4": dtype.NF4, "fp4": dtype.FP4}[code]
	if !ok || state.dtype != "U8" || state.size > 1<<16 {
		return corrupt(state.src.path, "tensor %s: expected nf4 or fp4 and up to 64 KiB of U8", quote(state.name))
	}
	text, err := state.read()
	if err != nil {
		return err
	}
	s, err := parseBnBState(state.src.path+": tensor "+quote(state.name), text)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: kind, Group: int32(s.block)}
	absmaxType := "F32"
	if s.nested {
		typ.Flags, absmaxType = dtype.Nested, "U8"
	}
	weight, err := g.need(name, "U8", "I8", "F16", "BF16", "F32", "F64") // bnb_4bit_quant_storage: bytes under any label
	if err != nil {
		return err
	}
	absmax, err := g.need(name+".absmax", absmaxType)
	if err != nil {
		return err
	}
	codes, err := g.need(name+".quant_map", "F32")
	if err != nil {
		return err
	}
	n, ok := product(s.shape)
	if !ok || weight.size != n/2+n%2 {
		return corrupt(weight.src.path, "tensor %s has %d bytes, which do not hold the shape %v of its quant_state", quote(name), weight.size, s.shape)
	}
	blocks := (n + s.block - 1) / s.block
	if err := shaped(absmax, blocks); err != nil {
		return err
	}
	if err := shaped(codes, 16); err != nil {
		return err
	}
	arrays, roles := []*array{weight, absmax, codes, state}, []string{"weight", "absmax", "quant_map", "quant_state"}
	if s.nested {
		for _, n := range []struct {
			role string
			want int64
		}{{"nested_absmax", (blocks + 255) / 256}, {"nested_quant_map", 256}} {
			a, err := g.need(name+"."+n.role, "F32")
			if err == nil {
				err = shaped(a, n.want)
			}
			if err != nil {
				return err
			}
			arrays, roles = append(arrays, a), append(roles, n.role)
		}
	}
	return g.add(name, typ, s.shape, roles, arrays, importBnB)
}

// bnbState4 is what the quant_state of a 4-bit weight says.
type bnbState4 struct {
	shape  []int64
	block  int64
	nested bool
	offset float32
}

func parseBnBState(where string, text []byte) (s bnbState4, err error) {
	o, err := parseObject(where, text)
	if err != nil {
		return s, err
	}
	dims, _ := o.get("shape").([]any)
	for _, d := range dims {
		n, ok := sizeOf(d)
		if !ok {
			return s, corrupt(where, "shape is %v", dims)
		}
		s.shape = append(s.shape, n)
	}
	if len(s.shape) == 0 || len(s.shape) > 8 {
		return s, corrupt(where, "shape has %d dimensions", len(s.shape))
	}
	var ok bool
	if s.block, ok = sizeOf(o.get("blocksize")); !ok || s.block < 2 || s.block > 1<<20 || s.block%2 != 0 {
		return s, corrupt(where, "blocksize is %v, expected an even number up to 2^20", o.get("blocksize"))
	}
	offset, nested := o.get("nested_offset").(json.Number)
	if s.nested = nested; !nested {
		return s, nil
	}
	if b, ok := sizeOf(o.get("nested_blocksize")); !ok || b != 256 {
		return s, corrupt(where, "nested_blocksize is %v, expected 256", o.get("nested_blocksize"))
	}
	v, err := strconv.ParseFloat(string(offset), 32)
	if err != nil {
		return s, corrupt(where, "nested_offset is %s", offset)
	}
	s.offset = float32(v)
	return s, nil
}

// bnbInt8 reads a weight of LLM.int8(): int8 codes and an f32 maximum a row.
func (g *grouper) bnbInt8(prefix string, scb *array) error {
	w, err := g.need(prefix+".weight", "I8")
	if err != nil {
		return err
	}
	if len(w.shape) != 2 || scb.dtype != "F32" {
		return corrupt(w.src.path, "tensor %s is %v and %s is %s", quote(w.name), w.shape, quote(scb.name), scb.dtype)
	}
	if err := shaped(scb, w.shape[0]); err != nil {
		return err
	}
	if f := g.by[prefix+".weight_format"]; f != nil {
		b, err := f.read()
		if err != nil {
			return err
		}
		if len(b) != 1 || b[0] != 0 {
			return unsupported(w.src.path, "save the model with a bitsandbytes that stores rows", "tensor %s is %v: only the format of plain rows (0) is read", quote(f.name), b)
		}
	}
	err = g.add(prefix+".weight", dtype.Of(dtype.F32), w.shape, []string{"weight", "scb"}, []*array{w, scb}, importInt8Rows)
	if err == nil {
		g.made[len(g.made)-1].Unrounded = "8-bit integer, by row, but for columns with outliers"
		g.extra(prefix + ".weight_format")
	}
	return err
}
