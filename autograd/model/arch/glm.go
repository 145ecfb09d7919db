package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// glm is GLM 4 as of 2024: glm4 without the norms behind its parts. In GGUF it is called
// what the families before it are.
var glm = Arch{
	Name: "glm", HF: []string{"GlmForCausalLM"}, GGUF: "chatglm", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "2", "head_dim": "128", "rms_norm_eps": "1.5625e-07"})
		return glmSpec(c, "glm")
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "glm"
		if a := s.Attention(); a != nil { // one for all layers
			a.Pairs = kernels.Adjacent
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "chatglm") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "GlmForCausalLM", "glm"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, s.partConfig())
	},
}

// glmSpec reads what the dense GLMs share: rotation of neighbouring elements in half of
// each head, and gate and up in one map.
func glmSpec(c *Config, name string) (Spec, error) {
	bias := c.Bool(true, "attention_bias")
	s, err := rotatedSpec(c, name, func(d, maxPos int) []RopeSpec { return []RopeSpec{c.partRope(d, maxPos, 0.5)} }, func(a *Attention, m *MLP) {
		a.Bias, a.Pairs, m.Fused = bias, kernels.Adjacent, true
	})
	return s, cmp.Or(err, c.err)
}
