package arch

import "github.com/tunekit/tunekit/kernels"

// helium is Llama with rotation of neighbouring elements.
var helium = Arch{
	Name: "helium", HF: []string{"HeliumForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "num_key_value_heads": "20", "head_dim": "128", "rms_norm_eps": "1e-8", "default_theta": "1e5"})
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		return decoderSpec(c, "helium", func(a *Attention, m *MLP) { a.Pairs, a.Bias, m.Bias = kernels.Adjacent, bias, mlp })
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
}
