package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
)

// afmoe is Arcee's Trinity: norms before and behind its parts, a gate on what
// attention makes, a window and rotation in some layers and neither in the others,
// and the experts of DeepSeek V3.
var afmoe = Arch{
	Name: "afmoe", HF: []string{"AfmoeForCausalLM"}, GGUF: "afmoe", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "16384", "rms_norm_eps": "1e-5", "head_dim": "128", "sliding_window": "1024", "num_dense_layers": "1",
			"num_experts": "64", "num_experts_per_tok": "6", "num_shared_experts": "2", "moe_intermediate_size": "1408", "global_attn_every_n_layers": "4"})
		c.only("score_func", `"sigmoid"`)
		c.only("route_norm", "true")
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "afmoe", func(a *Attention, _ *MLP) { a.QKNorm, a.Gate, a.Bias, a.OutBias = PerHead, true, bias, bias })
		c.rename("num_experts", "n_routed_experts")
		c.rename("num_shared_experts", "n_shared_experts")
		c.rename("route_scale", "routed_scaling_factor")
		m := c.latentExperts(biasedSigmoid)
		m.Route.Renorm, m.Select = true, true
		s.withExperts(m, from(c.Int(1, "num_dense_layers")))
		local := c.windowed(len(s.Layers), lastFull(c.Int(4, "global_attn_every_n_layers")))
		s.placedNear(local, c.window(local))
		s.normsAround()
		if c.Bool(false, "mup_enabled") {
			s.EmbedScale = float32(math.Sqrt(float64(s.C)))
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.EmbedScale, s.Attention().Gate = float32(math.Sqrt(float64(s.C))), true
		m.routed(&s)
		s.placedNear(m.windowed(len(s.Layers), 4), m.Int(0, "attention.sliding_window"))
		s.normsAround()
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.norms = map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, PostAttnNorm: {"post_attention_layernorm", "post_attention_norm"},
			MLPNorm: {"pre_mlp_layernorm", "ffn_norm"}, PostMLPNorm: {"post_mlp_layernorm", "post_ffw_norm"}}
		names.experts.router, names.experts.selects = "mlp.router.gate", "mlp.expert_bias"
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		return append(append(decoderKV(s, "afmoe"), s.routerKV("afmoe")...), s.windowKV("afmoe", 4, false)...)
	},
	NoGGUF: func(s *Spec) string {
		if s.EmbedScale == 0 {
			return "mup_enabled: false"
		}
		return s.scattered()
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		kv := append(decoderConfig(s, "AfmoeForCausalLM", "afmoe"), s.windowConfig()...)
		kv = append(kv, formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
		return append(kv, formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "num_shared_experts", Value: m.Shared / m.F},
			formats.KV{Key: "moe_intermediate_size", Value: m.F}, formats.KV{Key: "num_dense_layers", Value: s.denseLayers()}, formats.KV{Key: "route_scale", Value: shortFloat(m.Route.Scale)},
			formats.KV{Key: "score_func", Value: "sigmoid"}, formats.KV{Key: "route_norm", Value: true}, formats.KV{Key: "mup_enabled", Value: s.EmbedScale != 0})
	},
}
