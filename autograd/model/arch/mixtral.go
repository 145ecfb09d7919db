package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// mixtral is Mistral with experts in place of each feed-forward part. In GGUF both
// are called llama.
var mixtral = Arch{
	Name: "mixtral", HF: []string{"MixtralForCausalLM"}, GGUF: "llama",
	IsGGUF: func(m *Metadata) bool { return m.Int(0, "expert_count") > 0 },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "8", "rms_norm_eps": "1e-5",
			"num_local_experts": "8", "num_experts_per_tok": "2", "default_theta": "1e6"})
		window := c.slide()
		s, err := decoderSpec(c, "mixtral", func(a *Attention, _ *MLP) { a.Window = window })
		s.withExperts(MoE{E: c.Int(-1, "num_local_experts"), K: c.Int(-1, "num_experts_per_tok"), Route: kernels.RouteArgs{Renorm: true}}, nil)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := mistral.GGUFSpec(m)
		e := m.experts()
		s.Arch, e.Route.Renorm = "mixtral", true
		s.withExperts(e, nil)
		return s, err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = sparseBlock
		return namedRules(s, true, names)
	},
	KV: mistral.KV,
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "MixtralForCausalLM", "mixtral"), s.slideConfig(),
			formats.KV{Key: "num_local_experts", Value: s.moe().E}, formats.KV{Key: "num_experts_per_tok", Value: s.moe().K})
	},
}

// sparseBlock are the names that Mixtral and its likes have in files.
var sparseBlock = expertNames{router: "mlp.gate", experts: "mlp.experts", fileRouter: "block_sparse_moe.gate",
	gate: "block_sparse_moe.experts.%d.w1.weight", up: "block_sparse_moe.experts.%d.w3.weight", down: "block_sparse_moe.experts.%d.w2.weight",
	selects: "block_sparse_moe.e_score_correction_bias"}
