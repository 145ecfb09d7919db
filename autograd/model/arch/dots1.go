package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// dots1 is dots.llm1: Qwen3's attention and the experts of DeepSeek V3.
var dots1 = Arch{
	Name: "dots1", HF: []string{"Dots1ForCausalLM"}, GGUF: "dots1", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"num_key_value_heads": "32", "norm_topk_prob": "false", "sliding_window": "4096", "max_window_layers": "62"})
		c.only("scoring_func", `"sigmoid"`, `"noaux_tc"`) // the released model says the latter, and means the former
		c.only("topk_method", `"noaux_tc"`)
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "dots1", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = PerHead, bias, bias })
		m := c.latentExperts(biasedSigmoid)
		m.Select = true
		s.withExperts(m, c.sparseLayers(0))
		if local := c.windowed(len(s.Layers), from(c.Int(0, "max_window_layers"))); c.has("sliding_window") {
			size := c.window(local)
			s.narrow(local, size)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: routedGGUF("dots1"),
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	NoGGUF:   (*Spec).scattered,
	KV:       func(s *Spec) []formats.KV { return append(decoderKV(s, "dots1"), s.routerKV("dots1")...) },
	Config: func(s *Spec) []formats.KV {
		return append(append(decoderConfig(s, "Dots1ForCausalLM", "dots1"), s.expertConfig()...), formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "sliding_window", Value: nil})
	},
}
