package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// glm4 is glm with norms behind its parts, too.
var glm4 = Arch{
	Name: "glm4", HF: []string{"Glm4ForCausalLM"}, GGUF: "glm4", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "2", "head_dim": "128", "rms_norm_eps": "1.5625e-07"})
		s, err := glmSpec(c, "glm4")
		s.normsAround()
		return s, err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if a := s.Attention(); a != nil { // one for all layers
			a.Pairs = kernels.Adjacent
		}
		s.normsAround()
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: map[Role][2]string{
			AttnNorm: {"input_layernorm", "attn_norm"}, PostAttnNorm: {"post_self_attn_layernorm", "post_attention_norm"},
			MLPNorm: {"post_attention_layernorm", "ffn_norm"}, PostMLPNorm: {"post_mlp_layernorm", "post_ffw_norm"}}})
	},
	KV: func(s *Spec) []formats.KV { return decoderKV(s, "glm4") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "Glm4ForCausalLM", "glm4"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, s.partConfig())
	},
}

// glm4v is the half of GLM-4.1V and 4.6V Flash that reads text: glm4 with heads of the
// width over their number, biases whatever the config says, and whole rotation where it
// names no part. Its angles come from three positions, which are the same one in text.
var glm4v = Arch{
	Name: "glm4v_text",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "2", "rms_norm_eps": "1e-5", "vocab_size": "151552", "hidden_size": "4096",
			"intermediate_size": "13696", "num_hidden_layers": "40", "num_attention_heads": "32"})
		s, err := rotatedSpec(c, "glm4v_text", func(d, maxPos int) []RopeSpec { return []RopeSpec{c.partRope(d, maxPos, 1)} }, func(a *Attention, m *MLP) {
			a.Bias, a.Pairs, m.Fused = true, kernels.Adjacent, true
		})
		s.normsAround()
		return s, cmp.Or(err, c.err)
	},
	Rules: glm4.Rules,
}

// partConfig is partial_rotary_factor of config.json.
func (s *Spec) partConfig() formats.KV {
	return formats.KV{Key: "partial_rotary_factor", Value: float64(s.rope().Dim) / float64(s.Attention().D)}
}
