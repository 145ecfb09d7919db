package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// cohere is Command R: one LayerNorm for attention and feed-forward part beside
// each other, rotation of neighbouring elements, and scaled logits.
var cohere = Arch{
	Name: "cohere", HF: []string{"CohereForCausalLM"}, GGUF: "command-r",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "8192", "default_theta": "500000", "tie_word_embeddings": "true"})
		bias, norm := c.Bool(false, "attention_bias"), NoQKNorm
		if c.Bool(false, "use_qk_norm") {
			norm = OwnPerHead
		}
		s, err := decoderSpec(c, "cohere", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = norm, bias, bias })
		s.besideEachOther(float32(c.Float(1e-5, "layer_norm_eps")), float32(c.Float(0.0625, "logit_scale")))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "cohere"
		s.besideEachOther(m.eps(), float32(m.Float(0, "logit_scale")))
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:    func(s *Spec) []formats.KV { return cohereKV(s, "command-r") },
	Config: func(s *Spec) []formats.KV {
		a := s.Attention()
		return append(decoderConfig(s, "CohereForCausalLM", "cohere"), formats.KV{Key: "logit_scale", Value: shortFloat(s.LogitScale)},
			formats.KV{Key: "use_qk_norm", Value: a.QKNorm != NoQKNorm}, formats.KV{Key: "attention_bias", Value: a.Bias})
	},
}

// cohere2 is Command R7B and A: layers with a window, which alone know positions,
// and every fourth that sees everything.
var cohere2 = Arch{
	Name: "cohere2", HF: []string{"Cohere2ForCausalLM"}, GGUF: "cohere2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "8192", "tie_word_embeddings": "true", "sliding_window": "4096"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "cohere2", func(a *Attention, _ *MLP) { a.Bias, a.OutBias = bias, bias })
		local := c.windowed(len(s.Layers), lastFull(c.Int(cohere2Period, "sliding_window_pattern")))
		s.besideEachOther(float32(c.Float(1e-5, "layer_norm_eps")), float32(c.Float(0.0625, "logit_scale")))
		s.placedNear(local, c.window(local))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.besideEachOther(m.eps(), float32(m.Float(0, "logit_scale")))
		s.placedNear(m.windowed(len(s.Layers), cohere2Period), m.Int(-1, "attention.sliding_window"))
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		return append(cohereKV(s, "cohere2"), s.windowKV("cohere2", cohere2Period, false)...)
	},
	Config: func(s *Spec) []formats.KV {
		kv := append(decoderConfig(s, "Cohere2ForCausalLM", "cohere2"), formats.KV{Key: "logit_scale", Value: shortFloat(s.LogitScale)},
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
		return append(kv, s.windowConfig()...)
	},
}

// cohere2Period is the distance of layers that see everything, where a file does
// not state it.
const cohere2Period = 4

func cohereKV(s *Spec, p string) []formats.KV {
	kv := append(decoderKV(s, p), formats.KV{Key: p + ".logit_scale", Value: s.LogitScale})
	if s.rope().Type == "" {
		kv = append(kv, formats.KV{Key: p + ".rope.scaling.type", Value: "none"})
	}
	return kv
}

// besideEachOther makes the parts of every layer read one LayerNorm.
func (s *Spec) besideEachOther(eps, logits float32) {
	s.Norm, s.LogitScale = NormSpec{Kind: kernels.LayerNorm, Eps: eps}, logits
	for _, l := range s.Layers {
		l.Parallel = true
		for i := range l.Sublayers {
			l.Sublayers[i].Pre = AttnNorm
		}
	}
	if a := s.Attention(); a != nil { // one for all layers
		a.Pairs = kernels.Adjacent
	}
}

// placedNear gives the layers that local names a window, and leaves positions to
// them alone.
func (s *Spec) placedNear(local []bool, window int) {
	far := make([]bool, len(local))
	for i := range local {
		far[i] = !local[i]
	}
	s.vary(far, func(a *Attention) { a.Rope = NoRope })
	s.narrow(local, window)
}
