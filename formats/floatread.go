package formats

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Scaled 4-bit and 8-bit floats stay packed: codes lie as they are stored, and
// every row has its scales, also those that it shares with other rows.

// scaleKinds are the types of scales that floats have, by their names in files.
var scaleKinds = map[string]dtype.Kind{"F32": dtype.F32, "BF16": dtype.BF16, "F16": dtype.F16, "F8_E8M0": dtype.F8E8M0}

// scaleGrid is how scales lie on a matrix: how many rows share one, and how many columns,
// -1 for all.
type scaleGrid struct {
	run   int
	group int32
}

// gridOf finds the grid of the scales of a matrix: one for the tensor, one a row, one
// a group of a row's columns, or one a block, as the configuration has it.
func (g *grouper) gridOf(module string, shape []int64, scale *array) (scaleGrid, error) {
	args, err := g.ctWeights(module)
	if err != nil {
		return scaleGrid{}, err
	}
	size, known := int64(0), args.get("group_size") != nil
	if known {
		if size, _, err = g.whole("config_groups: weights.group_size", args.get("group_size")); err != nil {
			return scaleGrid{}, err
		}
	}
	block, err := g.blockSize(args)
	if err != nil {
		return scaleGrid{}, err
	}
	strategy, _ := args.get("strategy").(string)
	switch strategy = strings.ToLower(strategy); {
	case strategy != "":
	case size > 0:
		strategy = "group"
	case block != nil:
		strategy = "block"
	}
	rows, cols, s := shape[0], shape[1], scale.shape
	if len(s) == 4 && s[1] == 1 && s[3] == 1 { // of blocks, as ModelOpt may write them
		s = []int64{s[0], s[2]}
	}
	n, _ := product(s)
	finer := strategy == "group" || strategy == "block"
	switch {
	case len(s) > 2 || n == 0 && rows > 0 && cols > 0:
		return scaleGrid{}, g.errShape(scale)
	case n == 1 && !finer && (strategy == "" || strategy == "tensor" || rows == 1):
		return scaleGrid{int(max(rows, 1)), -1}, nil
	case !finer && len(s) > 0 && s[0] == rows && (len(s) == 1 || s[1] == 1):
		return scaleGrid{1, -1}, nil
	case len(s) == 2 && s[0] == rows && (strategy == "group" || strategy == "" && scale.dtype != "F8_E8M0" && g.method() != "fp8"):
		if !known && s[1] > 0 && cols%s[1] == 0 {
			size = cols / s[1]
		}
		switch {
		case size < 1 || (cols+size-1)/size != s[1]:
			return scaleGrid{}, g.errShape(scale)
		case s[1] == 1:
			return scaleGrid{1, -1}, nil
		}
		return scaleGrid{1, int32(size)}, nil
	case strategy != "" && strategy != "block":
		return scaleGrid{}, g.errShape(scale)
	}
	if n == 1 {
		s = []int64{1, 1}
	}
	br, bc := int64(128), int64(128)
	if block != nil {
		br, bc = block[0], block[1]
	}
	if len(s) != 2 || (rows+br-1)/br != s[0] || (cols+bc-1)/bc != s[1] {
		return scaleGrid{}, g.errShape(scale)
	}
	if bc >= cols {
		return scaleGrid{int(br), -1}, nil
	}
	return scaleGrid{int(br), int32(bc)}, nil
}

// fp8 reads float8 codes with a scale for the tensor, each row, group or block.
func (g *grouper) fp8(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "F32", "BF16", "F16", "F8_E8M0"); err != nil {
		return err
	}
	grid, err := g.gridOf(prefix, w.shape, scale)
	if err != nil {
		return err
	}
	switch v := g.config.get("weight_scale_semantics"); {
	case v == nil:
	case v != "inverse" || scale.dtype != "F32":
		return unsupported(g.where, "", "quantization_config.weight_scale_semantics is %v with scales of %s; \"inverse\" with F32 is read", v, scale.dtype)
	default:
		return g.add(prefix+".weight", dtype.Of(dtype.F32), w.shape, []string{"codes", "scale"}, []*array{w, scale}, importFP8Divided(grid))
	}
	typ := dtype.Type{Kind: dtype.F8E4M3, Group: grid.group, Scale: scaleKinds[scale.dtype]}
	return g.add(prefix+".weight", typ, w.shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(grid))
}

// fp8Block reads what Transformers' method fp8 stores: scales that multiply blocks, or one
// for the tensor, of 8-bit floats; powers of two for 32 columns, of 8-bit floats (MXFP8)
// and of 4-bit ones, two a byte (the experts of DeepSeek V4).
func (g *grouper) fp8Block(prefix string, scale *array) error {
	w, err := g.need(prefix+".weight", "F8_E4M3", "I8", "F4")
	if err != nil {
		return err
	}
	switch {
	case len(w.shape) != 2:
		return g.errShape(scale)
	case w.dtype != "F8_E4M3":
		err = g.fp4(prefix, w, scale)
	case scale.dtype == "U8" || g.method() == "mxfp8":
		err = g.mxfp8(prefix, w, scale)
	default:
		err = g.fp8(prefix, w, scale)
	}
	if err != nil {
		return err
	}
	return g.inputs(prefix)
}

// fp8Short reads the same where the scale is called as DeepSeek V4's files have it.
func (g *grouper) fp8Short(prefix string, scale *array) error {
	w := g.by[prefix+".weight"]
	if g.method() != "fp8" || w == nil || w.dtype != "F8_E4M3" && w.dtype != "I8" && w.dtype != "F4" {
		return nil // another tensor that happens to be called so
	}
	return g.fp8Block(prefix, scale)
}

// ctWeights is what compressed-tensors' configuration says of a module's weights, and
// Quark's in the same words, nil where it says nothing.
func (g *grouper) ctWeights(module string) (object, error) {
	if g.method() == "quark" {
		return g.quarkWeights(module)
	}
	group, err := g.configGroup(module)
	args, _ := group.get("weights").(object)
	return args, err
}

// blockSize is the rows and columns of a block with one scale, both above 0, nil where
// nothing says it.
func (g *grouper) blockSize(args object) ([]int64, error) {
	name, v := "config_groups: weights.block_structure", args.get("block_structure")
	if text, ok := v.(string); ok { // "128x128", of older versions
		rows, cols, _ := strings.Cut(text, "x")
		v = []any{json.Number(rows), json.Number(cols)}
	}
	if v == nil {
		name, v = "weight_block_size", g.config.get("weight_block_size")
	}
	if v == nil {
		return nil, nil
	}
	dims, _ := v.([]any)
	var out []int64
	for _, d := range dims {
		n, _, err := g.whole(name, d)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	if len(out) != 2 || min(out[0], out[1]) < 1 {
		return nil, corrupt(g.where, "quantization_config.%s is %v, expected two numbers above 0", name, v)
	}
	return out, nil
}

// mxfp8 reads float8 codes with a power-of-two scale for every 32 columns.
func (g *grouper) mxfp8(prefix string, w, scale *array) error {
	if w.shape[1]%32 != 0 {
		return g.errShape(w)
	}
	if _, err := g.need(scale.name, "U8", "F8_E8M0"); err != nil {
		return err
	}
	if err := shaped(scale, w.shape[0], w.shape[1]/32); err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.F8E4M3, Group: 32, Scale: dtype.F8E8M0}
	return g.add(prefix+".weight", typ, w.shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(scaleGrid{run: 1}))
}

// scale2 is what ModelOpt multiplies the scales of an NVFP4 weight by.
const scale2 = ".weight_scale_2"

// What compressed-tensors divides the scales of an NVFP4 weight by, and those of its inputs.
const (
	globalScale = ".weight_global_scale"
	inputGlobal = ".input_global_scale"
)

// fp4 reads two 4-bit floats a byte: MXFP4 (a power of two for 32 columns) or
// NVFP4 (a float8 for 16 columns, and a number for the tensor, by which
// compressed-tensors divides and ModelOpt multiplies).
func (g *grouper) fp4(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "U8", "F8_E8M0", "F8_E4M3"); err != nil {
		return err
	}
	shape, per := []int64{w.shape[0], 2 * w.shape[1]}, int64(32)
	if w.dtype == "F4" {
		shape[1] = w.shape[1]
	}
	if scale.dtype == "F8_E4M3" {
		per = 16
	}
	if shape[1]%per != 0 {
		return g.errShape(w)
	}
	if err := shaped(scale, shape[0], shape[1]/per); err != nil {
		return err
	}
	if per == 32 {
		return g.add(prefix+".weight", mxfp4, shape, []string{"codes", "scale"}, []*array{w, scale}, importFloats(scaleGrid{run: 1}))
	}
	typ, name := nvfp4, globalScale
	if g.by[prefix+scale2] != nil {
		typ.Flags, name = dtype.Nested, scale2
	}
	global, err := g.need(prefix+name, "F32")
	if err == nil && len(global.shape) != 0 {
		err = shaped(global, 1)
	}
	if err != nil {
		return err
	}
	return g.add(prefix+".weight", typ, shape, []string{"codes", "scale", "global"}, []*array{w, scale, global}, importFloats(scaleGrid{run: 1}))
}

// scaled is how codes that no type has are stored: the bits of a code, the columns that
// share a scale, and what the two mean.
type scaled struct {
	bits, run int64
	code      func(codes []byte, i int) float64
	scale     func(byte) float64
}

// scaled reads codes in bytes with a scale, a byte wide, for every run of columns. A weight
// of them is decoded to BF16.
func (g *grouper) scaled(prefix string, w, scale *array, k scaled) error {
	cols := w.shape[1] * 8 / k.bits
	if cols*k.bits != w.shape[1]*8 || cols%k.run != 0 {
		return g.errShape(w)
	}
	if _, err := g.need(scale.name, "U8", "F8_E8M0"); err != nil {
		return err
	}
	shape := []int64{w.shape[0], cols}
	if err := shaped(scale, shape[0], cols/k.run); err != nil {
		return err
	}
	return g.add(prefix+".weight", dtype.Of(dtype.BF16), shape, []string{"codes", "scale"}, []*array{w, scale}, importScaled(k))
}

// autoRoundFloat reads what AutoRound packs in bytes, by the data_type of the module: floats
// as compressed-tensors has them, integers of 4 bits with powers of two (MXINT4), and 4-bit
// floats whose scales have 5 bits of exponent and no sign.
func (g *grouper) autoRoundFloat(prefix string, w, scale *array) error {
	v, err := g.exception(prefix, "data_type")
	if err != nil {
		return err
	}
	kind, err := g.text("data_type of "+prefix, cmp.Or(v, g.config.get("data_type")))
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(kind, "mx_fp"), strings.HasPrefix(kind, "nv_fp"):
		return g.fp4(prefix, w, scale)
	case strings.HasPrefix(kind, "mx_int"):
		return g.scaled(prefix, w, scale, scaled{4, 32, quarters, e8m0})
	case kind == "nvfp4_v2":
		run := int64(16)
		if size, ok, err := g.numberOf(prefix, "group_size"); err != nil || ok && size != 16 && size != 32 {
			return errors.Join(err, unsupported(g.where, "groups of 16 and 32 are read", "quantization_config.group_size is %d for %s with data_type nvfp4_v2", size, quote(prefix)))
		} else if ok {
			run = size
		}
		return g.scaled(prefix, w, scale, scaled{4, run, e2m1, e5m3})
	}
	return unsupported(g.where, "mx_fp, nv_fp, mx_int and nvfp4_v2 are read", "module %s is packed in bytes, but its data_type in quantization_config is %s", quote(prefix), quote(kind))
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
