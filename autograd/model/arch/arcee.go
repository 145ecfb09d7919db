package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// arcee is Llama with the square of ReLU and without a gate.
var arcee = Arch{
	Name: "arcee", HF: []string{"ArceeForCausalLM"}, GGUF: "arcee",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "rms_norm_eps": "1e-5", "hidden_act": `"relu2"`})
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		return decoderSpec(c, "arcee", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Bias, m.Ungated = bias, bias, mlp, true })
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if f := s.mlp(); f != nil {
			f.Act, f.Ungated = kernels.ReLU2, true
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "arcee") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "ArceeForCausalLM", "arcee"),
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}
