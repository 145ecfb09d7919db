package arch

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/tunekit/tunekit/formats"
)

// minimaxm2 has norms of all queries and all keys of a token, rotation of a part of
// each head, and experts whose scores stand by themselves.
var minimaxm2 = Arch{
	Name: "minimax_m2", HF: []string{"MiniMaxM2ForCausalLM"}, GGUF: "minimax-m2", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "196608", "num_key_value_heads": "8", "head_dim": "128", "default_theta": "5e6", "num_local_experts": "256", "num_experts_per_tok": "8"})
		c.only("scoring_func", `"sigmoid"`)
		c.only("use_routing_bias", "true")
		c.only("use_qk_norm", "true")
		c.only("qk_norm_type", `"per_layer"`)
		c.only("shared_intermediate_size", "0")
		s, err := rotatedSpec(c, "minimax_m2", func(d, maxPos int) []RopeSpec {
			c.rotaryDim(d)
			return []RopeSpec{c.partRope(d, maxPos, 1)}
		}, func(a *Attention, _ *MLP) { a.QKNorm = WholeWidth })
		s.withExperts(minimaxExperts(c.Int(-1, "num_local_experts", "num_experts"), c.Int(-1, "num_experts_per_tok")), nil)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "minimax_m2"
		e := m.experts()
		if f := m.Int(0, "expert_gating_func"); f != gateSigmoid {
			m.lack("expert_gating_func", "is %d, want %d (sigmoid)", f, gateSigmoid)
		}
		s.withExperts(minimaxExperts(e.E, e.K), nil)
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = sparseBlock
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		return append(decoderKV(s, "minimax-m2"), formats.KV{Key: "minimax-m2.expert_gating_func", Value: uint32(gateSigmoid)},
			formats.KV{Key: "minimax-m2.expert_feed_forward_length", Value: uint32(s.moe().F)})
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(decoderConfig(s, "MiniMaxM2ForCausalLM", "minimax_m2"), formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K},
			formats.KV{Key: "rotary_dim", Value: s.rope().Dim}, formats.KV{Key: "scoring_func", Value: "sigmoid"}, formats.KV{Key: "use_routing_bias", Value: true},
			formats.KV{Key: "use_qk_norm", Value: true}, formats.KV{Key: "qk_norm_type", Value: "per_layer"})
	},
}

func minimaxExperts(experts, k int) MoE {
	r := biasedSigmoid
	r.Renorm = true
	return MoE{E: experts, K: k, Route: r, Select: true}
}

// rotaryDim takes rotary_dim, the number of elements of a head of d that rotate,
// for partial_rotary_factor, where that is absent.
func (c *Config) rotaryDim(d int) {
	if !c.has("rotary_dim") || d <= 0 {
		return
	}
	share := float64(c.Int(0, "rotary_dim")) / float64(d)
	if f := c.Float(share, "partial_rotary_factor"); f != share {
		c.fail("rotary_dim", "is %s, but partial_rotary_factor is %g; remove one", c.raw["rotary_dim"], f)
	}
	c.raw["partial_rotary_factor"] = json.RawMessage(fmt.Sprint(share))
}
