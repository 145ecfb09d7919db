package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// glm4moe is GLM 4.5 to 4.7: grouped attention with rotation of a part of each
// head, and the experts of DeepSeek V3.
var glm4moe = Arch{
	Name: "glm4_moe", HF: []string{"Glm4MoeForCausalLM"}, GGUF: "glm4moe", Experts: true, PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "num_key_value_heads": "8", "n_routed_experts": "128", "num_experts_per_tok": "8", "n_shared_experts": "1"})
		return glm4Spec(c, "glm4_moe", 0.5, 1, false)
	},
	GGUFSpec: routedGGUF("glm4_moe"),
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.norms = map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "post_attention_norm"}}
		return namedRules(s, false, names)
	},
	NoGGUF: (*Spec).scattered,
	KV: func(s *Spec) []formats.KV {
		return append(append(decoderKV(s, "glm4moe"), s.routerKV("glm4moe")...), formats.KV{Key: "glm4moe.nextn_predict_layers", Value: uint32(0)})
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		return append(append(decoderConfig(s, "Glm4MoeForCausalLM", "glm4_moe"), s.expertConfig()...), formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "use_qk_norm", Value: a.QKNorm == PerHead}, formats.KV{Key: "partial_rotary_factor", Value: float64(s.rope().Dim) / float64(a.D)})
	},
}

// glm4vMoE is the half of GLM-4.5V and 4.6V that reads text: glm4moe, with biases where its
// config says nothing, and no norms of queries and keys whatever it says.
var glm4vMoE = Arch{
	Name: "glm4v_moe_text",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "65536", "rms_norm_eps": "1e-5", "num_key_value_heads": "8", "n_routed_experts": "128", "num_experts_per_tok": "8", "n_shared_experts": "1",
			"vocab_size": "151424", "hidden_size": "4096", "intermediate_size": "10944", "num_hidden_layers": "46", "num_attention_heads": "96", "moe_intermediate_size": "1408"})
		return glm4Spec(c, "glm4v_moe_text", 0.5, 1, true)
	},
	Rules: glm4moe.Rules,
}

// solaropen is Solar Open: GLM 4.5 whose heads rotate as a whole, without norms of queries
// and keys, and whose layers all have experts. In GGUF both have one name.
var solaropen = Arch{
	Name: "solar_open", HF: []string{"SolarOpenForCausalLM"}, GGUF: "glm4moe", Experts: true, PartRotates: true,
	IsGGUF: func(*Metadata) bool { return false },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "num_key_value_heads": "8", "head_dim": "128", "default_theta": "1e6",
			"n_routed_experts": "128", "num_experts_per_tok": "8", "n_shared_experts": "1"})
		if !c.has("intermediate_size") && c.has("moe_intermediate_size") { // there is no layer without experts
			c.raw["intermediate_size"] = c.raw["moe_intermediate_size"]
		}
		return glm4Spec(c, "solar_open", 1, 0, false)
	},
	GGUFSpec: glm4moe.GGUFSpec,
	Rules:    glm4moe.Rules,
	KV:       glm4moe.KV,
	NoGGUF:   glm4moe.NoGGUF,
	Config:   glm4moe.Config,
}

// glm4Spec reads config.json of GLM 4.5 and its likes, of whose heads share rotates,
// of whose layers the first dense have no experts, and which has biases, unless it says so.
func glm4Spec(c *Config, name string, share float64, dense int, biased bool) (Spec, error) {
	bias, norms := c.Bool(biased, "attention_bias"), c.Bool(false, "use_qk_norm") && name == "glm4_moe"
	s, err := rotatedSpec(c, name, func(d, maxPos int) []RopeSpec { return []RopeSpec{c.partRope(d, maxPos, share)} }, func(a *Attention, _ *MLP) {
		if a.Bias = bias; norms {
			a.QKNorm = PerHead
		}
	})
	m := c.latentExperts(biasedSigmoid)
	m.Select = true
	s.withExperts(m, c.sparseLayers(dense))
	s.Predict = c.predicting()
	return s, cmp.Or(err, c.err)
}
