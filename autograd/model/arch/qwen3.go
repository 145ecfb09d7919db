package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// qwen3 is Qwen2 with a norm of each query and key instead of their biases.
var qwen3 = Arch{
	Name: "qwen3", HF: []string{"Qwen3ForCausalLM"}, GGUF: "qwen3",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "32", "head_dim": "128"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "qwen3", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = PerHead, bias, bias })
		s.qwenWindows(c, fromNth)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "qwen3") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "Qwen3ForCausalLM", "qwen3"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
	},
}
