package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// qwen3moe is Qwen3 with experts in place of each feed-forward part.
var qwen3moe = Arch{
	Name: "qwen3_moe", HF: []string{"Qwen3MoeForCausalLM"}, GGUF: "qwen3moe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "4"})
		window := 0
		if c.Bool(false, "use_sliding_window") {
			c.assume(map[string]string{"sliding_window": "4096"})
			window = c.slide()
		}
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "qwen3_moe", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias, a.Window = PerHead, bias, bias, window })
		s.withExperts(MoE{E: c.Int(-1, "num_experts", "num_local_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"),
			Route: kernels.RouteArgs{Renorm: c.Bool(false, "norm_topk_prob")}}, c.sparseSteps())
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		e := m.experts()
		s.Arch, e.Route.Renorm = "qwen3_moe", true
		s.withExperts(e, nil)
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "qwen3moe") },
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(decoderConfig(s, "Qwen3MoeForCausalLM", "qwen3_moe"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K},
			formats.KV{Key: "moe_intermediate_size", Value: m.F}, formats.KV{Key: "norm_topk_prob", Value: m.Route.Renorm})
	},
}
