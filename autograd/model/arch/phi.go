package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// phi is Phi 1, 1.5 and 2: one LayerNorm for attention and an ungated feed-forward
// part beside each other, rotation of a part of each head, and biases everywhere,
// also on the head.
var phi = Arch{
	Name: "phi", HF: []string{"PhiForCausalLM"}, GGUF: "phi2", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"hidden_act": `"gelu_new"`})
		s := Spec{
			Arch: "phi", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
			Norm: c.layerNorms("layer_norm_eps"), Tied: c.Bool(false, "tie_word_embeddings"), HeadBias: true,
		}
		a := c.attention(s.C)
		a.Bias, a.OutBias = true, true
		if c.Bool(false, "qk_layernorm") {
			a.QKNorm = PerHead
		}
		s.Ropes = []RopeSpec{c.partRope(a.D, s.MaxPos, 0.5)}
		return c.layers(s, "num_hidden_layers", beside(a, &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act"), Ungated: true, Bias: true}, false))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("phi", kernels.GELUTanh)
		a.Rope = 0
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, beside(a, f, false))
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.modules = map[Role][2]string{
			O: {"self_attn.dense", "attn_output"}, Up: {"mlp.fc1", "ffn_up"}, Down: {"mlp.fc2", "ffn_down"}, FinalNorm: {"model.final_layernorm", "output_norm"},
			QNorm: {"self_attn.q_layernorm", "attn_q_norm"}, KNorm: {"self_attn.k_layernorm", "attn_k_norm"},
		}
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		return append(append(olderKV(s, "phi2"), keyHeads(s, "phi2")), rotationKV(s, "phi2")...)
	},
	Config: func(s *Spec) []formats.KV {
		return append(partConfig(s, "PhiForCausalLM", "phi"), formats.KV{Key: "qk_layernorm", Value: s.Attention().QKNorm == PerHead})
	},
}
