package arch

import (
	"cmp"
	"encoding/json"

	"github.com/tunekit/tunekit/formats"
)

// exaone4 has its norms behind attention and feed-forward part, norms of each
// query and key, and, where some layers have a window, positions in these alone.
var exaone4 = Arch{
	Name: "exaone4", HF: []string{"Exaone4ForCausalLM"}, GGUF: "exaone4",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "2048", "num_key_value_heads": "32", "rms_norm_eps": "1e-5", "sliding_window": "4096"})
		s, err := decoderSpec(c, "exaone4", func(a *Attention, _ *MLP) { a.QKNorm = PerHead })
		s.normsBehind()
		local := c.windowed(len(s.Layers), c.exaonePattern(len(s.Layers)))
		if c.Int(0, "sliding_window") > 0 { // else every layer knows positions
			s.placedNear(local, c.window(local))
		} else {
			c.window(local)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.normsBehind()
		local := m.windowed(len(s.Layers), 4)
		if window := m.Int(0, "attention.sliding_window"); window > 0 {
			s.placedNear(local, window)
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, behindNames) },
	KV: func(s *Spec) []formats.KV {
		kv := decoderKV(s, "exaone4")
		if _, window := s.windows(); window > 0 {
			kv = append(kv, s.windowKV("exaone4", 4, true)...)
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "Exaone4ForCausalLM", "exaone4"), s.windowConfig()...)
	},
}

// exaonePattern reads sliding_window_pattern: a period whose last layer sees
// everything, or letters, L for a window and G, that repeat, after which the last
// layer of all sees everything.
func (c *Config) exaonePattern(layers int) func(layer int) bool {
	if c.Int(0, "sliding_window") < 1 || c.has("layer_types") {
		return lastFull(0)
	}
	var letters string
	if json.Unmarshal(c.raw["sliding_window_pattern"], &letters) != nil || letters == "" {
		return lastFull(c.Int(4, "sliding_window_pattern"))
	}
	return func(i int) bool { return letters[i%len(letters)] == 'L' && i < layers-1 }
}
