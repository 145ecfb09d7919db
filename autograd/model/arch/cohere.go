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
		if c.Bool(false, "use_qk_norm") || c.Bool(false, "attention_bias") {
			c.lack("use_qk_norm, attention_bias", "norms of queries and keys and biases of Cohere are not supported")
		}
		s, err := decoderSpec(c, "cohere", func(*Attention, *MLP) {})
		s.Tied = c.Bool(true, "tie_word_embeddings")
		s.besideEachOther(float32(c.Float(1e-5, "layer_norm_eps")), float32(c.Float(0.0625, "logit_scale")))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "cohere"
		s.besideEachOther(float32(m.Float(1e-5, "attention.layer_norm_epsilon")), float32(m.Float(0, "logit_scale")))
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		kv := append(decoderKV(s, "command-r"), formats.KV{Key: "command-r.logit_scale", Value: s.LogitScale})
		if s.rope().Type == "" {
			kv = append(kv, formats.KV{Key: "command-r.rope.scaling.type", Value: "none"})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "CohereForCausalLM", "cohere"), formats.KV{Key: "logit_scale", Value: shortFloat(s.LogitScale)})
	},
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
	s.vary(local, func(a *Attention) { a.Window = window })
}
