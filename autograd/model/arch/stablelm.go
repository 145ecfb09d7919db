package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// stablelm is Llama with LayerNorms and rotation of a part of each head; some have
// attention and feed-forward part beside each other, and norms of queries and keys
// with weights for each head.
var stablelm = Arch{
	Name: "stablelm", HF: []string{"StableLmForCausalLM", "StableLMEpochForCausalLM"}, GGUF: "stablelm", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "num_key_value_heads": "32"})
		c.rename("rope_pct", "partial_rotary_factor")
		c.rename("norm_eps", "layer_norm_eps")
		s := Spec{
			Arch: "stablelm", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: c.layerNorms("layer_norm_eps"), Tied: c.Bool(false, "tie_word_embeddings"),
		}
		a := c.attention(s.C)
		a.Bias = c.Bool(false, "use_qkv_bias")
		if c.Bool(false, "qk_layernorm") {
			a.QKNorm = OwnPerHead
		}
		s.Ropes = []RopeSpec{c.partRope(a.D, s.MaxPos, 0.25)}
		f := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")}
		return c.layers(s, "num_hidden_layers", stablelmLayer(a, f, c.Bool(false, "use_parallel_residual")))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("stablelm", kernels.SiLU)
		a.Rope = 0
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, stablelmLayer(a, f, m.Bool(true, "use_parallel_residual")))
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.byHead = true
		names.modules = map[Role][2]string{QNorm: {"self_attn.q_layernorm", "attn_q_norm"}, KNorm: {"self_attn.k_layernorm", "attn_k_norm"}}
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(append(olderKV(s, "stablelm"), keyHeads(s, "stablelm")), rotationKV(s, "stablelm")...)
		return append(kv, formats.KV{Key: "stablelm.use_parallel_residual", Value: s.Layers[0].Parallel})
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		return append(partConfig(s, "StableLmForCausalLM", "stablelm"), formats.KV{Key: "use_qkv_bias", Value: a.Bias},
			formats.KV{Key: "qk_layernorm", Value: a.QKNorm == OwnPerHead}, formats.KV{Key: "use_parallel_residual", Value: s.Layers[0].Parallel})
	},
}

func stablelmLayer(a *Attention, f *MLP, parallel bool) *LayerSpec {
	if parallel {
		return beside(a, f, false)
	}
	return decoder(a, f)
}
