package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// hyv3 is Hunyuan 3: norms of queries and keys, and the experts of DeepSeek V3
// under other names in files than in memory.
var hyv3 = Arch{
	Name: "hy_v3", HF: []string{"HYV3ForCausalLM"}, GGUF: "hy_v3", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "num_key_value_heads": "8", "head_dim": "128", "default_theta": "11158840",
			"num_experts": "192", "num_experts_per_tok": "8", "num_shared_experts": "1", "router_scaling_factor": "2.826"})
		bias, inner := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		s, err := decoderSpec(c, "hy_v3", func(a *Attention, m *MLP) { a.QKNorm, a.Bias, a.OutBias, m.Bias = PerHead, bias, bias, inner })
		c.rename("num_experts", "n_routed_experts")
		c.rename("num_shared_experts", "n_shared_experts")
		c.rename("router_scaling_factor", "routed_scaling_factor")
		m := c.latentExperts(biasedSigmoid)
		m.Route.Renorm, m.Select, m.SharedBias = true, true, inner
		s.withExperts(m, c.sparseLayers(1))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: routedGGUF("hy_v3"),
	Rules: func(s *Spec) []Rule {
		names := usualNames
		e := &names.experts
		e.fileRouter, e.fileShared, e.selects, e.selectsGGUF = "mlp.router.gate", "mlp.shared_mlp", "mlp.expert_bias", "exp_probs_b"
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		return append(append(decoderKV(s, "hy_v3"), s.routerKV("hy_v3")...), formats.KV{Key: "hy_v3.expert_shared_feed_forward_length", Value: uint32(s.moe().Shared)})
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(decoderConfig(s, "HYV3ForCausalLM", "hy_v3"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "mlp_layer_types", Value: s.mlpTypes()},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "num_shared_experts", Value: m.Shared / m.F},
			formats.KV{Key: "moe_intermediate_size", Value: m.F}, formats.KV{Key: "router_scaling_factor", Value: shortFloat(m.Route.Scale)})
	},
}
