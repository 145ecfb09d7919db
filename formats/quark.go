package formats

import (
	"path"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Configurations of Quark.

// quarkWeights is how Quark's configuration says that the weights of a module share
// scales, in the words of compressed-tensors; nil where it does not say.
func (g *grouper) quarkWeights(module string) (object, error) {
	entry, err := g.quarkEntry(module)
	if err != nil {
		return nil, err
	}
	v := entry.get("weight")
	if list, ok := v.([]any); ok && len(list) == 1 {
		v = list[0]
	}
	w, ok := v.(object)
	if !ok && v != nil {
		return nil, unsupported(g.where, "quantize weights once", "quantization_config: weight of %s is %s; one object is read", quote(module), kindOf(v))
	}
	axis := w.get("ch_axis")
	if axis != nil {
		if axis, _, err = g.whole("weight.ch_axis", axis); err != nil {
			return nil, err
		}
	}
	is := func(a, b int64) bool { return axis == nil || axis == a || axis == b }
	kind, _ := w.get("dtype").(string)
	switch scheme := w.get("qscheme"); {
	case scheme == nil:
		return nil, nil
	case scheme == "per_tensor":
		return object{{"strategy", "tensor"}}, nil
	case scheme == "per_channel" && is(0, -2):
		return object{{"strategy", "channel"}}, nil
	case scheme == "per_group" && is(1, -1) && !strings.Contains(kind, "int"): // whose codes and scales are transposed
		return object{{"strategy", "group"}, {"group_size", w.get("group_size")}}, nil
	case scheme == "per_block":
		return object{{"strategy", "block"}, {"block_structure", w.get("block_size")}}, nil
	default:
		return nil, unsupported(g.where, "per_tensor, per_channel by rows, per_group of floats by columns and per_block are read",
			"quantization_config: the weight of %s has qscheme %v, dtype %s and ch_axis %v", quote(module), scheme, quote(kind), w.get("ch_axis"))
	}
}

// quarkEntry is what Quark's configuration says of a module: under the first pattern that its
// name fits, under its class, or of all.
func (g *grouper) quarkEntry(module string) (object, error) {
	layers, _ := g.config.get("layer_quant_config").(object)
	for _, m := range layers {
		fits, err := path.Match(strings.ReplaceAll(m.Key, "[!", "[^"), module)
		if err != nil {
			return nil, unsupported(g.where, "", "quantization_config.layer_quant_config: %s is no pattern that can be read", quote(m.Key))
		}
		if fits {
			own, _ := m.Value.(object)
			return own, nil
		}
	}
	types, _ := g.config.get("layer_type_quant_config").(object)
	if own, ok := types.get("Linear").(object); ok {
		return own, nil
	}
	own, _ := g.config.get("global_quant_config").(object)
	return own, nil
}

// quark is the inputs of a module in a configuration of Quark that has one rule for all:
// 8-bit floats or integers, symmetric, on a scale measured beforehand, of each token
// (which it calls a dynamic channel) or of all tokens.
func (g *grouper) quark(module string) (t dtype.Type, grid inputGrid, left string) {
	if !g.quarkInputs() {
		return t, grid, ""
	}
	left = "as Quark's configuration has it"
	global, _ := g.config.get("global_quant_config").(object)
	in, _ := global.get("input_tensors").(object)
	empty := func(v any) bool { o, ok := v.(object); return v == nil || ok && len(o) == 0 }
	switch in.get("dtype") {
	case "fp8_e4m3":
		t = ActFP8
	case "int8":
		t = ActInt8
	default:
		return t, grid, left
	}
	plain := empty(g.config.get("layer_quant_config")) && empty(g.config.get("layer_type_quant_config")) && empty(global.get("output_tensors")) &&
		in.get("group_size") == nil && in.get("symmetric") != false && in.get("is_scale_quant") != true && empty(in.get("mx_element_dtype")) && (in.get("scale_type") == nil || in.get("scale_type") == "float")
	scheme, scale := in.get("qscheme"), module+".input_scale"
	switch dynamic := in.get("is_dynamic"); {
	case plain && dynamic == false && scheme == "per_tensor" && g.single(scale):
		if grid[0] = scale; t == ActInt8 && g.single(module+".input_zero_point") {
			grid[1] = module + ".input_zero_point"
		}
		return t, grid, ""
	case plain && dynamic == true && scheme == "per_channel":
		return t, grid, ""
	case plain && dynamic == true && scheme == "per_tensor":
		t.Group = dtype.AllRows
		return t, grid, ""
	}
	return dtype.Type{}, grid, left
}

// quarkInputs reports whether Quark's configuration rounds inputs, of all modules or of some.
func (g *grouper) quarkInputs() bool {
	global, _ := g.config.get("global_quant_config").(object)
	entries := object{{"", global}}
	for _, name := range []string{"layer_quant_config", "layer_type_quant_config"} {
		own, _ := g.config.get(name).(object)
		entries = append(entries, own...)
	}
	return slices.ContainsFunc(entries, func(m member) bool {
		own, _ := m.Value.(object)
		switch v := own.get("input_tensors").(type) {
		case nil:
			return false
		case object:
			return len(v) > 0
		case []any:
			return len(v) > 0
		}
		return true
	})
}

// quarkTurned is the name of an algorithm of Quark that leaves weights whose inputs must
// be turned, "" for none: rotations R1 and R2 lie in the weights, R3 turns queries and keys
// alike, R4 and an R1 that is said to be online are made of the inputs.
func (g *grouper) quarkTurned() string {
	if m, _ := g.config.get("quant_method").(string); m != "quark" {
		return ""
	}
	list, ok := g.config.get("algo_config").([]any)
	if !ok {
		list = []any{g.config.get("algo_config")}
	}
	for _, v := range list {
		o, _ := v.(object)
		name, _ := o.get("name").(string)
		online := o.get("online_r1_rotation")
		if n := strings.ToLower(name); (n == "rotation" || n == "quarot") && (o.get("r4") != false || online != nil && online != false) {
			return name
		}
	}
	return ""
}
