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

// partConfig is partial_rotary_factor of config.json.
func (s *Spec) partConfig() formats.KV {
	return formats.KV{Key: "partial_rotary_factor", Value: float64(s.rope().Dim) / float64(s.Attention().D)}
}
