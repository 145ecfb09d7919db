package arch

import (
	"encoding/json"
	"strconv"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gptNeoX is GPT-NeoX and Pythia: attention and feed-forward part beside each other
// with a norm each, rotation of a part of each head, and queries, keys and values in
// one map, head by head.
var gptNeoX = Arch{
	Name: "gpt_neox", HF: []string{"GPTNeoXForCausalLM"}, GGUF: "gptneox", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"hidden_act": `"gelu"`})
		// What other classes call them, this one does not read outside of a rule.
		c.unread("partial_rotary_factor", "rotary_pct", 0.25)
		c.unread("rope_theta", "rotary_emb_base", 10000)
		s := Spec{
			Arch: "gpt_neox", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
			Norm: c.layerNorms("layer_norm_eps"), Tied: c.Bool(false, "tie_word_embeddings"),
		}
		a := heads(c.Int(-1, "num_attention_heads"), s.C)
		if d := c.Int(a.D, "head_dim"); d != a.D {
			c.lack("head_dim", "is %d, but heads of this class have hidden_size / num_attention_heads, %d", d, a.D)
		}
		a.Fused, a.ByKey, a.Rope = true, true, 0
		a.Bias = c.Bool(true, "attention_bias")
		a.OutBias = a.Bias
		s.Ropes = []RopeSpec{c.partRope(a.D, s.MaxPos, 0.25)}
		f := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act"), Ungated: true, Bias: true}
		return c.layers(s, "num_hidden_layers", gptNeoXLayer(a, f, c.Bool(true, "use_parallel_residual")))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("gpt_neox", kernels.GELU)
		a.ByKey, a.Rope = true, 0
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, gptNeoXLayer(a, f, m.Bool(true, "use_parallel_residual")))
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: usualNames.norms, layers: "gpt_neox.layers.%d.", modules: map[Role][2]string{
			Embed: {"gpt_neox.embed_in", "token_embd"}, FinalNorm: {"gpt_neox.final_layer_norm", "output_norm"}, Head: {"embed_out", "output"},
			QKV: {"attention.query_key_value", "attn_qkv"}, O: {"attention.dense", "attn_output"},
			Up: {"mlp.dense_h_to_4h", "ffn_up"}, Down: {"mlp.dense_4h_to_h", "ffn_down"},
		}})
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(olderKV(s, "gptneox"), rotationKV(s, "gptneox")...)
		return append(kv, formats.KV{Key: "gptneox.use_parallel_residual", Value: s.Layers[0].Parallel})
	},
	Config: func(s *Spec) []formats.KV {
		r := s.rope()
		return append(partConfig(s, "GPTNeoXForCausalLM", "gpt_neox"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "rotary_pct", Value: float64(r.Dim) / float64(s.Attention().D)}, formats.KV{Key: "rotary_emb_base", Value: r.Base},
			formats.KV{Key: "use_parallel_residual", Value: s.Layers[0].Parallel})
	},
}

// unread refuses a number beside the rule of rotation under a key that the class does not
// read there, where it is another than what it reads, the number under reads (absent:
// usual), and gives it that one.
func (c *Config) unread(key, reads string, usual float64) {
	if rule := c.ropeRule(); rule != nil && rule.has(key) {
		return
	}
	want := c.Float(usual, reads)
	if v := c.Float(want, key); v != want {
		c.fail(key, "is %g, which this class does not read; call it %s", v, reads)
	}
	c.raw[key] = json.RawMessage(strconv.FormatFloat(want, 'g', -1, 64))
}

func gptNeoXLayer(a *Attention, f *MLP, parallel bool) *LayerSpec {
	if parallel {
		return beside(a, f, true)
	}
	return decoder(a, f)
}
