package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// exaonemoe is K-EXAONE: norms of queries and keys, a window and rotation in some
// layers and neither in the others, and the experts of DeepSeek V3.
var exaonemoe = Arch{
	Name: "exaone_moe", HF: []string{"ExaoneMoeForCausalLM"}, GGUF: "exaone-moe", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "2048", "num_key_value_heads": "32", "rms_norm_eps": "1e-5", "sliding_window": "4096", "sliding_window_pattern": "4",
			"num_experts": "64", "num_experts_per_tok": "8", "num_shared_experts": "1", "routed_scaling_factor": "2.5", "moe_intermediate_size": "1024"})
		c.only("scoring_func", `"sigmoid"`)
		c.only("topk_method", `"noaux_tc"`)
		s, err := decoderSpec(c, "exaone_moe", func(a *Attention, _ *MLP) { a.QKNorm = PerHead })
		c.rename("num_experts", "n_routed_experts")
		c.rename("num_shared_experts", "n_shared_experts")
		m := c.latentExperts(biasedSigmoid)
		m.Select = true
		s.withExperts(m, c.sparseLayers(1))
		s.Predict = c.predicting()
		if local := c.windowed(len(s.Layers), c.exaonePattern(len(s.Layers))); c.has("sliding_window") { // else every layer knows positions
			s.placedNear(local, c.window(local))
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := routedGGUF("exaone_moe")(m)
		if err != nil {
			return s, err
		}
		if size := m.Int(0, "attention.sliding_window"); size > 0 {
			s.placedNear(m.windowed(len(s.Layers), 4), size)
		}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts.selects = "mlp.e_score_correction_bias"
		return namedRules(s, false, names)
	},
	NoGGUF: (*Spec).scattered,
	KV: func(s *Spec) []formats.KV {
		kv := append(append(decoderKV(s, "exaone-moe"), s.routerKV("exaone-moe")...), formats.KV{Key: "exaone-moe.expert_shared_feed_forward_length", Value: uint32(s.moe().Shared)},
			formats.KV{Key: "exaone-moe.nextn_predict_layers", Value: uint32(0)})
		if s.rope().Type == "" {
			kv = append(kv, formats.KV{Key: "exaone-moe.rope.scaling.type", Value: "none"})
		}
		return append(kv, s.windowKV("exaone-moe", 0, true)...)
	},
	Config: func(s *Spec) []formats.KV {
		kv := append(append(decoderConfig(s, "ExaoneMoeForCausalLM", "exaone_moe"), s.expertConfig()...), s.windowConfig()...)
		return append(kv, formats.KV{Key: "num_experts", Value: s.moe().E}, formats.KV{Key: "num_shared_experts", Value: s.moe().Shared / s.moe().F})
	},
}
