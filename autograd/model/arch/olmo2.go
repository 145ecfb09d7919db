package arch

import (
	"cmp"
	"slices"

	"github.com/tunekit/tunekit/formats"
)

// olmo2 is Llama with its norms behind attention and feed-forward part instead
// of before them, and norms of all queries and all keys of a token.
var olmo2 = Arch{
	Name: "olmo2", HF: []string{"Olmo2ForCausalLM"}, GGUF: "olmo2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"rms_norm_eps": "1e-5"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "olmo2", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = WholeWidth, bias, bias })
		s.normsBehind()
		return s, err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.wholeNorms()
		s.normsBehind()
		return s, err
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, behindNames) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "olmo2") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "Olmo2ForCausalLM", "olmo2"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
	},
}

// olmo3 is OLMo 2 with a window in three of four layers, which rotate plainly
// where the others extend the context. In GGUF both are called olmo2.
var olmo3 = Arch{
	Name: "olmo3", HF: []string{"Olmo3ForCausalLM"}, GGUF: "olmo2",
	IsGGUF: func(m *Metadata) bool { return m.Int(0, "attention.sliding_window") > 0 },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"rms_norm_eps": "1e-5", "sliding_window": "4096", "default_theta": "500000"})
		bias := c.Bool(false, "attention_bias")
		if base := c.Float(olmo3Local, "rope_theta"); base != olmo3Local && !c.has("rope_parameters") {
			c.lack("rope_theta", "is %g: Transformers 4 turns layers with a window by it, Transformers 5 by %d; state rope_parameters for each kind of layer", base, olmo3Local)
		}
		s, err := rotatedSpec(c, "olmo3", func(d, maxPos int) []RopeSpec { return c.ropePair(d, maxPos, olmo3Local) }, func(a *Attention, _ *MLP) {
			a.QKNorm, a.Bias, a.OutBias = WholeWidth, bias, bias
		})
		local := c.windowed(len(s.Layers), lastFull(4))
		s.olmo3(local, c.window(local))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "olmo3"
		s.wholeNorms()
		s.Ropes = append(s.Ropes, RopeSpec{Dim: s.rope().Dim, Base: s.rope().Base, MaxPos: s.MaxPos})
		s.olmo3(m.windowed(len(s.Layers), 4), m.Int(0, "attention.sliding_window"))
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, behindNames) },
	NoGGUF: func(s *Spec) string {
		if near := s.Ropes[1]; near.Type != "" || near.Base != s.rope().Base {
			return "other rotary angles than plain ones of the same base in layers with a window"
		}
		return ""
	},
	KV: func(s *Spec) []formats.KV { return append(decoderKV(s, "olmo2"), s.windowKV("olmo2", 4, true)...) },
	Config: func(s *Spec) []formats.KV {
		kv := append(decoderConfig(s, "Olmo3ForCausalLM", "olmo3"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
		if near := s.Ropes[1].Base; near != olmo3Local {
			full := ropeScaling(s.rope())
			if full == nil {
				full = map[string]any{"rope_type": "default"}
			}
			full["rope_theta"] = s.rope().Base
			kv = slices.DeleteFunc(kv, func(e formats.KV) bool { return e.Key == "rope_theta" || e.Key == "rope_scaling" })
			kv = append(kv, formats.KV{Key: "rope_parameters", Value: map[string]any{"full_attention": full, "sliding_attention": map[string]any{"rope_type": "default", "rope_theta": near}}})
		}
		return append(kv, s.windowConfig()...)
	},
}

// olmo3Local is the base of layers with a window where config.json has no rule for them.
const olmo3Local = 500000

// behindNames are the names of layers whose norms are behind their parts.
var behindNames = layerNames{norms: map[Role][2]string{
	PostAttnNorm: {"post_attention_layernorm", "post_attention_norm"}, PostMLPNorm: {"post_feedforward_layernorm", "post_ffw_norm"}}}

// normsBehind moves the norms of every layer from before its parts to behind them.
func (s *Spec) normsBehind() {
	for _, l := range s.Layers {
		for i := range l.Sublayers {
			l.Sublayers[i].Pre, l.Sublayers[i].Post = None, []Role{PostAttnNorm, PostMLPNorm}[i]
		}
	}
}

// wholeNorms says that norms of queries and keys span all heads, of which there
// may be one.
func (s *Spec) wholeNorms() {
	if a := s.Attention(); a != nil { // one for all layers
		a.QKNorm = WholeWidth
	}
}

// olmo3 makes the layers of equal ones.
func (s *Spec) olmo3(local []bool, window int) {
	s.normsBehind()
	s.vary(local, func(a *Attention) { a.Window, a.Rope = window, 1 })
}
