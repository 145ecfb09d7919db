package arch

import (
	"cmp"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// qwen2moe is Qwen2 with experts, one of them for every token, in place of each
// feed-forward part.
var qwen2moe = Arch{
	Name: "qwen2_moe", HF: []string{"Qwen2MoeForCausalLM"}, GGUF: "qwen2moe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "16"})
		bias := c.Bool(true, "qkv_bias")
		s, err := decoderSpec(c, "qwen2_moe", func(a *Attention, _ *MLP) { a.Bias = bias })
		s.qwenWindows(c, func(i, n int) bool { return i%2 == 0 && i < n })
		s.withExperts(MoE{E: c.Int(-1, "num_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"), Shared: c.Int(-1, "shared_expert_intermediate_size"),
			SharedGated: true, Route: kernels.RouteArgs{Renorm: c.Bool(false, "norm_topk_prob")}}, c.sparseSteps())
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "qwen2_moe"
		e := m.experts()
		e.SharedGated = true
		s.withExperts(e, nil)
		return s, err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts.shared = "mlp.shared_expert"
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV { return decoderKV(s, "qwen2moe") },
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(decoderConfig(s, "Qwen2MoeForCausalLM", "qwen2_moe"), formats.KV{Key: "qkv_bias", Value: s.Attention().Bias},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "moe_intermediate_size", Value: m.F},
			formats.KV{Key: "shared_expert_intermediate_size", Value: m.Shared}, formats.KV{Key: "norm_topk_prob", Value: m.Route.Renorm})
	},
}

// sparseSteps reads which layers of Qwen have experts: every so many, but for those
// that are listed.
func (c *Config) sparseSteps() func(layer int) bool {
	dense, _ := get[[]int](c, "mlp_only_layers")
	step := c.Int(1, "decoder_sparse_step")
	if step < 1 {
		c.fail("decoder_sparse_step", "is %d, want 1 or more", step)
		step = 1
	}
	return func(i int) bool { return (i+1)%step == 0 && !slices.Contains(dense, i) }
}
