package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// qwen3VL is the half of Qwen3-VL that reads text: Qwen3, whose rotary angles come from
// three positions in turn, which are the same one in text. A folder written from a GGUF is
// a Qwen3.
var qwen3VL = Arch{
	Name: "qwen3_vl_text", GGUF: "qwen3vl",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "128000", "num_key_value_heads": "32", "head_dim": "128", "default_theta": "500000"})
		bias := c.Bool(false, "attention_bias")
		s, err := rotatedSpec(c, "qwen3_vl_text", c.turnRope, func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = PerHead, bias, bias })
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.qwen3VL("qwen3_vl_text", m)
		return s, cmp.Or(err, m.err)
	},
	Rules:  func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:     func(s *Spec) []formats.KV { return append(decoderKV(s, "qwen3vl"), s.seesKV("qwen3vl")...) },
	Config: qwen3.Config,
}

// qwen3VLMoE is the same with experts, which its folders have as matrices [in, out], and
// those that Transformers 5 saved as [out, in].
var qwen3VLMoE = Arch{
	Name: "qwen3_vl_moe_text", GGUF: "qwen3vlmoe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "128000", "num_key_value_heads": "16", "default_theta": "500000", "num_experts": "60", "num_experts_per_tok": "4", "moe_intermediate_size": "1408"})
		bias := c.Bool(false, "attention_bias")
		s, err := rotatedSpec(c, "qwen3_vl_moe_text", c.turnRope, func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = PerHead, bias, bias })
		s.withExperts(MoE{E: c.Int(-1, "num_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"),
			Route: kernels.RouteArgs{Renorm: true}}, c.sparseSteps())
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := qwen3moe.GGUFSpec(m)
		s.qwen3VL("qwen3_vl_moe_text", m)
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule {
		if s.Whole == (Whole{}) { // of a GGUF: see Config
			return qwen3moe.Rules(s)
		}
		names := usualNames
		names.experts.gate, names.experts.up, names.experts.down = "mlp.experts.gate_up_proj", "", "mlp.experts.down_proj"
		names.experts.transposed, names.experts.eitherWay = true, true
		return namedRules(s, false, names)
	},
	KV:     func(s *Spec) []formats.KV { return append(decoderKV(s, "qwen3vlmoe"), s.seesKV("qwen3vlmoe")...) },
	NoGGUF: qwen3moe.NoGGUF,
	Config: qwen3moe.Config,
}

// turnRope reads the table of angles, of which three positions take turns.
func (c *Config) turnRope(d, maxPos int) []RopeSpec {
	r := c.Rope(d, maxPos)
	r.Sections = []int{24, 20, 20}
	if rule := c.ropeRule(); rule != nil && rule.has("mrope_section") {
		r.Sections, _ = get[[]int](rule, "mrope_section")
		c.err = cmp.Or(c.err, rule.err)
	}
	if len(r.Sections) != 3 {
		c.fail("rope_parameters", "mrope_section is %v, want three numbers", r.Sections)
	}
	return []RopeSpec{r}
}

// qwen3VL reads what a GGUF of the half of a larger model says more.
func (s *Spec) qwen3VL(name string, m *Metadata) {
	s.Arch, s.Deep = name, m.Int(0, "n_deepstack_layers")
	if list, ok := ints(m.kv[m.prefix+".rope.dimension_sections"]); ok && len(list) >= 3 && len(s.Ropes) > 0 {
		s.Ropes[0].Sections = list[:3]
	}
}

// seesKV are the keys of that below prefix p.
func (s *Spec) seesKV(p string) []formats.KV {
	sections := make([]int32, 4) // of time, height, width, and none
	for i, n := range s.rope().Sections {
		sections[i] = int32(n)
	}
	return []formats.KV{{Key: p + ".rope.dimension_sections", Value: sections}, {Key: p + ".n_deepstack_layers", Value: uint32(s.Deep)}}
}
