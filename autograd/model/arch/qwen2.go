package arch

import (
	"github.com/tunekit/tunekit/formats"
)

// qwen2 is Llama with biases on q, k and v; GGUF keeps its row order.
var qwen2 = Arch{
	Name: "qwen2", HF: []string{"Qwen2ForCausalLM"}, GGUF: "qwen2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "32"})
		if c.Bool(false, "use_sliding_window") {
			c.lack("use_sliding_window", "sliding attention of Qwen2 is not supported")
		}
		return decoderSpec(c, "qwen2", func(a *Attention, _ *MLP) { a.Bias = true })
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "qwen2") },
	Config:   func(s *Spec) []formats.KV { return decoderConfig(s, "Qwen2ForCausalLM", "qwen2") },
}
