package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// olmo is Llama with LayerNorms that have no weights, and bounds for queries, keys
// and values.
var olmo = Arch{
	Name: "olmo", HF: []string{"OlmoForCausalLM"}, GGUF: "olmo",
	Spec: func(c *Config) (Spec, error) {
		bias, clip := c.Bool(false, "attention_bias"), c.clip()
		s, err := decoderSpec(c, "olmo", func(a *Attention, _ *MLP) { a.Bias, a.OutBias, a.Clip = bias, bias, float32(clip) })
		s.Norm = bareNorm(1e-5)
		return s, err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Norm = bareNorm(float64(m.eps()))
		if a := s.Attention(); a != nil { // one for all layers
			a.Clip = float32(m.Float(0, "attention.clamp_kqv"))
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
	KV: func(s *Spec) []formats.KV {
		kv := decoderKV(s, "olmo")
		if clip := s.Attention().Clip; clip > 0 {
			kv = append(kv, formats.KV{Key: "olmo.attention.clamp_kqv", Value: clip})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		kv := append(decoderConfig(s, "OlmoForCausalLM", "olmo"), formats.KV{Key: "attention_bias", Value: a.Bias})
		if a.Clip > 0 {
			kv = append(kv, formats.KV{Key: "clip_qkv", Value: shortFloat(a.Clip)})
		}
		return kv
	},
}

// bareNorm is a LayerNorm without weights.
func bareNorm(eps float64) NormSpec {
	return NormSpec{Kind: kernels.LayerNorm, Eps: float32(eps), Bare: true}
}
