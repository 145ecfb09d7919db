package arch

import (
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// lfm2moe is LFM2 with experts behind its first layers.
var lfm2moe = Arch{
	Name: "lfm2_moe", HF: []string{"Lfm2MoeForCausalLM"}, GGUF: "lfm2moe", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "65536", "hidden_size": "2048", "intermediate_size": "7168", "num_hidden_layers": "32",
			"num_attention_heads": "32", "num_key_value_heads": "8", "max_position_embeddings": "128000", "default_theta": "1e6"})
		s := c.lfm2()
		s.Arch = "lfm2_moe"
		mlp := &MLP{F: c.Int(-1, "intermediate_size"), Act: kernels.SiLU}
		e := &MoE{E: c.Int(32, "num_experts"), K: c.Int(4, "num_experts_per_tok"), F: c.Int(1792, "moe_intermediate_size"), Dense: mlp.F, Select: c.Bool(true, "use_expert_bias"),
			Route: kernels.RouteArgs{Kind: kernels.RouteSigmoid, Renorm: c.Bool(true, "norm_topk_prob"), Eps: 1e-6, Scale: float32(c.Float(1, "routed_scaling_factor"))}}
		s.convLayers(c.lfm2Kinds(len(s.Layers)), c.attention(s.C), c.shortConv(), s.expertsFrom(c.Int(2, "num_dense_layers"), mlp, e))
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, kinds := m.lfm2("lfm2_moe")
		mlp := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU}
		e := m.experts()
		first := m.Int(0, "leading_dense_block_count")
		e.Dense, e.Select, e.Route = mlp.F, m.Has(fmt.Sprintf("blk.%d.exp_probs_b.bias", first)), m.router()
		e.Route.Renorm, e.Route.Eps, e.Route.Scale = true, 1e-6, 1
		s.convLayers(kinds, m.hybridAttention(s.C, len(kinds)), m.shortConv(), s.expertsFrom(first, mlp, &e))
		return s, m.err
	},
	Rules: lfm2Rules,
	KV: func(s *Spec) []formats.KV {
		e := s.moe()
		u := func(k string, v int) formats.KV { return formats.KV{Key: "lfm2moe." + k, Value: uint32(v)} }
		return append(lfm2KV(s, "lfm2moe"), u("feed_forward_length", e.Dense), u("expert_count", e.E), u("expert_used_count", e.K), u("expert_feed_forward_length", e.F),
			u("leading_dense_block_count", s.denseLayers()), u("expert_gating_func", gateSigmoid))
	},
	NoGGUF: func(s *Spec) string {
		if e := s.moe(); e != nil && (!e.Route.Renorm || e.Route.Scale != 1) {
			return "norm_topk_prob: false or a routed_scaling_factor"
		}
		return s.unattended()
	},
	Config: func(s *Spec) []formats.KV {
		e := s.moe()
		return append(lfm2Config(s, "Lfm2MoeForCausalLM", "lfm2_moe"), formats.KV{Key: "intermediate_size", Value: e.Dense}, formats.KV{Key: "moe_intermediate_size", Value: e.F},
			formats.KV{Key: "num_experts", Value: e.E}, formats.KV{Key: "num_experts_per_tok", Value: e.K}, formats.KV{Key: "num_dense_layers", Value: s.denseLayers()},
			formats.KV{Key: "use_expert_bias", Value: e.Select}, formats.KV{Key: "norm_topk_prob", Value: e.Route.Renorm})
	},
}

// expertsFrom is mlp in the first n layers, and e in the others.
func (s *Spec) expertsFrom(n int, mlp *MLP, e *MoE) func(layer int) Body {
	e.Act = mlp.Act
	return func(i int) Body {
		if i < n {
			return mlp
		}
		return e
	}
}
