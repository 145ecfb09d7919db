package formats

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Folders of compressed-tensors may say that the inputs of a linear map are
// rounded, too. A type says how: 8-bit integers or floats, one scale a row, that
// is a token, taken from the row itself.

// Types of activations.
var (
	ActInt8 = dtype.Type{Kind: dtype.Int8, Group: -1}
	ActFP8  = dtype.Type{Kind: dtype.F8E4M3, Group: -1}
)

// activations is what a module's inputs are rounded to, the zero Type for not at
// all. Scales that were measured beforehand are not applied.
func (g *grouper) activations(module string) (dtype.Type, error) {
	group, err := g.configGroup(module)
	in, _ := group.get("input_activations").(object)
	dynamic, _ := in.get("dynamic").(bool)
	symmetric, _ := in.get("symmetric").(bool)
	bits, _ := sizeOf(in.get("num_bits"))
	strategy, _ := in.get("strategy").(string)
	if !dynamic || !symmetric || bits != 8 || strategy != "token" {
		return dtype.Type{}, err
	}
	switch kind, _ := in.get("type").(string); kind {
	case "int":
		return ActInt8, err
	case "float":
		return ActFP8, err
	}
	return dtype.Type{}, err
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
