package formats

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Folders of compressed-tensors and of FP8 may say that the inputs of a linear map
// are rounded, too. A type says how: 8-bit integers or floats, one scale a row, that
// is a token, or one a group of columns, taken from the row itself.

// Types of activations.
var (
	ActInt8 = dtype.Type{Kind: dtype.Int8, Group: -1}
	ActFP8  = dtype.Type{Kind: dtype.F8E4M3, Group: -1}
)

// activations is what a module's inputs of so many columns are rounded to, the zero
// Type for not at all. Where that is not done here, as with scales that were measured
// beforehand, left says in words what the folder wants.
func (g *grouper) activations(module string, cols int64) (t dtype.Type, left string, err error) {
	group, err := g.configGroup(module)
	in, _ := group.get("input_activations").(object)
	if in == nil {
		t, left = g.schemeActivations(cols)
		return t, left, err
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
	if dynamic && !asymmetric && bits == 8 && scales == "" {
		switch {
		case strategy == "token" && kind == "int":
			return ActInt8, "", err
		case strategy == "token" && kind == "float":
			return ActFP8, "", err
		case strategy == "group" && kind == "float" && group8 > 0 && cols%group8 == 0:
			return actFP8Groups(group8), "", err
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
	return dtype.Type{}, strings.Join(words, ", "), err
}

// actFP8Groups is ActFP8 with a scale for every n columns.
func actFP8Groups(n int64) dtype.Type { return dtype.Type{Kind: dtype.F8E4M3, Group: int32(n)} }

// schemeActivations is activations of the method fp8, which has one scheme for all
// modules: a scale a token, or one for the columns of a block of weights.
func (g *grouper) schemeActivations(cols int64) (t dtype.Type, left string) {
	method, _ := g.config.get("quant_method").(string)
	scheme, _ := g.config.get("activation_scheme").(string)
	scheme = cmp.Or(strings.ToLower(scheme), "dynamic") // as Transformers reads it
	scales, _ := g.config.get("scale_fmt").(string)
	switch block := g.blockStructure(); {
	case method != "fp8":
		return dtype.Type{}, ""
	case scheme != "dynamic":
		return dtype.Type{}, "8-bit float, " + scheme + ", scales measured beforehand"
	case scales == "ue8m0":
		return dtype.Type{}, "8-bit float, dynamic, scales rounded up to powers of two"
	case scales != "" && scales != "float":
		return dtype.Type{}, "8-bit float, dynamic, scales of type " + quote(scales)
	case len(block) != 2:
		return ActFP8, ""
	case block[1] > 0 && cols%block[1] == 0:
		return actFP8Groups(block[1]), ""
	default:
		return dtype.Type{}, fmt.Sprintf("8-bit float, groups of %d that do not divide %d columns", block[1], cols)
	}
}

// configGroup is the group of a configuration that a module belongs to: one that
// names it goes before one whose expression matches, and that before the class
// Linear.
func (g *grouper) configGroup(module string) (object, error) {
	groups, _ := g.config.get("config_groups").(object)
	best, rank := object(nil), 0
	for _, m := range groups {
		group, _ := m.Value.(object)
		targets, _ := group.get("targets").([]any)
		for _, t := range targets {
			name, _ := t.(string)
			r, err := targetRank(name, module)
			if err != nil {
				return nil, unsupported(g.where, "", "quantization_config.config_groups: target %s is no regular expression that can be read: %v", quote(name), err)
			}
			if r > rank {
				best, rank = group, r
			}
		}
	}
	return best, nil
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
	kind := ""
	switch t {
	case ActInt8:
		kind = "int"
	case ActFP8:
		kind = "float"
	default:
		return nil
	}
	return object{
		{"actorder", nil}, {"block_structure", nil}, {"dynamic", true}, {"group_size", nil}, {"num_bits", 8},
		{"observer", nil}, {"observer_kwargs", object{}}, {"strategy", "token"}, {"symmetric", true}, {"type", kind},
	}
}

// ctFormat is how compressed-tensors calls the way a type is stored.
func ctFormat(g typeGroup) string {
	switch {
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
