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
		bias, scores := c.Bool(false, "attention_bias"), c.Float(1, "attention_multiplier")
		s, err := decoderSpec(c, "granitemoe", func(a *Attention, _ *MLP) { a.Bias, a.OutBias, a.Scale = bias, bias, float32(scores) })
		s.withExperts(MoE{E: c.Int(-1, "num_local_experts"), K: c.Int(-1, "num_experts_per_tok"), Route: chosenAlone}, nil)
		s.graniteFactors(c.Float(1, "embedding_multiplier"), c.Float(1, "residual_multiplier"), c.Float(1, "logits_scaling"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Attention().Scale = float32(m.Float(0, "attention.scale"))
		e := m.experts()
		e.Route = chosenAlone
		s.withExperts(e, nil)
		s.graniteFactors(m.Float(1, "embedding_scale"), m.Float(1, "residual_scale"), m.Float(1, "logit_scale"))
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = expertNames{router: "block_sparse_moe.router.layer", experts: "block_sparse_moe.experts",
			gate: "block_sparse_moe.input_linear.weight", down: "block_sparse_moe.output_linear.weight"}
		return namedRules(s, true, names)
	},
	KV: func(s *Spec) []formats.KV {
		f := func(k string, v float32) formats.KV { return formats.KV{Key: "granitemoe." + k, Value: v} }
		return append(decoderKV(s, "granitemoe"), f("attention.scale", s.Attention().Scale), f("embedding_scale", s.EmbedScale),
			f("residual_scale", s.Layers[0].Residual), f("logit_scale", divisor(s.LogitScale)))
	},
	Config: func(s *Spec) []formats.KV {
		m, a := s.moe(), s.Attention()
		f := func(k string, v float32) formats.KV { return formats.KV{Key: k, Value: shortFloat(v)} }
		return append(decoderConfig(s, "GraniteMoeForCausalLM", "granitemoe"), formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K},
			f("attention_multiplier", a.Scale), f("embedding_multiplier", s.EmbedScale), f("residual_multiplier", s.Layers[0].Residual), f("logits_scaling", divisor(s.LogitScale)))
	},
}

// chosenAlone is a softmax over the chosen experts.
var chosenAlone = kernels.RouteArgs{Kind: kernels.RouteSoftmaxTopK}

// graniteFactors sets the factors of Granite on the embedding and on what the parts
// add, and the divisor of its logits.
func (s *Spec) graniteFactors(embed, residual, logits float64) {
	s.EmbedScale, s.LogitScale = float32(embed), float32(1/logits)
	for _, l := range s.Layers {
		l.Residual = float32(residual)
	}
}

// divisor is the d of which scale is 1/d, as a file states it.
func divisor(scale float32) float32 { return float32(shortFloat(1 / scale)) }
