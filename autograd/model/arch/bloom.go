package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// bloom has linear biases of scores instead of positions, a norm behind the
// embedding, biases everywhere, and queries, keys and values in one map, head by
// head.
var bloom = Arch{
	Name: "bloom", HF: []string{"BloomForCausalLM"}, GGUF: "bloom",
	Spec: func(c *Config) (Spec, error) {
		s := Spec{
			Arch: "bloom", C: c.Int(-1, "n_embed", "hidden_size"), V: c.Int(-1, "vocab_size"), Norm: c.layerNorms("layer_norm_epsilon"),
			Tied: c.Bool(true, "tie_word_embeddings"), EmbedNorm: true,
		}
		s.MaxPos = c.Int(s.C, "seq_length") // as llama.cpp's converter has it where the file states none
		a := heads(c.Int(-1, "n_head", "num_attention_heads"), s.C)
		s.bloom(a)
		key := "n_layer"
		if !c.has(key) {
			key = "num_hidden_layers"
		}
		l := decoder(a, &MLP{F: 4 * s.C, Act: kernels.GELUTanh, Ungated: true, Bias: true})
		l.NormedStream = c.Bool(false, "apply_residual_connection_post_layernorm")
		return c.layers(s, key, l)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("bloom", kernels.GELUTanh)
		s.bloom(a)
		return m.layers(s, decoder(a, f))
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{layers: "transformer.h.%d.", norms: usualNames.norms, modules: map[Role][2]string{
			Embed: {"transformer.word_embeddings", "token_embd"}, EmbedNorm: {"transformer.word_embeddings_layernorm", "token_embd_norm"},
			FinalNorm: {"transformer.ln_f", "output_norm"},
			QKV:       {"self_attention.query_key_value", "attn_qkv"}, O: {"self_attention.dense", "attn_output"},
			Up: {"mlp.dense_h_to_4h", "ffn_up"}, Down: {"mlp.dense_4h_to_h", "ffn_down"},
		}})
	},
	KV: func(s *Spec) []formats.KV { return append(olderKV(s, "bloom"), keyHeads(s, "bloom")) },
	Config: func(s *Spec) []formats.KV {
		return []formats.KV{
			{Key: "architectures", Value: []string{"BloomForCausalLM"}}, {Key: "model_type", Value: "bloom"}, {Key: "hidden_size", Value: s.C},
			{Key: "n_layer", Value: len(s.Layers)}, {Key: "n_head", Value: s.Attention().H}, {Key: "seq_length", Value: s.MaxPos},
			{Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)}, {Key: "apply_residual_connection_post_layernorm", Value: s.Layers[0].NormedStream},
			{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
		}
	},
}

// bloom makes a attention with linear biases.
func (s *Spec) bloom(a *Attention) {
	a.Fused, a.ByKey, a.ALiBi, s.Slopes = true, true, true, alibiSlopes(min(a.H, maxHeads))
}
