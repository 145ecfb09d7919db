package formats

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Folders of compressed-tensors and of FP8 may say that the inputs of a linear map
// are rounded, too. A type says how: integers or 8-bit floats, one scale a row, that
// is a token, or one a group of columns, taken from the row itself, or one for all rows of
// a product, or one for all that was measured beforehand.

// Types of activations.
var (
	ActInt8 = dtype.Type{Kind: dtype.Int8, Group: -1}
	ActFP8  = dtype.Type{Kind: dtype.F8E4M3, Group: -1}
	// ActFP8Block has a scale for the columns of a block of weights in 8-bit floats.
	ActFP8Block = dtype.Type{Kind: dtype.F8E4M3, Group: block.FloatRows}
)

// inputGrid names the arrays that hold the scale and the zero point of inputs, "" for none.
type inputGrid [2]string

// activations is what a module's inputs of so many columns are rounded to, the zero
// Type for not at all, and the arrays that hold scale and zero point where one of each was measured beforehand. Where that is not done here,
// left says in words what the folder wants.
func (g *grouper) activations(module string, cols int64) (t dtype.Type, grid inputGrid, left string, err error) {
	if g.modelopt() {
		if t, grid, left := g.modeloptInputs(module); left == "" {
			return t, grid, "", nil
		}
	}
	group, err := g.configGroup(module)
	in, _ := group.get("input_activations").(object)
	if in == nil {
		if err == nil && group == nil {
			err = g.needGroup(module)
		}
		switch out, _ := group.get("output_activations").(object); {
		case err != nil:
			return t, grid, "", err
		case out != nil:
			return t, grid, "not those, but the outputs", nil
		}
		return g.schemeActivations(module, cols)
	}
	// what is left out has a default
	dynamic, _ := in.get("dynamic").(bool)
	asymmetric := in.get("symmetric") == false
	bits, ok := sizeOf(in.get("num_bits"))
	if !ok && in.get("num_bits") == nil {
		bits = 8
	}
	kind, _ := in.get("type").(string)
	kind = cmp.Or(strings.ToLower(kind), "int")
	group8, _ := sizeOf(in.get("group_size"))
	strategy, _ := in.get("strategy").(string)
	if strategy = strings.ToLower(strategy); strategy == "" {
		switch {
		case group8 > 0:
			strategy = "group"
		case in.get("group_size") == nil:
			strategy = "tensor"
		default: // -1
			strategy = "channel"
		}
	}
	scales, _ := in.get("scale_dtype").(string)
	scales = strings.TrimPrefix(scales, "torch.")
	if slices.Contains([]string{"float32", "float16", "bfloat16"}, scales) {
		scales = ""
	}
	whole := group8 > 0 && cols%group8 == 0
	outputs := group.get("output_activations") != nil
	if typ, ok := roundedTo(kind, bits, asymmetric); ok && scales == "" && !outputs {
		switch measured := in.get("dynamic") == false || in.get("dynamic") == nil; {
		case dynamic && strategy == "token":
			typ.Group = -1
			return typ, grid, "", err
		case dynamic && strategy == "tensor":
			typ.Group = dtype.AllRows
			return typ, grid, "", err
		case dynamic && strategy == "group" && whole:
			typ.Group = int32(group8)
			return typ, grid, "", err
		case measured && strategy == "tensor" && g.single(module+".input_scale"):
			typ.Group, typ.Flags = -1, 0
			grid[0] = module + ".input_scale"
			if zero := module + ".input_zero_point"; asymmetric && g.single(zero) {
				grid[1] = zero
			}
			if !asymmetric || grid[1] != "" {
				return typ, grid, "", err
			}
		}
	}
	words := []string{fmt.Sprintf("%d-bit %s", bits, kind), "by " + strategy}
	if asymmetric {
		words = append(words, "asymmetric")
	}
	if scales != "" {
		words = append(words, "scales of type "+scales)
	}
	if d := in.get("dynamic"); d == false || d == nil {
		words = append(words, "scales measured beforehand")
	}
	if outputs {
		words = append(words, "and the outputs")
	}
	return dtype.Type{}, inputGrid{}, strings.Join(words, ", "), err
}

// roundedTo is the type of inputs rounded to a kind of numbers, without a group.
func roundedTo(kind string, bits int64, asymmetric bool) (t dtype.Type, ok bool) {
	switch {
	case kind == "int" && bits == 8:
		t.Kind = dtype.Int8
	case kind == "int" && bits == 4:
		t.Kind = dtype.Int4
	case kind == "float" && bits == 8 && !asymmetric:
		t.Kind = dtype.F8E4M3
	default:
		return t, false
	}
	if asymmetric {
		t.Flags = dtype.Zero
	}
	return t, true
}

// single reports whether there is an array of this name with one value.
func (g *grouper) single(name string) bool {
	a := g.by[name]
	if a == nil || len(a.shape) > 2 {
		return false
	}
	n, ok := product(a.shape)
	return ok && n == 1
}

// byteScales reports whether the scales of a module of method fp8 are exponents in bytes,
// which makes it MXFP8.
func (g *grouper) byteScales(module string) bool {
	for _, name := range []string{".weight_scale_inv", ".weight_scale", ".scale"} {
		if a := g.by[module+name]; a != nil {
			return a.dtype == "U8"
		}
	}
	return false
}

// InputGrid is the scale and the zero point, in signed codes, on which Act rounds where they were measured beforehand; 0 and 0
// where they are not. Where they are numbers on which nothing can be rounded, left says
// in words what was found. It reads a number or two, and err is of reading alone.
func (t *Tensor) InputGrid() (scale, zero float32, left string, err error) {
	for i, name := range t.grid {
		if name == "" {
			continue
		}
		k := slices.IndexFunc(t.Parts, func(p Part) bool { return p.Name == name })
		p := &t.Parts[k]
		b, err := p.read()
		if err != nil {
			return 0, 0, "", err
		}
		v, ok := oneNumber(p.DType, b)
		what := [...]string{"scale", "zero point"}[i]
		switch {
		case !ok:
			return 0, 0, fmt.Sprintf("a %s measured beforehand of type %s", what, p.DType), nil
		case v-v != 0 || i == 0 && v <= 0:
			return 0, 0, fmt.Sprintf("a %s measured beforehand that is %v", what, v), nil
		}
		if i == 0 {
			scale = v
		} else {
			zero = v
		}
	}
	return scale, zero, "", nil
}

// oneNumber is the value of an array of one.
func oneNumber(typ string, b []byte) (float32, bool) {
	out := make([]float32, 1)
	switch typ {
	case "F32":
		block.GetF32(out, b)
	case "BF16":
		block.GetBF16(out, b)
	case "F16":
		block.GetF16(out, b)
	case "I8":
		out[0] = float32(int8(b[0]))
	case "I32":
		out[0] = float32(int32(binary.LittleEndian.Uint32(b)))
	case "I64":
		out[0] = float32(int64(binary.LittleEndian.Uint64(b)))
	default:
		return 0, false
	}
	return out[0], true
}

// actFP8Groups is ActFP8 with a scale for every n columns.
func actFP8Groups(n int64) dtype.Type { return dtype.Type{Kind: dtype.F8E4M3, Group: int32(n)} }

// schemeActivations is activations of methods that have one scheme for all modules.
func (g *grouper) schemeActivations(module string, cols int64) (t dtype.Type, grid inputGrid, left string, err error) {
	none := dtype.Type{}
	switch m, _ := g.config.get("quant_method").(string); m {
	case "fp8":
		return g.fp8Activations(module, cols)
	case "mxfp8":
		return none, grid, "8-bit float, dynamic, by groups of 32, scales powers of two", nil
	case "fbgemm_fp8":
		return none, grid, "8-bit float, dynamic, by token, scales with a bound", nil
	case "modelopt", "modelopt_fp4", "modelopt_mixed":
		t, grid, left = g.modeloptInputs(module)
		return t, grid, left, nil
	case "quark":
		t, grid, left = g.quark(module)
		return t, grid, left, nil
	case "auto-round", "intel/auto-round":
		bits, ok, err := g.numberOf(module, "act_bits")
		if err != nil {
			return none, grid, "", err
		}
		if ok && bits <= 8 {
			kind, _ := g.config.get("act_data_type").(string)
			return none, grid, fmt.Sprintf("%d-bit %s of AutoRound", bits, cmp.Or(kind, "int")), nil
		}
	}
	return none, grid, "", nil
}

// fp8Activations is those of the method fp8: a scale a token, or one for the columns of a
// block of weights.
func (g *grouper) fp8Activations(module string, cols int64) (t dtype.Type, grid inputGrid, left string, err error) {
	scheme, _ := g.config.get("activation_scheme").(string)
	scheme = cmp.Or(strings.ToLower(scheme), "dynamic") // as Transformers reads it
	scales, _ := g.config.get("scale_fmt").(string)
	none := dtype.Type{}
	block, err := g.blockSize(nil)
	if err != nil {
		return none, grid, "", err
	}
	switch {
	case g.config.get("weight_scale_semantics") != nil: // of GPTQModel, which rounds weights alone
		return none, grid, "", nil
	case g.byteScales(module): // MXFP8, whatever the blocks of other weights
		return none, grid, "8-bit float, dynamic, by groups of 32, scales powers of two", nil
	case scheme == "static":
		for _, name := range []string{module + ".activation_scale", module + ".input_scale"} { // of Transformers, of others
			if g.single(name) {
				return ActFP8, inputGrid{name}, "", nil
			}
		}
		return none, grid, "8-bit float, static, scales measured beforehand", nil
	case scheme != "dynamic":
		return none, grid, "8-bit float, " + scheme, nil
	case scales == "ue8m0":
		return none, grid, "8-bit float, dynamic, scales rounded up to powers of two", nil
	case scales != "" && scales != "float":
		return none, grid, "8-bit float, dynamic, scales of type " + quote(scales), nil
	case block == nil:
		return ActFP8, grid, "", nil
	case cols%block[1] == 0:
		return actFP8Groups(block[1]), grid, "", nil
	default:
		return none, grid, fmt.Sprintf("8-bit float, groups of %d that do not divide %d columns", block[1], cols), nil
	}
}

// configGroup is the group of a configuration that a module belongs to: one that
// names it goes before one whose expression matches, and that before the class
// Linear; of expressions the first in the order of their characters, and of one target in two
// groups the last, as compressed-tensors sorts them. What it says of weights and inputs are objects, or null.
func (g *grouper) configGroup(module string) (object, error) {
	groups, _ := g.config.get("config_groups").(object)
	best, rank, target := object(nil), 0, ""
	for _, m := range groups {
		group, _ := m.Value.(object)
		targets, _ := group.get("targets").([]any)
		for _, t := range targets {
			name, _ := t.(string)
			r, err := targetRank(name, module)
			if err != nil {
				return nil, unsupported(g.where, "", "quantization_config.config_groups: target %s is no regular expression that can be read: %v", quote(name), err)
			}
			if r > rank || r > 0 && r == rank && name <= target {
				best, rank, target = group, r, name
			}
		}
	}
	return best, nil
}

// checkGroups refuses a config_groups whose values have other types than
// compressed-tensors takes: what cannot be read would be taken as not said.
func (g *grouper) checkGroups() error {
	groups, _ := g.config.get("config_groups").(object)
	for _, m := range groups {
		group, ok := m.Value.(object)
		if !ok {
			return corrupt(g.where, "quantization_config.config_groups.%s is %s, expected an object", m.Key, kindOf(m.Value))
		}
		targets, ok := group.get("targets").([]any)
		if notText := func(t any) bool { _, ok := t.(string); return !ok }; !ok || slices.ContainsFunc(targets, notText) {
			return corrupt(g.where, "quantization_config.config_groups.%s.targets is %v, expected an array of names", m.Key, group.get("targets"))
		}
		for _, name := range []string{"weights", "input_activations", "output_activations"} {
			args, ok := group.get(name).(object)
			if v := group.get(name); !ok && v != nil {
				return corrupt(g.where, "quantization_config.config_groups.%s: %s is %s, expected an object or null", m.Key, name, kindOf(v))
			}
			if err := g.checkArgs("config_groups."+m.Key+"."+name+".", args); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkArgs checks the types of what a group says of weights or of inputs.
func (g *grouper) checkArgs(where string, args object) error {
	var errs []error
	for _, name := range []string{"num_bits", "group_size"} {
		if v := args.get(name); v != nil {
			_, _, err := g.whole(where+name, v)
			errs = append(errs, err)
		}
	}
	for _, name := range []string{"type", "strategy", "scale_dtype"} {
		_, err := g.text(where+name, args.get(name))
		errs = append(errs, err)
	}
	_, err := g.boolean(where+"symmetric", args.get("symmetric"), true)
	if errs = append(errs, err); args.get("dynamic") != "local" {
		_, err = g.boolean(where+"dynamic", args.get("dynamic"), false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// needGroup refuses a weight of compressed-tensors that no group is for, where it cannot
// be known whether its inputs are rounded.
func (g *grouper) needGroup(module string) error {
	groups, _ := g.config.get("config_groups").(object)
	rounds := func(m member) bool { group, _ := m.Value.(object); return group.get("input_activations") != nil }
	if m, _ := g.config.get("quant_method").(string); m != "compressed-tensors" || len(groups) > 0 && !slices.ContainsFunc(groups, rounds) {
		return nil
	}
	return corrupt(g.where, "module %s is quantized, but no target of quantization_config.config_groups is for it, so that it is not known whether its inputs are rounded", quote(module))
}

func targetRank(target, module string) (int, error) {
	expr, isExpr := strings.CutPrefix(target, "re:")
	switch {
	case target == module:
		return 3, nil
	case target == "Linear":
		return 1, nil
	case !isExpr:
		return 0, nil
	}
	re, err := regexp.Compile("^(?:" + expr + ")")
	if err == nil && re.MatchString(module) {
		return 2, nil
	}
	return 0, err
}

// ctActivations is the input_activations of a configuration, nil for none.
func ctActivations(t dtype.Type) any {
	kind, strategy, size := "", "token", any(nil)
	switch t {
	case ActInt8:
		kind = "int"
	case ActFP8:
		kind = "float"
	case ActFP8Block:
		kind, strategy, size = "float", "group", int(t.Group)
	default:
		return nil
	}
	return object{
		{"actorder", nil}, {"block_structure", nil}, {"dynamic", true}, {"group_size", size}, {"num_bits", 8},
		{"observer", nil}, {"observer_kwargs", object{}}, {"strategy", strategy}, {"symmetric", true}, {"type", kind},
	}
}

// ctFormat is how compressed-tensors calls the way a type is stored.
func ctFormat(g typeGroup) string {
	switch {
	case g.typ.Kind == dtype.F4E2M1 && g.typ.Scale == dtype.F8E8M0:
		return "mxfp4-pack-quantized"
	case g.typ.Kind == dtype.F4E2M1:
		return "nvfp4-pack-quantized"
	case g.typ.Kind == dtype.F8E4M3:
		return "float-quantized"
	case g.act != dtype.Type{}:
		return "int-quantized"
	}
	return "pack-quantized"
}

// ctFormats is the format of a whole folder.
func ctFormats(groups []typeGroup) string {
	f := ctFormat(groups[0])
	if slices.ContainsFunc(groups, func(g typeGroup) bool { return ctFormat(g) != f }) {
		return "mixed-precision"
	}
	return f
}
