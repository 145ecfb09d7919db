package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// ernie45 is Llama with rotation of neighbouring elements.
var ernie45 = Arch{
	Name: "ernie4_5", HF: []string{"Ernie4_5ForCausalLM"}, GGUF: "ernie4_5",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "2", "head_dim": "128", "rms_norm_eps": "1e-5",
			"default_theta": "500000", "tie_word_embeddings": "true"})
		bias := c.Bool(false, "use_bias")
		return decoderSpec(c, "ernie4_5", func(a *Attention, m *MLP) {
			a.Pairs, a.Bias, a.OutBias, m.Bias = kernels.Adjacent, bias, bias, bias
		})
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if a := s.Attention(); a != nil { // one for all layers
			a.Pairs = kernels.Adjacent
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "ernie4_5") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "Ernie4_5ForCausalLM", "ernie4_5"), formats.KV{Key: "use_bias", Value: s.Attention().Bias})
	},
}
