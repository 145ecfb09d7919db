package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// nemotron has LayerNorms whose weights count from 1, the square of ReLU without a
// gate, and rotation of a part of each head.
var nemotron = Arch{
	Name: "nemotron", HF: []string{"NemotronForCausalLM"}, GGUF: "nemotron", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"hidden_act": `"relu2"`})
		s := Spec{
			Arch: "nemotron", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(4096, "max_position_embeddings"),
			Norm: c.layerNorms("norm_eps"), Tied: c.Bool(false, "tie_word_embeddings"),
		}
		s.Norm.Offset = 1
		a := c.attention(s.C)
		a.Bias = c.Bool(false, "attention_bias")
		a.OutBias = a.Bias
		s.Ropes = []RopeSpec{c.partRope(a.D, s.MaxPos, 0.5)}
		f := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act"), Ungated: true, Bias: c.Bool(false, "mlp_bias")}
		return c.layers(s, "num_hidden_layers", decoder(a, f))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("nemotron", kernels.ReLU2)
		s.Norm.Offset, a.Rope = 1, 0
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		const p = "nemotron."
		kv := append(decoderKV(s, "nemotron"), formats.KV{Key: p + "attention.layer_norm_rms_epsilon", Value: s.Norm.Eps})
		if s.rope().Type == "" {
			kv = append(kv, formats.KV{Key: p + "rope.scaling.type", Value: "none"})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		return append(partConfig(s, "NemotronForCausalLM", "nemotron"), formats.KV{Key: "norm_eps", Value: shortFloat(s.Norm.Eps)},
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}
