package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
)

// gemma2 has norms before and behind its parts, whose weights count from 1, caps
// on scores and logits, and attention to a window in every other layer.
var gemma2 = Arch{
	Name: "gemma2", HF: []string{"Gemma2ForCausalLM"}, GGUF: "gemma2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(gemma2Defaults)
		s, err := c.capped("gemma2")
		s.normsAround()
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.gemmaGGUF()
		if err != nil {
			return s, err
		}
		a := s.Attention()
		a.SoftCap, s.LogitCap = float32(m.Float(50, "attn_logit_softcapping")), float32(m.Float(30, "final_logit_softcapping"))
		if len(s.Layers) == gemma27B && s.C/a.H != a.D {
			a.Scale = float32(1 / math.Sqrt(float64(s.C/a.H)))
		}
		s.normsAround()
		window := m.Int(4096, "attention.sliding_window")
		s.narrow(m.windowed(len(s.Layers), 2), window)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, gemmaNames) },
	KV: func(s *Spec) []formats.KV {
		kv := append(decoderKV(s, "gemma2"), formats.KV{Key: "gemma2.attn_logit_softcapping", Value: s.Attention().SoftCap},
			formats.KV{Key: "gemma2.final_logit_softcapping", Value: s.LogitCap})
		return append(kv, s.windowKV("gemma2", 2, false)...)
	},
	NoGGUF: func(s *Spec) string {
		switch { // llama.cpp divides by what a file states, and takes 50 and 30 where it states nothing
		case s.Attention().SoftCap == 0:
			return "attn_logit_softcapping: null"
		case s.LogitCap == 0:
			return "final_logit_softcapping: null"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		kv := append(decoderConfig(s, "Gemma2ForCausalLM", "gemma2"), formats.KV{Key: "hidden_activation", Value: "gelu_pytorch_tanh"},
			a.scalarConfig(), formats.KV{Key: "attn_logit_softcapping", Value: orNone(a.SoftCap)}, formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "final_logit_softcapping", Value: orNone(s.LogitCap)})
		return append(kv, s.windowConfig()...)
	},
}

// vaultGemma is Gemma 2 without norms behind the parts.
var vaultGemma = Arch{
	Name: "vaultgemma", HF: []string{"VaultGemmaForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(gemma2Defaults)
		return c.capped("vaultgemma")
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, gemmaNames) },
}

// gemma2Defaults are what keys are that a config leaves out.
var gemma2Defaults = map[string]string{"max_position_embeddings": "8192", "num_key_value_heads": "4", "head_dim": "256", "tie_word_embeddings": "true",
	"sliding_window": "4096", "attn_logit_softcapping": "50", "final_logit_softcapping": "30"}

// gemmaNames are the names of Gemma 2 and later ones.
var gemmaNames = layerNames{norms: map[Role][2]string{
	AttnNorm: {"input_layernorm", "attn_norm"}, PostAttnNorm: {"post_attention_layernorm", "post_attention_norm"},
	MLPNorm: {"pre_feedforward_layernorm", "ffn_norm"}, PostMLPNorm: {"post_feedforward_layernorm", "post_ffw_norm"}}}

// orNone is a number as config.json states it, null where there is none.
func orNone(v float32) any {
	if v == 0 {
		return nil
	}
	return shortFloat(v)
}

// gemma27B is the number of layers by which llama.cpp knows the 27B model, whose
// scores are scaled by the width of the model over its heads.
const gemma27B = 46

// capped reads what Gemma 2 and VaultGemma share.
func (c *Config) capped(name string) (Spec, error) {
	bias, act := c.gemmaBias(), c.gemmaAct()
	scores, logits := float32(c.Float(0, "attn_logit_softcapping")), float32(c.Float(0, "final_logit_softcapping"))
	s, err := decoderSpec(c, name, func(a *Attention, m *MLP) {
		a.Bias, a.OutBias, m.Act, a.SoftCap, a.Scale = bias, bias, act, scores, c.scalar(a.D)
	})
	s.gemma()
	s.LogitCap = logits
	local := c.windowed(len(s.Layers), lastFull(2))
	window := c.window(local)
	s.narrow(local, window)
	return s, cmp.Or(err, c.err)
}

// normsAround gives every part a norm of its output beside that of its input.
func (s *Spec) normsAround() {
	for _, l := range s.Layers {
		l.Sublayers[0].Post, l.Sublayers[1].Post = PostAttnNorm, PostMLPNorm
	}
}
