package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gemma is Llama with a scaled embedding and norms whose weights count from 1.
var gemma = Arch{
	Name: "gemma", HF: []string{"GemmaForCausalLM"}, GGUF: "gemma",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "8192", "num_key_value_heads": "16", "head_dim": "256", "tie_word_embeddings": "true"})
		bias, act := c.gemmaBias(), c.gemmaAct()
		if act == kernels.GELU { // what the first releases call the approximation
			act = kernels.GELUTanh
		}
		s, err := decoderSpec(c, "gemma", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Act = bias, bias, act })
		s.gemma()
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.gemmaGGUF()
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "gemma") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "GemmaForCausalLM", "gemma"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
	},
}

// gemma is what all models of the family have.
func (s *Spec) gemma() {
	s.Norm.Offset, s.EmbedScale = 1, float32(math.Sqrt(float64(s.C)))
}

// gemmaGGUF is gemma for models in GGUF, which has one activation for them.
func (s *Spec) gemmaGGUF() {
	s.gemma()
	if m := s.mlp(); m != nil { // one for all layers
		m.Act = kernels.GELUTanh
	}
}

// gemmaAct reads the activation of Gemma's feed-forward parts.
func (c *Config) gemmaAct() kernels.ActKind {
	c.assume(map[string]string{"hidden_act": `"gelu_pytorch_tanh"`})
	return c.Act("hidden_activation", "hidden_act")
}

// gemmaBias reads whether the maps of attention have biases, and refuses Gemmas
// that look ahead.
func (c *Config) gemmaBias() bool {
	if c.Bool(false, "use_bidirectional_attention") {
		c.lack("use_bidirectional_attention", "attention to later tokens is not supported")
	}
	return c.Bool(false, "attention_bias")
}

// scalar is query_pre_attn_scalar as a factor on scores, 0 where that is the usual
// one for heads of d elements.
func (c *Config) scalar(d int) float32 {
	v := c.Float(256, "query_pre_attn_scalar")
	switch {
	case !(v > 0):
		c.fail("query_pre_attn_scalar", "is %g, want more than 0", v)
	case v != float64(d):
		return float32(1 / math.Sqrt(v))
	}
	return 0
}

// scalarConfig is query_pre_attn_scalar of config.json.
func (a *Attention) scalarConfig() formats.KV {
	v := float64(a.D)
	if a.Scale != 0 {
		v = math.Round(1 / float64(a.Scale*a.Scale))
	}
	return formats.KV{Key: "query_pre_attn_scalar", Value: v}
}

// scale is the factor on scores.
func (a *Attention) scale() float32 {
	if a.Scale != 0 {
		return a.Scale
	}
	return float32(1 / math.Sqrt(float64(a.D)))
}
