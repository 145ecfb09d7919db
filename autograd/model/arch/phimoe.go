package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// phimoe is Phi 3.5 MoE: LayerNorms with biases, biases of attention and of the head,
// and experts that are chosen one after another.
var phimoe = Arch{
	Name: "phimoe", HF: []string{"PhimoeForCausalLM", "PhiMoEForCausalLM"}, GGUF: "phimoe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "8", "rms_norm_eps": "1e-5", "default_theta": "1e6", "num_local_experts": "16", "num_experts_per_tok": "2"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "phimoe", func(a *Attention, _ *MLP) { a.Bias, a.OutBias = bias, bias })
		if err != nil {
			return s, err
		}
		s.Norm, s.HeadBias = c.layerNorms("rms_norm_eps"), c.Bool(false, "lm_head_bias")
		c.shortLongrope(&s.Ropes[0])
		if w := c.slide(); w < s.MaxPos {
			s.Attention().Window = w
		}
		k := c.Int(-1, "num_experts_per_tok")
		if k != 2 {
			c.lack("num_experts_per_tok", "is %d; SparseMixer chooses two experts", k)
		}
		s.withExperts(MoE{E: c.Int(-1, "num_local_experts"), K: k, Route: sparsemixer(c.Float(0.01, "router_jitter_noise"))}, nil)
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Norm, s.HeadBias = NormSpec{Kind: kernels.LayerNorm, Eps: s.Norm.Eps, Bias: true}, m.Has("output.bias")
		m.Int(0, "attention.sliding_window") // which llama.cpp does not go by
		e := m.experts()
		e.Route = sparsemixer(m.Float(0.01, "router_jitter_noise"))
		s.withExperts(e, nil)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = sparseBlock
		names.experts.router = "mlp.router"
		return namedRules(s, false, names)
	},
	// llama.cpp chooses by a softmax and has no key for the threshold, which stands
	// there for who reads the file as the model it is.
	KV: func(s *Spec) []formats.KV {
		kv := olderKV(s, "phimoe")
		kv[len(kv)-1].Key = "phimoe.attention.layer_norm_rms_epsilon"
		kv = append(append(append(kv, keyHeads(s, "phimoe")), s.rope().ggufScaling("phimoe")...), expertKV(s.moe(), "phimoe")...)
		return append(kv, formats.KV{Key: "phimoe.rope.scaling.original_context_length", Value: uint32(s.MaxPos)}, formats.KV{Key: "phimoe.rope.dimension_count", Value: uint32(s.rope().Dim)},
			formats.KV{Key: "phimoe.rope.freq_base", Value: float32(s.rope().Base)}, formats.KV{Key: "phimoe.attention.sliding_window", Value: uint32(0)},
			formats.KV{Key: "phimoe.router_jitter_noise", Value: s.moe().Route.Jitter})
	},
	NoGGUF: func(s *Spec) string {
		if s.rope().Type != "" {
			return s.rope().Type + " rope scaling, of which this family takes the short factors alone,"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		m, a := s.moe(), s.Attention()
		return append(decoderConfig(s, "PhimoeForCausalLM", "phimoe"), formats.KV{Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)}, formats.KV{Key: "attention_bias", Value: a.Bias}, formats.KV{Key: "lm_head_bias", Value: s.HeadBias},
			formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "router_jitter_noise", Value: shortFloat(m.Route.Jitter)})
	},
}

func sparsemixer(jitter float64) kernels.RouteArgs {
	return kernels.RouteArgs{Kind: kernels.RouteSparsemixer, Jitter: float32(jitter)}
}

// shortLongrope makes r what Phi 3.5 MoE computes of a longrope rule: the short
// factors in texts of any length, and a factor on cosines and sines that the rule
// states.
func (c *Config) shortLongrope(r *RopeSpec) {
	rule := c.ropeRule()
	if r.Type != "longrope" || rule == nil {
		return
	}
	short, long := rule.Float(0, "short_mscale"), rule.Float(0, "long_mscale")
	if short != long || !(short > 0) {
		c.lack("rope_scaling", "short_mscale is %g and long_mscale %g; only equal ones above 0 are supported", short, long)
	}
	r.Long, r.AttnFactor = r.Short, long
}
