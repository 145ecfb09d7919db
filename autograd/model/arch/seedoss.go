package arch

import (
	"github.com/tunekit/tunekit/formats"
)

// seedOss is Llama with biases on q, k and v.
var seedOss = Arch{
	Name: "seed_oss", HF: []string{"SeedOssForCausalLM"}, GGUF: "seed_oss",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "524288", "num_key_value_heads": "8", "head_dim": "128"})
		bias, out, mlp := c.Bool(true, "attention_bias"), c.Bool(false, "attention_out_bias"), c.Bool(false, "mlp_bias")
		return decoderSpec(c, "seed_oss", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Bias = bias, out, mlp })
	},
	GGUFSpec: decoderGGUF,
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: map[Role][2]string{
			AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "post_attention_norm"}}})
	},
	KV: func(s *Spec) []formats.KV { return decoderKV(s, "seed_oss") },
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		return append(decoderConfig(s, "SeedOssForCausalLM", "seed_oss"), formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "attention_out_bias", Value: a.OutBias}, formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}
