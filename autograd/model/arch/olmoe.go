package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// olmoe is OLMo with experts: norms before the parts, and of all queries and all
// keys of a token.
var olmoe = Arch{
	Name: "olmoe", HF: []string{"OlmoeForCausalLM"}, GGUF: "olmoe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "rms_norm_eps": "1e-5", "num_experts": "64", "num_experts_per_tok": "8"})
		bias, clip := c.Bool(false, "attention_bias"), c.clip()
		s, err := decoderSpec(c, "olmoe", func(a *Attention, _ *MLP) {
			a.QKNorm, a.Bias, a.OutBias, a.Clip = WholeWidth, bias, bias, float32(clip)
		})
		s.withExperts(MoE{E: c.Int(-1, "num_experts", "num_local_experts"), K: c.Int(-1, "num_experts_per_tok"), Route: kernels.RouteArgs{Renorm: c.Bool(false, "norm_topk_prob")}}, nil)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.withExperts(m.experts(), nil)
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "olmoe") },
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		kv := decoderConfig(s, "OlmoeForCausalLM", "olmoe")
		if clip := s.Attention().Clip; clip > 0 {
			kv = append(kv, formats.KV{Key: "clip_qkv", Value: shortFloat(clip)})
		}
		return append(kv, formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "norm_topk_prob", Value: m.Route.Renorm})
	},
}
