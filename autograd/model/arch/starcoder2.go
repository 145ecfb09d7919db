package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// starcoder2 has LayerNorms, biases everywhere, a feed-forward part without a gate
// and mostly attention to a window, which llama.cpp ignores.
var starcoder2 = Arch{
	Name: "starcoder2", HF: []string{"Starcoder2ForCausalLM"}, GGUF: "starcoder2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "num_key_value_heads": "2", "hidden_act": `"gelu_pytorch_tanh"`, "tie_word_embeddings": "true"})
		bias, window := c.Bool(true, "use_bias"), c.slide()
		s, err := decoderSpec(c, "starcoder2", func(a *Attention, m *MLP) {
			a.Bias, a.OutBias, a.Window = bias, bias, window
			m.Ungated, m.Bias = true, bias
		})
		s.Norm = c.layerNorms("norm_epsilon")
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("starcoder2", kernels.GELUTanh)
		a.Rope, a.Window = 0, m.Int(0, "attention.sliding_window")
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.modules = map[Role][2]string{Up: {"mlp.c_fc", "ffn_up"}, Down: {"mlp.c_proj", "ffn_down"}}
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(append(olderKV(s, "starcoder2"), keyHeads(s, "starcoder2")), rotationKV(s, "starcoder2")...)
		if w := s.Attention().Window; w > 0 {
			kv = append(kv, formats.KV{Key: "starcoder2.attention.sliding_window", Value: uint32(w)})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		kv := append(decoderConfig(s, "Starcoder2ForCausalLM", "starcoder2"), formats.KV{Key: "norm_epsilon", Value: shortFloat(s.Norm.Eps)},
			formats.KV{Key: "use_bias", Value: a.Bias})
		if a.Window > 0 {
			return append(kv, formats.KV{Key: "sliding_window", Value: a.Window})
		}
		return append(kv, formats.KV{Key: "sliding_window", Value: nil})
	},
}
