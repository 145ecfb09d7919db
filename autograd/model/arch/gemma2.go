package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gemma2 has norms before and behind its parts, whose weights count from 1, caps
// on scores and logits, and attention to a window in every other layer.
var gemma2 = Arch{
	Name: "gemma2", HF: []string{"Gemma2ForCausalLM"}, GGUF: "gemma2",
	Spec: func(c *Config) (Spec, error) {
		if c.Bool(false, "attention_bias") {
			c.lack("attention_bias", "biases of Gemma 2 are not supported")
		}
		act, scalar := c.Act("hidden_activation", "hidden_act"), c.Float(256, "query_pre_attn_scalar")
		s, err := decoderSpec(c, "gemma2", func(a *Attention, m *MLP) {
			m.Act, a.SoftCap = act, float32(c.Float(50, "attn_logit_softcapping"))
			if scalar == float64(a.D) {
				return
			}
			if a.Scale = float32(1 / math.Sqrt(scalar)); c.Int(0, "num_hidden_layers") != gemma27B {
				c.lack("query_pre_attn_scalar", "found %g, supported is the size of a head, %d", scalar, a.D)
			}
		})
		s.Tied = c.Bool(true, "tie_word_embeddings")
		s.gemma2(c.Int(4096, "sliding_window"), c.Float(30, "final_logit_softcapping"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		a, f := s.Attention(), s.mlp()
		f.Act, a.SoftCap = kernels.GELUTanh, float32(m.Float(50, "attn_logit_softcapping"))
		if len(s.Layers) == gemma27B {
			a.Scale = float32(1 / math.Sqrt(float64(s.C/a.H)))
		}
		s.gemma2(m.Int(4096, "attention.sliding_window"), m.Float(30, "final_logit_softcapping"))
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: map[Role][2]string{
			AttnNorm: {"input_layernorm", "attn_norm"}, PostAttnNorm: {"post_attention_layernorm", "post_attention_norm"},
			MLPNorm: {"pre_feedforward_layernorm", "ffn_norm"}, PostMLPNorm: {"post_feedforward_layernorm", "post_ffw_norm"}}})
	},
	KV: func(s *Spec) []formats.KV {
		a := s.Attention()
		return append(decoderKV(s, "gemma2"), formats.KV{Key: "gemma2.attn_logit_softcapping", Value: a.SoftCap},
			formats.KV{Key: "gemma2.final_logit_softcapping", Value: s.LogitCap}, formats.KV{Key: "gemma2.attention.sliding_window", Value: uint32(a.Window)})
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		scalar := float64(a.D)
		if a.Scale != 0 {
			scalar = math.Round(1 / float64(a.Scale*a.Scale))
		}
		return append(decoderConfig(s, "Gemma2ForCausalLM", "gemma2"), formats.KV{Key: "hidden_activation", Value: "gelu_pytorch_tanh"},
			formats.KV{Key: "query_pre_attn_scalar", Value: scalar}, formats.KV{Key: "attn_logit_softcapping", Value: a.SoftCap},
			formats.KV{Key: "final_logit_softcapping", Value: s.LogitCap}, formats.KV{Key: "sliding_window", Value: a.Window})
	},
}

// gemma27B is the number of layers by which llama.cpp knows the 27B model, whose
// scores are scaled by the width of the model over its heads.
const gemma27B = 46

// gemma2 makes layers of equal ones: norms on both sides of the parts, and a
// window in those with even numbers.
func (s *Spec) gemma2(window int, logits float64) {
	s.Norm.Offset, s.EmbedScale, s.LogitCap = 1, float32(math.Sqrt(float64(s.C))), float32(logits)
	if len(s.Layers) == 0 {
		return
	}
	full := s.Attention()
	local := *full
	local.Window = window
	layer := func(a *Attention) *LayerSpec {
		return &LayerSpec{Sublayers: []Sublayer{{AttnNorm, a, PostAttnNorm}, {MLPNorm, s.Layers[0].Sublayers[1].Body, PostMLPNorm}}}
	}
	both := [2]*LayerSpec{layer(&local), layer(full)}
	for i := range s.Layers {
		s.Layers[i] = both[i%2]
	}
}
