package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// smollm3 is Llama with layers that know no positions, every fourth as a rule.
var smollm3 = Arch{
	Name: "smollm3", HF: []string{"SmolLM3ForCausalLM"}, GGUF: "smollm3",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "4", "default_theta": "2e6", "tie_word_embeddings": "true"})
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		s, err := decoderSpec(c, "smollm3", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Bias = bias, bias, mlp })
		still := c.unplaced(len(s.Layers))
		some := c.Bool(false, "use_sliding_window") && c.slide() > 0
		local := c.windowed(len(s.Layers), func(i int) bool { return some && still[i] })
		size := c.window(local)
		s.vary(still, func(a *Attention) { a.Rope = NoRope })
		s.narrow(local, size)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		local := lastFulls(smollmStep, len(s.Layers))
		for i := range local {
			local[i] = !local[i]
		}
		s.vary(local, func(a *Attention) { a.Rope = NoRope })
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "smollm3") },
	Config: func(s *Spec) []formats.KV {
		places := make([]int, len(s.Layers))
		for i, a := range s.attentions() {
			if a.Rope != NoRope {
				places[i] = 1
			}
		}
		return append(decoderConfig(s, "SmolLM3ForCausalLM", "smollm3"), formats.KV{Key: "no_rope_layers", Value: places},
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}

// smollmStep is the distance of layers without positions in a GGUF, which has no
// key for it.
const smollmStep = 4

// unplaced says which of n layers know no positions: those with 0 in
// no_rope_layers, or the last of every no_rope_layer_interval.
func (c *Config) unplaced(n int) []bool {
	out := make([]bool, n)
	places, ok := get[[]int](c, "no_rope_layers")
	if ok && len(places) < n {
		c.fail("no_rope_layers", "has %d layers, the model %d", len(places), n)
		return out
	}
	step := c.Int(smollmStep, "no_rope_layer_interval")
	if !ok && step < 1 {
		c.fail("no_rope_layer_interval", "is %d, want 1 or more", step)
		return out
	}
	for i := range out {
		if ok {
			out[i] = places[i] == 0
		} else {
			out[i] = (i+1)%step == 0
		}
	}
	return out
}
