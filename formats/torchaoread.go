package formats

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Weights of torchao as Transformers saves them in safetensors: the class of a weight
// and what it knows beside its arrays is JSON in the metadata of the file, under the name
// of the parameter; the arrays of a.b.weight are a.b._weight_qdata, a.b._weight_scale ….

// aoWeight is one weight of torchao.
type aoWeight struct {
	g      *grouper
	sym    bool   // zero points are zero, as the configuration has it
	name   string // of the parameter
	where  string // of its entry, for errors
	prefix string // of its arrays
	class  string // of Python
	data   object // what the class knows
	arrays []string
}

// aoArray are names that arrays of torchao's classes have.
var aoArray = regexp.MustCompile(`\._\w+_(qdata|scale|zero_point|scale_and_zero|per_tensor_scale|act_\w+)$`)

// torchao makes the logical tensors of a folder of torchao.
func (g *grouper) torchao(arrays []array) error {
	seen := map[string]string{}
	quantType := g.config.get("quant_type")
	sym := quantType != nil && !aoAsymmetric(quantType)
	for _, kv := range g.a.meta {
		text, _ := kv.Value.(string)
		if old, dup := seen[kv.Key]; dup && old == text || !strings.Contains(kv.Key, ".") {
			continue // shards may each hold all entries
		} else if dup {
			return corrupt(g.a.path, "__metadata__ of two files says different things of tensor %s", quote(kv.Key))
		}
		seen[kv.Key] = text
		w, err := g.aoEntry(kv.Key, text)
		if err == nil && w.class != "Tensor" {
			w.sym = sym
			err = w.read()
		}
		if err != nil {
			return err
		}
	}
	for i := range arrays {
		if _, taken := g.owner[arrays[i].name]; !taken && aoArray.MatchString(arrays[i].name) {
			return corrupt(arrays[i].src.path, "tensor %s is part of a weight of torchao, and no entry of __metadata__ says of which and what it means", quote(arrays[i].name))
		}
	}
	if len(g.made) == 0 {
		return corrupt(g.where, "quantization_config.quant_method is \"torchao\", but __metadata__ of the safetensors names no weight of torchao")
	}
	return nil
}

// aoAsymmetric reports whether a configuration, or one inside it, maps weights
// asymmetrically.
func aoAsymmetric(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, aoAsymmetric)
	case object:
		return slices.ContainsFunc(v, func(m member) bool {
			if m.Key == "mapping_type" || m.Key == "weight_mapping_type" {
				return v.text(m.Key) != "SYMMETRIC"
			}
			return aoAsymmetric(m.Value)
		})
	}
	return false
}

// aoEntry reads what the metadata says of a parameter.
func (g *grouper) aoEntry(name, text string) (*aoWeight, error) {
	w := &aoWeight{g: g, name: name, where: g.a.path + ": __metadata__ of tensor " + quote(name)}
	o, err := parseObject(w.where, []byte(text))
	if err != nil {
		return nil, err
	}
	dot := strings.LastIndexByte(name, '.')
	w.prefix = name[:dot] + "._" + name[dot+1:] + "_"
	var ok bool
	if w.class, ok = o.get("_type").(string); !ok {
		return nil, corrupt(w.where, "_type is %v, expected the name of a class", o.get("_type"))
	}
	if w.class == "Tensor" {
		return w, nil
	}
	if w.data, ok = o.get("_data").(object); !ok {
		return nil, corrupt(w.where, "_data is %s, expected an object", kindOf(o.get("_data")))
	}
	names, _ := o.get("_tensor_data_names").([]any)
	for _, n := range names {
		s, _ := n.(string)
		w.arrays = append(w.arrays, s)
	}
	if !slices.Contains(w.arrays, "qdata") {
		return nil, corrupt(w.where, "_tensor_data_names is %v, without \"qdata\"", names)
	}
	return w, nil
}

// read makes the logical tensor of a weight by its class.
func (w *aoWeight) read() error {
	if w.has("act_pre_scale") {
		return unsupported(w.where, "quantize the model without AWQ or SmoothQuant", "inputs that are scaled before their product (act_pre_scale) are not read")
	}
	var err error
	switch w.class {
	case "Int8Tensor":
		err = w.ints(8)
	case "IntxUnpackedToInt8Tensor":
		err = w.intx()
	case "Int4Tensor":
		err = w.int4()
	case "Int4TilePackedTo4dTensor":
		err = w.int4Tiles()
	case "Float8Tensor":
		err = w.float8()
	case "MXTensor":
		err = w.mx()
	case "NVFP4Tensor":
		err = w.nvfp4()
	default:
		err = unsupported(w.where, "save the model in another packing (plain or tile_packed_to_4d), or in floats where it was made",
			"the class is %s; read are Int8Tensor, IntxUnpackedToInt8Tensor, Int4Tensor, Int4TilePackedTo4dTensor, Float8Tensor, MXTensor and NVFP4Tensor", quote(w.class))
	}
	if err != nil {
		return err
	}
	t := &w.g.made[len(w.g.made)-1]
	for _, name := range w.arrays { // scales of inputs
		if _, taken := w.g.owner[w.prefix+name]; !taken {
			if w.g.by[w.prefix+name] == nil {
				return corrupt(w.where, "array %s is missing", quote(w.prefix+name))
			}
			w.g.extra(w.prefix + name)
		}
	}
	t.Act, t.grid, t.Unrounded, err = w.inputs()
	return err
}

func (w *aoWeight) has(name string) bool { return slices.Contains(w.arrays, name) }

// need finds an array of the weight.
func (w *aoWeight) need(name string, dtypes ...string) (*array, error) {
	if !w.has(name) {
		return nil, corrupt(w.where, "_tensor_data_names has no %s", quote(name))
	}
	return w.g.need(w.prefix+name, dtypes...)
}

// text is an attribute that is a text, also wrapped as {"_type", "_data"}; "" for none.
func (o object) text(name string) string {
	v := o.get(name)
	if own, ok := v.(object); ok {
		v = own.get("_data")
	}
	s, _ := v.(string)
	return s
}

// sizes is an attribute that is a list of so many sizes.
func (w *aoWeight) sizes(name string, n int) ([]int64, error) {
	list, _ := w.data.get(name).([]any)
	var out []int64
	for _, v := range list {
		if d, ok := sizeOf(v); ok && d > 0 {
			out = append(out, d)
		}
	}
	if len(out) != n || len(list) != n {
		return nil, corrupt(w.where, "%s is %v, expected %d sizes above 0", name, w.data.get(name), n)
	}
	return out, nil
}

// grid is how scales lie on a weight, by its block_size, and the shape that they must have.
func (w *aoWeight) grid(q *array) (g scaleGrid, scales []int64, err error) {
	last := len(q.shape) - 1
	if last != 1 && last != 2 {
		return g, nil, w.g.errShape(q)
	}
	block, err := w.sizes("block_size", len(q.shape))
	if err != nil {
		return g, nil, err
	}
	g = scaleGrid{run: 1, group: -1}
	whole := true // all rows of a block are all there are, or those of one matrix
	for i, b := range block {
		if q.shape[i] < 1 || q.shape[i]%b != 0 {
			return g, nil, corrupt(w.where, "block_size is %v, which does not divide the shape %v", block, q.shape)
		}
		scales = append(scales, q.shape[i]/b)
		if i < last {
			whole = whole && b == q.shape[i]
			g.run *= int(b)
		}
	}
	if last == 2 && block[0] != 1 && !whole {
		return g, nil, unsupported(w.where, "", "block_size is %v; blocks of some of several matrices are not read", block)
	}
	if block[last] < q.shape[last] {
		g.group = int32(block[last])
	}
	return g, scales, nil
}

// scaled are codes of a type, a byte each, with the scales of their blocks, how those lie,
// and their shape.
func (w *aoWeight) scaled(typ string) (q, scale *array, g scaleGrid, scales []int64, err error) {
	if q, err = w.need("qdata", typ); err != nil {
		return
	}
	if scale, err = w.need("scale", "F32", "BF16", "F16"); err != nil {
		return
	}
	if g, scales, err = w.grid(q); err == nil {
		err = shaped(scale, scales...)
	}
	return
}

// intx reads integers of 1 to 8 bits, a byte each.
func (w *aoWeight) intx() error {
	var bits int64
	if _, err := fmt.Sscanf(w.data.text("target_dtype"), "int%d", &bits); err != nil || bits < 1 || bits > 8 {
		return corrupt(w.where, "target_dtype is %v, expected int1 to int8", w.data.get("target_dtype"))
	}
	if z := w.g.by[w.prefix+"zero_point"]; z != nil && z.dtype != "I8" {
		return unsupported(w.where, "quantize the model with zero points that are integers", "zero points of type %s are not read", z.dtype)
	}
	return w.ints(bits)
}

// ints reads codes a byte each, with scales and zero points of their blocks.
func (w *aoWeight) ints(bits int64) error {
	q, scale, grid, scales, err := w.scaled("I8")
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: widen(bits, q.shape[len(q.shape)-1]), Group: grid.group, Scale: scaleKind(scale)}
	roles, arrays := []string{"int8", "scale"}, []*array{q, scale}
	if w.has("zero_point") {
		zero, err := w.need("zero_point", "I8")
		if err == nil {
			err = shaped(zero, scales...)
		}
		if err != nil {
			return err
		}
		if !w.sym { // else reading checks that they are zero
			typ.Flags = dtype.Zero
		}
		roles, arrays = append(roles, "zero8"), append(arrays, zero)
	}
	return w.g.add(w.name, typ, q.shape, roles, arrays, ctCodes{grid: grid}.load)
}

// float8 reads 8-bit floats with scales of their blocks.
func (w *aoWeight) float8() error {
	q, scale, grid, _, err := w.scaled("F8_E4M3")
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.F8E4M3, Group: grid.group, Scale: scaleKind(scale)}
	return w.g.add(w.name, typ, q.shape, []string{"codes", "scale"}, []*array{q, scale}, importFloats(grid))
}

// matrix is the shape that a packed weight says, and its columns that share a scale.
func (w *aoWeight) matrix() (rows, cols, group int64, err error) {
	shape, err := w.sizes("shape", 2)
	if err != nil {
		return 0, 0, 0, unsupported(w.where, "", "%w; several matrices in one are not read in this packing", err)
	}
	block, err := w.sizes("block_size", 2)
	if err == nil && (block[0] != 1 || shape[1]%2 != 0) {
		err = corrupt(w.where, "block_size is %v of a matrix %v, expected groups of the columns of a row", block, shape)
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return shape[0], shape[1], block[1], nil
}

// int4 reads two codes a byte, scales and zero points that are floats.
func (w *aoWeight) int4() error {
	rows, cols, group, err := w.matrix()
	if err != nil {
		return err
	}
	q, err := w.need("qdata", "I8", "U8")
	if err != nil {
		return err
	}
	scale, err := w.need("scale", "BF16", "F16", "F32")
	if err != nil {
		return err
	}
	zero, err := w.need("zero_point", scale.dtype)
	if err == nil && cols%group != 0 {
		err = corrupt(w.where, "groups of %d do not divide %d columns", group, cols)
	}
	if err == nil {
		err = shaped(q, rows, cols/2)
	}
	for _, a := range []*array{scale, zero} {
		if err == nil {
			err = shaped(a, cols/group, rows)
		}
	}
	if err != nil {
		return err
	}
	return w.g.add(w.name, dtype.Of(scaleKind(scale)), []int64{rows, cols}, []string{"codes", "scale", "zero"}, []*array{q, scale, zero}, importInt4(int(group)))
}

// int4Tiles reads codes in the order of a GPU's tiles, of a matrix that is filled up to
// whole tiles, with pairs of scale and zero point.
func (w *aoWeight) int4Tiles() error {
	rows, cols, group, err := w.matrix()
	if err != nil {
		return err
	}
	q, err := w.need("qdata", "I32")
	if err != nil {
		return err
	}
	pairs, err := w.need("scale_and_zero", "BF16")
	if err != nil {
		return err
	}
	if len(q.shape) != 4 || q.shape[1] < 1 || q.shape[2] != 32 || !slices.Contains([]int64{1, 2, 4}, q.shape[3]) {
		return corrupt(q.src.path, "tensor %s has shape %v, expected [rows/8, columns/16/k, 32, k/2], k 2, 4 or 8", quote(q.name), q.shape)
	}
	full := q.shape[1] * q.shape[3] * 32
	if q.shape[0] != (rows+7)/8 || full < cols || full%group != 0 {
		return corrupt(w.where, "qdata %v in groups of %d is no matrix of %d×%d", q.shape, group, rows, cols)
	}
	if err := shaped(pairs, full/group, q.shape[0]*8, 2); err != nil {
		return err
	}
	load := importInt4Tiles(tiles{rows: int(q.shape[0]) * 8, across: int(q.shape[1]), deep: int(q.shape[3]), group: int(group)})
	return w.g.add(w.name, dtype.Of(dtype.BF16), []int64{rows, cols}, []string{"codes", "pairs"}, []*array{q, pairs}, load)
}

// swizzled checks the shape of scales, which may lie in the order of a GPU's tiles (then
// they are of a matrix that is filled up), and returns how to put them in that of rows.
func (w *aoWeight) swizzled(scale *array, rows, cols int64) (func([]byte) []byte, error) {
	is, err := w.g.boolean("is_swizzled_scales of "+w.name, w.data.get("is_swizzled_scales"), false)
	if err != nil {
		return nil, err
	}
	if !is {
		return func(b []byte) []byte { return b }, shaped(scale, rows, cols)
	}
	return func(b []byte) []byte { return unswizzle(b, int(rows), int(cols)) }, shaped(scale, (rows+127)/128*32, (cols+3)/4*16)
}

// floats reads codes of MXFP8, MXFP4 or NVFP4, of per values with one scale each.
func (w *aoWeight) floats(kind dtype.Kind, per int64, scaleType string) (*array, *array, []int64, func([]byte) []byte, error) {
	if n, _ := sizeOf(w.data.get("block_size")); n != per {
		return nil, nil, nil, nil, unsupported(w.where, "", "block_size is %v, %d is read", w.data.get("block_size"), per)
	}
	codes := []string{"U8", "F4"}
	if kind == dtype.F8E4M3 {
		codes = []string{"F8_E4M3"}
	}
	q, err := w.need("qdata", codes...)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	scale, err := w.need("scale", scaleType)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	if len(q.shape) != 2 {
		return nil, nil, nil, nil, w.g.errShape(q)
	}
	shape := slices.Clone(q.shape)
	if q.dtype == "U8" {
		shape[1] *= 2
	}
	if shape[1]%per != 0 {
		return nil, nil, nil, nil, w.g.errShape(q)
	}
	order, err := w.swizzled(scale, shape[0], shape[1]/per)
	return q, scale, shape, order, err
}

func (w *aoWeight) mx() error {
	elem := w.data.text("elem_dtype")
	kind := map[string]dtype.Kind{"float8_e4m3fn": dtype.F8E4M3, "float4_e2m1fn_x2": dtype.F4E2M1}[elem]
	if kind == 0 {
		return unsupported(w.where, "", "elem_dtype is %s; float8_e4m3fn and float4_e2m1fn_x2 are read", quote(elem))
	}
	q, scale, shape, order, err := w.floats(kind, 32, "F8_E8M0")
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: kind, Group: 32, Scale: dtype.F8E8M0}
	return w.g.add(w.name, typ, shape, []string{"codes", "scale"}, []*array{q, scale}, importOrdered(order))
}

func (w *aoWeight) nvfp4() error {
	q, scale, shape, order, err := w.floats(dtype.F4E2M1, 16, "F8_E4M3")
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3}
	roles, arrays := []string{"codes", "scale"}, []*array{q, scale}
	if w.has("per_tensor_scale") {
		all, err := w.need("per_tensor_scale", "F32")
		if err != nil {
			return err
		}
		if n, ok := product(all.shape); !ok || n != 1 {
			return w.g.errShape(all)
		}
		typ.Flags = dtype.Nested
		roles, arrays = append(roles, "global"), append(arrays, all)
	}
	return w.g.add(w.name, typ, shape, roles, arrays, importOrdered(order))
}

// inputs is what a weight says of the inputs of its product, as activations does.
func (w *aoWeight) inputs() (t dtype.Type, grid inputGrid, left string, err error) {
	kwargs, _ := w.data.get("act_quant_kwargs").(object)
	args, _ := kwargs.get("_data").(object)
	switch {
	case w.class == "IntxUnpackedToInt8Tensor":
		switch v := w.data.get("activation_quantization"); v {
		case nil:
		case "int8_asym_per_token":
			t = dtype.Type{Kind: dtype.Int8, Group: -1, Flags: dtype.Zero}
		default:
			left = fmt.Sprintf("as torchao's %v has it", v)
		}
	case w.class == "Int4Tensor":
		switch a := w.data.text("activation_dtype"); a {
		case "", "bfloat16":
		case "float8_e4m3fn":
			t = ActFP8
		default:
			left = "to " + a
		}
	case kwargs == nil:
	case w.class == "Int8Tensor":
		t, grid, left = w.int8Inputs(args)
	case w.class == "Float8Tensor":
		t, left = float8Inputs(args)
	case w.class == "MXTensor":
		left = args.text("elem_dtype") + ", dynamic, by groups of 32, scales powers of two"
	default:
		left = "4-bit float, dynamic, by groups of 16, as NVFP4 has it"
	}
	return t, grid, left, nil
}

// aoGranularity is what shares a scale, in words, and the group of a type for tokens and for all of them; 0 for others.
func aoGranularity(args object) (by string, group int32) {
	per, _ := args.get("granularity").(object)
	data, _ := per.get("_data").(object)
	switch class := per.get("_type"); class {
	case "PerTensor":
		return "by tensor", dtype.AllRows
	case "PerRow":
		if dim := data.get("dim"); dim == nil || dim == json.Number("-1") {
			return "by token", -1
		}
		return "by token", 0
	case "PerBlock":
		return fmt.Sprintf("by blocks of %v", data.get("block_size")), 0
	default:
		return fmt.Sprintf("by %v", class), 0
	}
}

// int8Inputs is how the inputs of an Int8Tensor are rounded.
func (w *aoWeight) int8Inputs(args object) (t dtype.Type, grid inputGrid, left string) {
	by, group := aoGranularity(args)
	asymmetric, measured := args.text("mapping_type") == "ASYMMETRIC", w.has("act_quant_scale")
	scale, zero := w.prefix+"act_quant_scale", w.prefix+"act_quant_zero_point"
	t = ActInt8
	switch {
	case args.get("reduce_range") == true:
		return dtype.Type{}, grid, "8-bit integer, " + by + ", half of its range"
	case measured && w.g.single(scale) && (!asymmetric || w.has("act_quant_zero_point") && w.g.single(zero)):
		if grid[0] = scale; asymmetric {
			grid[1] = zero
		}
	case measured:
		return dtype.Type{}, grid, "8-bit integer, " + by + ", scales measured beforehand"
	case group == 0:
		return dtype.Type{}, grid, "8-bit integer, dynamic, " + by
	default:
		if t.Group = group; asymmetric {
			t.Flags = dtype.Zero
		}
	}
	return t, grid, ""
}

// float8Inputs is how the inputs of a Float8Tensor are rounded.
func float8Inputs(args object) (t dtype.Type, left string) {
	by, group := aoGranularity(args)
	switch kind := args.text("float8_dtype"); {
	case kind != "float8_e4m3fn":
		return t, kind + ", dynamic, " + by
	case args.get("hp_value_lb") != nil || args.get("hp_value_ub") != nil:
		return t, "8-bit float, dynamic, " + by + ", scales with a bound"
	case group != 0:
		return dtype.Type{Kind: dtype.F8E4M3, Group: group}, ""
	case by == "by blocks of [1 128]":
		return actFP8Groups(128), ""
	}
	return t, "8-bit float, dynamic, " + by
}
