package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gptoss has a score without a value in every head, a window in every other layer,
// and experts with biases, whose gate and up columns alternate.
var gptoss = Arch{
	Name: "gpt_oss", HF: []string{"GptOssForCausalLM"}, GGUF: "gpt-oss", Untruncated: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "head_dim": "64", "num_key_value_heads": "8", "default_theta": "150000",
			"num_local_experts": "128", "num_experts_per_tok": "4", "attention_bias": "true", "sliding_window": "128"})
		c.assumeRule(`{"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}`)
		c.only("hidden_act", `"silu"`)
		limit := c.Float(7, "swiglu_limit")
		if !(limit > 0) {
			c.lack("swiglu_limit", "is %g, want more than 0", limit)
		}
		bias := c.Bool(true, "attention_bias")
		s, err := decoderSpec(c, "gpt_oss", func(a *Attention, _ *MLP) { a.Bias, a.OutBias, a.Sinks = bias, bias, true })
		s.withExperts(gptossExperts(c.Int(-1, "num_local_experts"), c.Int(-1, "num_experts_per_tok"), c.Float(1.702, "swiglu_alpha"), limit), nil)
		local := c.windowed(len(s.Layers), lastFull(2))
		size := c.window(local)
		s.narrow(local, size)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch, s.Ropes[0].NoTruncate, s.Attention().Sinks = "gpt_oss", s.Ropes[0].Type == "yarn", true
		e := m.experts()
		s.withExperts(gptossExperts(e.E, e.K, 1.702, 7), nil)
		size := m.Int(0, "attention.sliding_window")
		s.narrow(m.windowed(len(s.Layers), 2), size)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{
			norms:   map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "post_attention_norm"}},
			experts: expertNames{router: "mlp.router", experts: "mlp.experts", gate: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj", transposed: true}})
	},
	KV: func(s *Spec) []formats.KV {
		return append(append(decoderKV(s, "gpt-oss"), formats.KV{Key: "gpt-oss.expert_feed_forward_length", Value: uint32(s.moe().F)}), s.windowKV("gpt-oss", 2, false)...)
	},
	Config: func(s *Spec) []formats.KV {
		m, a := s.moe(), s.Attention()
		return append(append(s.statePlain(decoderConfig(s, "GptOssForCausalLM", "gpt_oss")), s.windowConfig()...), formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "hidden_act", Value: "silu"},
			formats.KV{Key: "swiglu_limit", Value: shortFloat(m.ActParams.Limit)}, formats.KV{Key: "swiglu_alpha", Value: shortFloat(m.ActParams.Alpha)})
	},
}

func gptossExperts(experts, k int, alpha, limit float64) MoE {
	return MoE{E: experts, K: k, Act: kernels.ClampedSwiGLU, ActParams: kernels.ActParams{Alpha: float32(alpha), Limit: float32(limit)}, InTurn: true, Bias: true, Route: chosenAlone}
}
