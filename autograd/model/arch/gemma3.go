package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
)

// gemma3 is Gemma 2 with norms of queries and keys instead of capped scores, and
// other rotary angles in layers with a window; alone, or as the half of a larger
// model that reads text.
var gemma3 = Arch{
	Name: "gemma3_text", HF: []string{"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}, GGUF: "gemma3",
	Carried: []string{"vision_tower.", "multi_modal_projector."},
	Spec: func(c *Config) (Spec, error) {
		half := c.has("text_config")
		c = c.text()
		// attn_logit_softcapping changes nothing in Transformers.
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_attention_heads": "8", "num_key_value_heads": "4", "head_dim": "256", "vocab_size": "262208",
			"tie_word_embeddings": "true", "sliding_window": "4096", "default_theta": "1e6"})
		bias, act := c.gemmaBias(), c.gemmaAct()
		base := c.Float(10000, "rope_local_base_freq")
		s, err := rotatedSpec(c, "gemma3_text", func(d, maxPos int) []RopeSpec { return c.ropePair(d, maxPos, base) }, func(a *Attention, m *MLP) {
			a.QKNorm, a.Bias, a.OutBias, m.Act, a.Scale = PerHead, bias, bias, act, c.scalar(a.D)
		})
		local := c.windowed(len(s.Layers), lastFull(c.Int(6, "sliding_window_pattern", "_sliding_window_pattern")))
		s.gemma3(local, c.window(local), c.Float(0, "final_logit_softcapping"))
		s.Half = half
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "gemma3_text"
		s.gemmaGGUF()
		if err != nil {
			return s, err
		}
		if a := s.Attention(); len(s.Layers) == gemma3Largest && s.C/a.H != a.D {
			a.Scale = float32(1 / math.Sqrt(float64(s.C/a.H)))
		}
		window := m.Int(0, "attention.sliding_window")
		local := m.windowed(len(s.Layers), 6)
		if window == 0 {
			local = nil
		}
		near := RopeSpec{Dim: s.rope().Dim, Base: m.Float(10000, "rope.freq_base_swa"), MaxPos: s.MaxPos}
		s.Ropes = append(s.Ropes, near)
		s.gemma3(local, window, m.Float(0, "final_logit_softcapping"))
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		if !s.Half {
			return namedRules(s, false, gemmaNames)
		}
		list := namedRules(s, false, wrappedNames(gemmaNames))
		rename(list, "model.language_model.", "language_model.model.")
		rename(list, "lm_head", "language_model.lm_head")
		return list
	},
	KV: gemma3KV,
	NoGGUF: func(s *Spec) string {
		if s.Ropes[1].Type != "" {
			return s.Ropes[1].Type + " rope scaling in layers with a window"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		kv := append(decoderConfig(s, "Gemma3ForCausalLM", "gemma3_text"), formats.KV{Key: "hidden_activation", Value: "gelu_pytorch_tanh"},
			a.scalarConfig(), formats.KV{Key: "attention_bias", Value: a.Bias}, formats.KV{Key: "rope_local_base_freq", Value: s.Ropes[1].Base})
		if s.LogitCap != 0 {
			kv = append(kv, formats.KV{Key: "final_logit_softcapping", Value: s.LogitCap})
		}
		return append(kv, s.windowConfig()...)
	},
}

// gemma3Largest is gemma27B of this generation.
const gemma3Largest = 62

func gemma3KV(s *Spec) []formats.KV {
	kv := append(decoderKV(s, "gemma3"), formats.KV{Key: "gemma3.rope.freq_base_swa", Value: float32(s.Ropes[1].Base)})
	if s.LogitCap != 0 {
		kv = append(kv, formats.KV{Key: "gemma3.final_logit_softcapping", Value: s.LogitCap})
	}
	return append(kv, s.windowKV("gemma3", 6, false)...)
}

// gemma3 makes the layers of equal ones: those that local names have a window and
// the second table of angles.
func (s *Spec) gemma3(local []bool, window int, logits float64) {
	s.gemma()
	s.LogitCap = float32(logits)
	s.normsAround()
	s.vary(local, func(a *Attention) { a.Window, a.Rope = window, 1 })
}
