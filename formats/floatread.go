package formats

import (
	"slices"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Scaled 4-bit and 8-bit floats stay packed: codes lie as they are stored, and
// every row has its scales, also those that it shares with other rows.

// scaleKinds are the types of scales that floats have, by their names in files.
var scaleKinds = map[string]dtype.Kind{"F32": dtype.F32, "BF16": dtype.BF16, "F16": dtype.F16, "F8_E8M0": dtype.F8E8M0}

// fp8 reads float8 codes with a scale for the tensor, each row, or each block.
func (g *grouper) fp8(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "F32", "BF16", "F16", "F8_E8M0"); err != nil {
		return err
	}
	rows, cols := w.shape[0], w.shape[1]
	br, bc := rows, cols // one block for the whole tensor
	switch s := scale.shape; {
	case len(s) == 1 && s[0] == 1 || len(s) == 0:
	case len(s) == 2 && s[0] == rows && s[1] == 1:
		br = 1
	case len(s) == 2:
		var err error
		if br, bc, err = g.blockShape(w, scale); err != nil {
			return err
		}
	default:
		return g.errShape(scale)
	}
	typ := dtype.Type{Kind: dtype.F8E4M3, Group: -1, Scale: scaleKinds[scale.dtype]}
	if bc < cols {
		typ.Group = int32(bc)
	}
	return g.add(prefix+".weight", typ, w.shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(int(br)))
}

// fp8Block reads DeepSeek's layout, whose scales multiply blocks, and that of Mistral with one scale.
func (g *grouper) fp8Block(prefix string, scale *array) error {
	w, err := g.need(prefix+".weight", "F8_E4M3")
	if err != nil {
		return err
	}
	if len(w.shape) != 2 {
		return g.errShape(scale)
	}
	if err := g.fp8(prefix, w, scale); err != nil {
		return err
	}
	return g.inputs(prefix)
}

// blockShape is the block size of a two-dimensional scale: what the
// configuration says, else 128×128.
func (g *grouper) blockShape(w, scale *array) (br, bc int64, err error) {
	br, bc = 128, 128
	if b := g.blockStructure(); len(b) == 2 {
		br, bc = b[0], b[1]
	}
	if br < 1 || bc < 1 || (w.shape[0]+br-1)/br != scale.shape[0] || (w.shape[1]+bc-1)/bc != scale.shape[1] {
		return 0, 0, g.errShape(scale)
	}
	return br, bc, nil
}

func (g *grouper) blockStructure() []int64 {
	v := g.config.get("weight_block_size")
	if groups, ok := g.config.get("config_groups").(object); ok && len(groups) > 0 {
		first, _ := groups[0].Value.(object)
		weights, _ := first.get("weights").(object)
		v = weights.get("block_structure")
	}
	dims, _ := v.([]any)
	var out []int64
	for _, d := range dims {
		n, _ := sizeOf(d)
		out = append(out, n)
	}
	return out
}

// mxfp8 reads float8 codes with a power-of-two scale for every 32 columns.
func (g *grouper) mxfp8(prefix string, w, scale *array) error {
	if w.shape[1]%32 != 0 {
		return g.errShape(w)
	}
	if err := shaped(scale, w.shape[0], w.shape[1]/32); err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}
	return g.add(prefix+".weight", typ, w.shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(1))
}

// scale2 is what ModelOpt multiplies the scales of an NVFP4 weight by.
const scale2 = ".weight_scale_2"

// fp4 reads two 4-bit floats a byte: MXFP4 (a power of two for 32 columns) or
// NVFP4 (a float8 for 16 columns, and a number for the tensor, by which
// compressed-tensors divides and ModelOpt multiplies).
func (g *grouper) fp4(prefix string, w *array) error {
	scale, err := g.need(prefix+ctScale, "U8", "F8_E4M3")
	if err != nil {
		return err
	}
	shape := []int64{w.shape[0], 2 * w.shape[1]}
	if shape[1]%32 != 0 {
		return g.errShape(w)
	}
	if scale.dtype == "U8" {
		if err := shaped(scale, shape[0], shape[1]/32); err != nil {
			return err
		}
		typ := dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}
		return g.add(prefix+".weight", typ, shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(1))
	}
	typ, name := dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}, ".weight_global_scale"
	if g.by[prefix+scale2] != nil {
		typ.Flags, name = dtype.Nested, scale2
	}
	global, err := g.need(prefix+name, "F32")
	if err == nil && len(global.shape) != 0 {
		err = shaped(global, 1)
	}
	if err == nil {
		err = shaped(scale, shape[0], shape[1]/16)
	}
	if err != nil {
		return err
	}
	return g.add(prefix+".weight", typ, shape, []string{"codes", "scale", "global"}, []*array{w, scale, global}, importFloats(1))
}

// mxfp4 reads the parameters of all experts as gpt-oss is released: codes
// [experts, rows, columns/32, 16], two a byte, and a power of two for every 32
// columns. The tensor has the name of the parameter and lies as [experts, rows,
// columns], which is the transpose of how a folder of plain floats has it.
func (g *grouper) mxfp4(name string, codes *array) error {
	if g.by[name+mxScales] == nil && g.method() != "mxfp4" {
		return nil // another tensor that happens to be called so
	}
	scale, err := g.need(name+mxScales, "U8")
	if err != nil {
		return err
	}
	last := len(codes.shape) - 1
	switch m := g.method(); {
	case m == "":
		return corrupt(g.where, "tensor %s is packed, but quantization_config is missing", quote(codes.name))
	case m != "mxfp4":
		return unsupported(g.where, "", "tensor %s is packed as quant_method mxfp4 has it, but quantization_config.quant_method is %s", quote(codes.name), quote(m))
	case codes.dtype != "U8" || last < 2 || codes.shape[last] != 16:
		return g.errShape(codes)
	}
	if err := shaped(scale, codes.shape[:last]...); err != nil {
		return err
	}
	shape := slices.Clone(codes.shape[:last])
	shape[last-1] *= 32
	return g.add(name, dtype.Of(dtype.MXFP4), shape, []string{"codes", "scale"}, []*array{codes, scale}, importMXBlocks)
}
