package arch

import (
	"encoding/json"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// mpt has LayerNorms and maps without biases, linear biases of scores, and queries,
// keys and values in one map.
var mpt = Arch{
	Name: "mpt", HF: []string{"MptForCausalLM", "MPTForCausalLM"}, GGUF: "mpt",
	Spec: func(c *Config) (Spec, error) {
		s := Spec{
			Arch: "mpt", C: c.Int(-1, "d_model", "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_seq_len"),
			Norm: NormSpec{Kind: kernels.LayerNorm, Eps: float32(c.Float(1e-5, "layer_norm_epsilon"))}, Tied: c.Bool(true, "tie_word_embeddings"),
		}
		if n := c.Float(4, "expansion_ratio"); n != 4 {
			c.lack("expansion_ratio", "is %g; feed-forward parts of MPT are 4 times as wide as the model", n)
		}
		if !c.Bool(true, "no_bias") {
			c.lack("no_bias", "is false: biases of MPT are not supported")
		}
		if c.has("logit_scale") {
			c.lack("logit_scale", "is %s: scaled logits of MPT are not supported", c.raw["logit_scale"])
		}
		if norm := c.String("low_precision_layernorm", "norm_type"); norm != "low_precision_layernorm" && norm != "layernorm" {
			c.lack("norm_type", "%q is not supported; known: low_precision_layernorm, layernorm", norm)
		}
		a := heads(c.Int(-1, "n_heads", "num_attention_heads"), s.C)
		a.Fused, a.Bias, a.OutBias, a.ALiBi = true, false, false, true
		s.Slopes = alibiSlopes(min(a.H, maxHeads))
		c.mptAttention(a)
		return c.layers(s, "n_layers", decoder(a, &MLP{F: 4 * s.C, Act: kernels.GELU, Ungated: true}))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("mpt", kernels.GELU)
		a.Clip = float32(m.Float(0, "attention.clamp_kqv"))
		a.ALiBi, s.Slopes = true, alibiSlopes(min(a.H, maxHeads))
		if most := m.Float(8, "attention.max_alibi_bias"); most != 8 {
			m.lack("attention.max_alibi_bias", "is %g; supported is 8", most)
		}
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{layers: "transformer.blocks.%d.", norms: map[Role][2]string{
			AttnNorm: {"norm_1", "attn_norm"}, MLPNorm: {"norm_2", "ffn_norm"},
		}, modules: map[Role][2]string{
			Embed: {"transformer.wte", "token_embd"}, FinalNorm: {"transformer.norm_f", "output_norm"},
			QKV: {"attn.Wqkv", "attn_qkv"}, O: {"attn.out_proj", "attn_output"}, Up: {"ffn.up_proj", "ffn_up"}, Down: {"ffn.down_proj", "ffn_down"},
		}})
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(olderKV(s, "mpt"), formats.KV{Key: "mpt.attention.max_alibi_bias", Value: float32(8)})
		if clip := s.Attention().Clip; clip > 0 {
			kv = append(kv, formats.KV{Key: "mpt.attention.clamp_kqv", Value: clip})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		attn := map[string]any{"model_type": "", "alibi": true, "alibi_bias_max": 8, "clip_qkv": nil}
		if clip := s.Attention().Clip; clip > 0 {
			attn["clip_qkv"] = shortFloat(clip)
		}
		return []formats.KV{
			{Key: "architectures", Value: []string{"MptForCausalLM"}}, {Key: "model_type", Value: "mpt"}, {Key: "d_model", Value: s.C},
			{Key: "n_layers", Value: len(s.Layers)}, {Key: "n_heads", Value: s.Attention().H}, {Key: "max_seq_len", Value: s.MaxPos},
			{Key: "expansion_ratio", Value: 4}, {Key: "no_bias", Value: true}, {Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)},
			{Key: "attn_config", Value: attn},
			{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
		}
	},
}

// mptAttention reads attn_config into a. The largest exponent of slopes is 8 in all
// published models, and in Transformers whatever the file says.
func (c *Config) mptAttention(a *Attention) {
	raw, _ := get[map[string]json.RawMessage](c, "attn_config")
	in := c.within(raw)
	for key, neutral := range map[string]bool{"qk_ln": false, "prefix_lm": false, "attn_uses_sequence_id": false, "alibi": true} {
		if v := in.Bool(neutral, key); v != neutral {
			c.lack("attn_config."+key, "is %v; supported is %v", v, neutral)
		}
	}
	if kind := in.String("multihead_attention", "attn_type"); kind != "multihead_attention" {
		c.lack("attn_config.attn_type", "%q is not supported; known: multihead_attention", kind)
	}
	a.Clip, a.Scale = in.clip(), float32(in.Float(0, "softmax_scale"))
	if most := in.Float(8, "alibi_bias_max"); most != 8 {
		c.lack("attn_config.alibi_bias_max", "is %g; supported is 8", most)
	}
}
