package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func indent(b []byte) []byte {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		panic("formats: own JSON is invalid: " + err.Error())
	}
	return append(out.Bytes(), '\n')
}

func fits(p TensorPlan, cols int) bool { return dtype.Fits(p.Type, cols) }

// floatOf is the dtype a model computes in, as config.json says; bfloat16 when
// it does not.
func floatOf(config []byte) string {
	o, err := parseObject("config.json", config)
	if err != nil {
		return "bfloat16"
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		switch s, _ := o.get(key).(string); s {
		case "float32", "float16", "bfloat16":
			return s
		}
	}
	return "bfloat16"
}

// quantizationConfig makes config.json's quantization_config for the layout, in
// the words of the tool each layout comes from; nil for plain folders.
func quantizationConfig(o FolderOptions) (object, error) {
	if o.Layout == Plain {
		return nil, nil
	}
	groups := typeGroups(o.Plan)
	if len(groups) == 0 {
		return nil, fmt.Errorf("a quantized folder without a quantized tensor")
	}
	var q object
	switch kept := keptLinears(o); o.Layout {
	case GPTQ, GPTQV2:
		q = gptqConfig(groups, kept, otherParts(o), o)
	case CompressedTensors:
		for _, part := range otherParts(o) {
			kept = append(kept, `re:.*`+regexp.QuoteMeta(part)+`\..*`)
		}
		q = ctConfig(groups, kept)
	case AWQ, Bitsandbytes, FP8:
		if len(groups) > 1 {
			a, b := groups[0], groups[1]
			return nil, fmt.Errorf("modules %s and %s have different types, %v and %v; the configuration of %s has room for one: format gptq and compressed-tensors hold several",
				quote(a.modules[0]), quote(b.modules[0]), a.typ, b.typ, o.Layout)
		}
		for _, part := range otherParts(o) { // as the file and as Transformers name it
			kept = append(kept, part, "model."+part)
		}
		switch typ := groups[0].typ; o.Layout {
		case AWQ:
			q = awqConfig(typ, kept)
		case FP8:
			q = fp8Config(typ, kept)
		default:
			q = bnbConfig(typ, kept, o)
		}
	case EXL2:
		q = exl2Config(o.Plan)
	default:
		return nil, fmt.Errorf("unknown folder layout %s: known are %s", quote(o.Layout), strings.Join(Layouts(), ", "))
	}
	if o.Quantization == nil {
		return q, nil
	}
	more, err := parseObject("quantization options", o.Quantization)
	if err != nil {
		return nil, err
	}
	for _, m := range more {
		q = q.set(m.Key, m.Value)
	}
	return q, nil
}

// typeGroup are the modules whose weights have one type.
type typeGroup struct {
	typ, act dtype.Type
	modules  []string
}

// typeGroups sorts the quantized modules of a plan by type, the type of most
// first: it becomes what the configuration says of all, the others exceptions.
func typeGroups(plan []TensorPlan) []typeGroup {
	var groups []typeGroup
	for _, p := range plan {
		if !p.Type.Quantized() {
			continue
		}
		i := slices.IndexFunc(groups, func(g typeGroup) bool { return g.typ == p.Type && g.act == p.Act })
		if i < 0 {
			i, groups = len(groups), append(groups, typeGroup{typ: p.Type, act: p.Act})
		}
		groups[i].modules = append(groups[i].modules, strings.TrimSuffix(p.Name, ".weight"))
	}
	slices.SortStableFunc(groups, func(a, b typeGroup) int { return len(b.modules) - len(a.modules) })
	return groups
}

// keptLinears names the linear modules whose matrix stays unquantized; the head
// always, because a tied one is not in the plan.
func keptLinears(o FolderOptions) []string {
	var kept []string
	head := o.Head != ""
	for _, p := range o.Plan {
		module := strings.TrimSuffix(p.Name, ".weight")
		if module == o.Head {
			head = !p.Type.Quantized()
		} else if p.Linear && p.Part == "" && !p.Type.Quantized() {
			kept = append(kept, module)
		}
	}
	slices.Sort(kept)
	if head {
		kept = append(kept, o.Head)
		if o.HeadToo != "" {
			kept = append(kept, o.HeadToo)
		}
	}
	return kept
}

// otherParts are those of a larger model that stay as they are.
func otherParts(o FolderOptions) []string {
	var parts []string
	for _, p := range o.Plan {
		if p.Part != "" && !slices.Contains(parts, p.Part) {
			parts = append(parts, p.Part)
		}
	}
	return parts
}

// gptqConfig says what is exceptional in GPTQModel's "dynamic": a module by
// regular expression, "-:" left as it is, "+:" with values of its own.
func gptqConfig(groups []typeGroup, kept, parts []string, o FolderOptions) object {
	t := groups[0].typ
	head := !slices.Contains(kept, o.Head)
	q := object{
		{"bits", t.Bits()}, {"checkpoint_format", o.Layout}, {"desc_act", t.Flags&dtype.Perm != 0}, {"format", o.Layout},
		{"group_size", int(t.Group)}, {"lm_head", head}, {"meta", object{{"quantizer", []any{"tunekit"}}}}, {"method", "gptq"},
		{"pack_dtype", "int32"}, {"quant_method", "gptq"}, {"sym", t.Flags&dtype.Zero == 0},
	}
	dynamic := object{}
	for _, k := range kept {
		if k != o.Head && k != o.HeadToo {
			dynamic = append(dynamic, member{"-:^" + regexp.QuoteMeta(k) + "$", object{}})
		}
	}
	for _, part := range parts {
		dynamic = append(dynamic, member{`-:.*` + regexp.QuoteMeta(part) + `\..*`, object{}})
	}
	for _, g := range groups[1:] {
		own := object{{"bits", g.typ.Bits()}, {"desc_act", g.typ.Flags&dtype.Perm != 0}, {"group_size", int(g.typ.Group)}, {"sym", g.typ.Flags&dtype.Zero == 0}}
		for _, m := range g.modules {
			dynamic = append(dynamic, member{"+:^" + regexp.QuoteMeta(m) + "$", own})
		}
	}
	if len(dynamic) > 0 {
		q = append(q, member{"dynamic", dynamic})
	}
	return q
}

func awqConfig(t dtype.Type, kept []string) object {
	return object{
		{"bits", t.Bits()}, {"group_size", int(t.Group)}, {"modules_to_not_convert", kept}, {"quant_method", "awq"},
		{"version", "gemm"}, {"zero_point", t.Flags&dtype.Zero != 0},
	}
}

// fp8Config is the FineGrainedFP8Config of Transformers.
func fp8Config(t dtype.Type, kept []string) object {
	return object{
		{"activation_scheme", "dynamic"}, {"modules_to_not_convert", kept}, {"quant_method", "fp8"}, {"weight_block_size", []any{block.FloatRows, int(t.Group)}},
	}
}

func ctConfig(groups []typeGroup, kept []string) object {
	config := object{}
	for i, g := range groups {
		targets := []any{"Linear"}
		if i > 0 { // a name goes before a class
			targets = nil
			for _, m := range g.modules {
				targets = append(targets, m)
			}
		}
		group := object{{"input_activations", ctActivations(g.act)}, {"output_activations", nil}, {"targets", targets}, {"weights", ctWeights(g.typ)}}
		if f := ctFormat(g); f != ctFormat(typeGroup{}) {
			group = append(object{{"format", f}}, group...)
		}
		config = append(config, member{fmt.Sprintf("group_%d", i), group})
	}
	return object{
		{"config_groups", config}, {"format", ctFormats(groups)}, {"global_compression_ratio", nil}, {"ignore", kept},
		{"kv_cache_scheme", nil}, {"quant_method", "compressed-tensors"}, {"quantization_status", "compressed"},
	}
}

func ctWeights(t dtype.Type) object {
	strategy, size, shape := "group", any(int(t.Group)), any(nil)
	kind := "int"
	if t.ScaledFloat() {
		kind = "float"
	}
	own := object{}
	switch t { // what is left out of the others is the type of the weights
	case mxfp4:
		own = object{{"scale_dtype", "torch.uint8"}}
	case nvfp4:
		strategy, own = "tensor_group", object{{"scale_dtype", "torch.float8_e4m3fn"}}
	}
	switch {
	case t.Group < 0:
		strategy, size = "channel", nil
	case block.InTiles(t):
		strategy, size, shape = "block", nil, []any{block.FloatRows, int(t.Group)}
	}
	return append(object{
		{"actorder", nil}, {"block_structure", shape}, {"dynamic", false}, {"group_size", size}, {"num_bits", t.Bits()},
		{"observer", "minmax"}, {"observer_kwargs", object{}}, {"strategy", strategy}, {"symmetric", t.Flags&dtype.Zero == 0}, {"type", kind},
	}, own...)
}

// bnbConfig is the BitsAndBytesConfig of Transformers, which refuses a whole
// number for its threshold.
func bnbConfig(t dtype.Type, kept []string, o FolderOptions) object {
	var skip any // null: Transformers leaves the head alone by itself
	if slices.ContainsFunc(kept, func(k string) bool { return k != o.Head && k != o.HeadToo }) {
		skip = kept
	} else if len(kept) == 0 {
		skip = []any{}
	}
	eight, code, float := t.Kind == dtype.Int8, strings.ToLower(t.Kind.String()), floatOf(o.Config)
	if eight { // of 4 bits what is said when nothing is
		code, float = "fp4", "float32"
	}
	return object{
		{"_load_in_4bit", !eight}, {"_load_in_8bit", eight}, {"bnb_4bit_compute_dtype", float}, {"bnb_4bit_quant_storage", "uint8"},
		{"bnb_4bit_quant_type", code}, {"bnb_4bit_use_double_quant", t.Flags&dtype.Nested != 0},
		{"llm_int8_enable_fp32_cpu_offload", false}, {"llm_int8_has_fp16_weight", false}, {"llm_int8_skip_modules", skip},
		{"llm_int8_threshold", json.Number("6.0")}, {"load_in_4bit", !eight}, {"load_in_8bit", eight}, {"quant_method", "bitsandbytes"},
	}
}
