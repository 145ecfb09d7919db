package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gptBigCode is SantaCoder and StarCoder: GPT-2 with one key head, or with queries,
// keys and values head by head, which llama.cpp does not know.
var gptBigCode = Arch{
	Name: "gpt_bigcode", HF: []string{"GPTBigCodeForCausalLM"}, GGUF: "starcoder",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"activation_function": `"gelu_pytorch_tanh"`})
		return c.gpt("gpt_bigcode", func(a *Attention, _ int) {
			if a.ByKey = !c.Bool(true, "multi_query"); !a.ByKey {
				a.K = 1
			}
		})
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("gpt_bigcode", kernels.GELUTanh)
		a.K = 1
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, gptNames) },
	KV:    func(s *Spec) []formats.KV { return append(olderKV(s, "starcoder"), keyHeads(s, "starcoder")) },
	Config: func(s *Spec) []formats.KV {
		return append(gptConfig(s, "GPTBigCodeForCausalLM", "gpt_bigcode"), formats.KV{Key: "multi_query", Value: s.Attention().K == 1})
	},
}
