package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gpt2 has a table of positions, biases everywhere, and linear maps that Hugging
// Face files hold as [in, out].
var gpt2 = Arch{
	Name: "gpt2", HF: []string{"GPT2LMHeadModel"}, GGUF: "gpt2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"activation_function": `"gelu_new"`})
		byLayer := c.Bool(false, "scale_attn_by_inverse_layer_idx")
		return c.gpt("gpt2", func(a *Attention, layer int) {
			if byLayer {
				a.Scale = float32(float64(gptScale(a)) / float64(layer+1))
			}
		})
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("gpt2", kernels.GELUTanh)
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule {
		names := gptNames
		names.transposed = true
		return namedRules(s, false, names)
	},
	KV:     func(s *Spec) []formats.KV { return olderKV(s, "gpt2") },
	Config: func(s *Spec) []formats.KV { return gptConfig(s, "GPT2LMHeadModel", "gpt2") },
}

// gptNames are those of GPT-2.
var gptNames = layerNames{layers: "transformer.h.%d.", norms: map[Role][2]string{
	AttnNorm: {"ln_1", "attn_norm"}, MLPNorm: {"ln_2", "ffn_norm"},
}, modules: map[Role][2]string{
	Embed: {"transformer.wte", "token_embd"}, Position: {"transformer.wpe", "position_embd"}, FinalNorm: {"transformer.ln_f", "output_norm"},
	QKV: {"attn.c_attn", "attn_qkv"}, O: {"attn.c_proj", "attn_output"}, Up: {"mlp.c_fc", "ffn_up"}, Down: {"mlp.c_proj", "ffn_down"},
}}

// gptScale is the scale of scores of a.
func gptScale(a *Attention) float32 {
	if a.Scale != 0 {
		return a.Scale
	}
	return float32(1 / math.Sqrt(float64(a.D)))
}

// gpt reads a config.json in the words of GPT-2; more says what a family changes in
// a layer's attention.
func (c *Config) gpt(name string, more func(a *Attention, layer int)) (Spec, error) {
	if c.Bool(false, "add_cross_attention") {
		c.lack("add_cross_attention", "is true: attention to another model is not supported")
	}
	s := Spec{
		Arch: name, C: c.Int(-1, "n_embd", "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(1024, "n_positions", "max_position_embeddings"),
		Norm: c.layerNorms("layer_norm_epsilon"), Tied: c.Bool(true, "tie_word_embeddings"),
	}
	s.Positions = s.MaxPos
	f := &MLP{F: c.Int(4*s.C, "n_inner"), Act: c.Act("activation_function"), Ungated: true, Bias: true}
	scaled, h := c.Bool(true, "scale_attn_weights"), c.Int(-1, "n_head", "num_attention_heads")
	s, err := c.layers(s, "n_layer", nil)
	for i := range s.Layers {
		a := heads(h, s.C)
		if a.Fused = true; !scaled {
			a.Scale = 1
		}
		more(a, i)
		s.Layers[i] = decoder(a, f)
	}
	return s, cmp.Or(err, c.err)
}
