package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// phi3 is Llama with q, k and v in one map, gate and up in another, a window in
// all layers, and angles by searched divisors in long versions.
var phi3 = Arch{
	Name: "phi3", HF: []string{"Phi3ForCausalLM"}, GGUF: "phi3", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "original_max_position_embeddings": "4096", "rms_norm_eps": "1e-5"})
		window := c.slide()
		s, err := rotatedSpec(c, "phi3", c.phi3Rope, func(a *Attention, m *MLP) { a.Fused, m.Fused, a.Window = true, true, window })
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if a := s.Attention(); a != nil { // one for all layers
			a.Fused, a.Window = true, m.Int(0, "attention.sliding_window")
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		kv := decoderKV(s, "phi3")
		if s.rope().Type == "" { // which says it, too
			kv = append(kv, formats.KV{Key: "phi3.rope.scaling.original_context_length", Value: uint32(s.rope().OrigMax)})
		}
		return append(kv, formats.KV{Key: "phi3.attention.sliding_window", Value: uint32(s.Attention().Window)})
	},
	Config: func(s *Spec) []formats.KV {
		kv := append(decoderConfig(s, "Phi3ForCausalLM", "phi3"), s.partConfig(),
			formats.KV{Key: "original_max_position_embeddings", Value: s.rope().OrigMax})
		for _, e := range kv {
			if rule, ok := e.Value.(map[string]any); ok { // early releases refuse what stands beside it
				delete(rule, "original_max_position_embeddings")
			}
		}
		if n := s.Attention().Window; n > 0 {
			kv = append(kv, formats.KV{Key: "sliding_window", Value: n})
		}
		return kv
	},
}

// phi3Rope reads the table of angles. Whatever rule has divisors is longrope, as
// early versions called it otherwise.
func (c *Config) phi3Rope(d, maxPos int) []RopeSpec {
	r := c.partRope(d, maxPos, 1)
	if r.Type == "su" || r.Type == "yarn" {
		r.Type = "longrope"
	}
	if r.OrigMax == 0 {
		r.OrigMax = c.Int(maxPos, "original_max_position_embeddings")
	}
	if r.Type != "" && r.Type != "longrope" {
		c.lack("rope_scaling", "%s is nothing that Phi-3 has; known: longrope", r.Type)
	}
	return []RopeSpec{r}
}
