package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// mistral is Llama whose layers may attend to a window. In GGUF both are called
// llama; llama.cpp does not read the window's size there.
var mistral = Arch{
	Name: "mistral", HF: []string{"MistralForCausalLM"}, GGUF: "llama",
	IsGGUF: func(m *Metadata) bool { return m.Int(0, "attention.sliding_window") > 0 },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "8", "sliding_window": "4096"})
		window := c.slide()
		return decoderSpec(c, "mistral", func(a *Attention, _ *MLP) { a.Window = window })
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "mistral"
		if a := s.Attention(); a != nil { // one for all layers
			a.Window = m.Int(0, "attention.sliding_window")
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
	KV: func(s *Spec) []formats.KV {
		kv := decoderKV(s, "llama")
		if n := s.Attention().Window; n > 0 {
			kv = append(kv, formats.KV{Key: "llama.attention.sliding_window", Value: uint32(n)})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "MistralForCausalLM", "mistral"), s.slideConfig())
	},
}

// slideConfig is sliding_window of config.json, of a window that all layers have.
func (s *Spec) slideConfig() formats.KV {
	kv := formats.KV{Key: "sliding_window"}
	if n := s.Attention().Window; n > 0 {
		kv.Value = n
	}
	return kv
}

// ministral is Mistral with a window in some layers only.
var ministral = Arch{
	Name: "ministral", HF: []string{"MinistralForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "8", "sliding_window": "4096"})
		size := c.slide()
		local := c.windowed(c.Int(0, "num_hidden_layers"), func(int) bool { return size > 0 })
		size = c.window(local)
		s, err := decoderSpec(c, "ministral", func(*Attention, *MLP) {})
		s.narrow(local, size)
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
}
