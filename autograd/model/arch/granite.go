package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// granite is Llama with factors on the embedding, the scores, what a layer adds
// and the logits.
var granite = Arch{
	Name: "granite", HF: []string{"GraniteForCausalLM"}, GGUF: "granite",
	Spec: func(c *Config) (Spec, error) {
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		scale := c.factor("attention_multiplier")
		s, err := decoderSpec(c, "granite", func(a *Attention, m *MLP) {
			a.Scale, a.Bias, a.OutBias, m.Bias = scale, bias, bias, mlp
		})
		s.factors(c.factor("embedding_multiplier"), c.factor("residual_multiplier"), c.factor("logits_scaling"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if a := s.Attention(); a != nil { // one for all layers
			a.Scale = float32(m.Float(0, "attention.scale"))
		}
		of := func(key string) float32 { return float32(def(m.Float(1, key), 1)) }
		s.factors(of("embedding_scale"), of("residual_scale"), of("logit_scale"))
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
	KV: func(s *Spec) []formats.KV {
		return append(decoderKV(s, "granite"), s.factorKV("granite")...)
	},
	Config: func(s *Spec) []formats.KV {
		kv := append(decoderConfig(s, "GraniteForCausalLM", "granite"),
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
		return append(kv, s.factorConfig()...)
	},
}

// factor reads a factor that is 1 where it is absent.
func (c *Config) factor(key string) float32 {
	f := c.Float(1, key)
	if !(f > 0) {
		c.fail(key, "is %g, want more than 0", f)
	}
	return float32(f)
}

// factors sets Granite's factors on the embedding and on what each layer adds, and
// what logits are divided by.
func (s *Spec) factors(embed, residual, logits float32) {
	s.EmbedScale, s.LogitScale = embed, float32(1/float64(logits))
	for _, l := range s.Layers {
		l.Residual = residual
	}
}

// factorKV are the keys of a GGUF below prefix p.
func (s *Spec) factorKV(p string) []formats.KV {
	return []formats.KV{{Key: p + ".attention.scale", Value: s.Attention().scale()}, {Key: p + ".embedding_scale", Value: s.EmbedScale},
		{Key: p + ".residual_scale", Value: s.Layers[0].Residual}, {Key: p + ".logit_scale", Value: float32(1 / float64(s.LogitScale))}}
}

// factorConfig are the same in config.json.
func (s *Spec) factorConfig() []formats.KV {
	return []formats.KV{{Key: "attention_multiplier", Value: shortFloat(s.Attention().scale())}, {Key: "embedding_multiplier", Value: shortFloat(s.EmbedScale)},
		{Key: "residual_multiplier", Value: shortFloat(s.Layers[0].Residual)}, {Key: "logits_scaling", Value: shortFloat(float32(1 / float64(s.LogitScale)))}}
}
