package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// granitemoe is Granite 3 with experts: Llama with factors on the embedding, what
// the parts add, the scores and the logits. Its files have the experts of a layer
// in one tensor.
var granitemoe = Arch{
	Name: "granitemoe", HF: []string{"GraniteMoeForCausalLM"}, GGUF: "granitemoe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"num_local_experts": "8", "num_experts_per_tok": "2"})
		bias, scale := c.Bool(false, "attention_bias"), c.factor("attention_multiplier")
		s, err := decoderSpec(c, "granitemoe", func(a *Attention, _ *MLP) { a.Bias, a.OutBias, a.Scale = bias, bias, scale })
		s.withExperts(MoE{E: c.Int(-1, "num_local_experts"), K: c.Int(-1, "num_experts_per_tok"), Route: chosenAlone}, nil)
		s.factors(c.factor("embedding_multiplier"), c.factor("residual_multiplier"), c.factor("logits_scaling"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := granite.GGUFSpec(m)
		e := m.experts()
		e.Route = chosenAlone
		s.withExperts(e, nil)
		return s, err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = granitemoeNames
		return namedRules(s, true, names)
	},
	KV: func(s *Spec) []formats.KV {
		return append(decoderKV(s, "granitemoe"), s.factorKV("granitemoe")...)
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		kv := append(decoderConfig(s, "GraniteMoeForCausalLM", "granitemoe"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K})
		return append(kv, s.factorConfig()...)
	},
}

// granitemoeNames are those of its experts.
var granitemoeNames = expertNames{router: "block_sparse_moe.router.layer", experts: "block_sparse_moe.experts",
	gate: "block_sparse_moe.input_linear.weight", down: "block_sparse_moe.output_linear.weight"}

// chosenAlone is a softmax over the chosen experts.
var chosenAlone = kernels.RouteArgs{Kind: kernels.RouteSoftmaxTopK}
