package arch

import (
	"cmp"
	"encoding/json"

	"github.com/tunekit/tunekit/formats"
)

// qwen2 is Llama with biases on q, k and v; GGUF keeps its row order.
var qwen2 = Arch{
	Name: "qwen2", HF: []string{"Qwen2ForCausalLM"}, GGUF: "qwen2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "32"})
		s, err := decoderSpec(c, "qwen2", func(a *Attention, _ *MLP) { a.Bias = true })
		s.qwenWindows(c, fromNth)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "qwen2") },
	Config:   func(s *Spec) []formats.KV { return decoderConfig(s, "Qwen2ForCausalLM", "qwen2") },
}

// qwenWindows gives a window to the layers of a Qwen that have one where
// use_sliding_window asks for any: those that layer_types names, or that has tells of a
// layer and max_window_layers.
func (s *Spec) qwenWindows(c *Config, has func(layer, n int) bool) {
	some := func(int) bool { return false }
	if c.Bool(false, "use_sliding_window") {
		c.assume(map[string]string{"sliding_window": "4096", "max_window_layers": "28"})
		n, size := c.Int(28, "max_window_layers"), c.slide()
		some = func(i int) bool { return has(i, n) && size > 0 }
	} else {
		c.raw["sliding_window"] = json.RawMessage("null")
	}
	local := c.windowed(len(s.Layers), some)
	window := c.window(local)
	s.narrow(local, window)
}

// fromNth tells of layers from the nth on.
func fromNth(layer, n int) bool { return layer >= n }
