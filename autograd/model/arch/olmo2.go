package arch

import (
	"github.com/tunekit/tunekit/formats"
)

// olmo2 is Llama with its norms behind attention and feed-forward part instead
// of before them, and norms of all queries and all keys of a token.
var olmo2 = Arch{
	Name: "olmo2", HF: []string{"Olmo2ForCausalLM"}, GGUF: "olmo2",
	Spec: func(c *Config) (Spec, error) {
		if c.Bool(false, "attention_bias") {
			c.lack("attention_bias", "biases of OLMo 2 are not supported")
		}
		s, err := decoderSpec(c, "olmo2", func(a *Attention, _ *MLP) { a.QKNorm = WholeWidth })
		s.normsBehind()
		return s, err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.normsBehind()
		return s, err
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: map[Role][2]string{
			PostAttnNorm: {"post_attention_layernorm", "post_attention_norm"}, PostMLPNorm: {"post_feedforward_layernorm", "post_ffw_norm"}}})
	},
	KV:     func(s *Spec) []formats.KV { return decoderKV(s, "olmo2") },
	Config: func(s *Spec) []formats.KV { return decoderConfig(s, "Olmo2ForCausalLM", "olmo2") },
}

// normsBehind moves the norms of every layer from before its parts to behind them.
func (s *Spec) normsBehind() {
	for _, l := range s.Layers {
		for i := range l.Sublayers {
			l.Sublayers[i].Pre, l.Sublayers[i].Post = None, []Role{PostAttnNorm, PostMLPNorm}[i]
		}
	}
}
