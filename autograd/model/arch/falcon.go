package arch

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// falcon has three shapes: attention of one key head and feed-forward part beside
// each other behind one norm (7B), several key heads and a norm each (40B, 180B) or
// one norm again (11B), and one after the other with linear biases (RW). Queries,
// keys and values are one map, by key heads. Of these llama.cpp knows those that
// rotate, without biases.
var falcon = Arch{
	Name: "falcon", HF: []string{"FalconForCausalLM"}, GGUF: "falcon",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"activation": `"gelu"`})
		c.rename("n_head", "num_attention_heads")
		c.rename("n_layer", "num_hidden_layers")
		if c.Bool(false, "apply_residual_connection_post_layernorm") {
			c.lack("apply_residual_connection_post_layernorm", "is true: a residual stream of normed values is not supported")
		}
		s := Spec{
			Arch: "falcon", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
			Norm: c.layerNorms("layer_norm_epsilon"), Tied: c.Bool(true, "tie_word_embeddings"),
		}
		bias := c.Bool(false, "bias")
		a := heads(c.Int(-1, "num_attention_heads"), s.C)
		a.Fused, a.ByKey, a.Bias, a.OutBias = true, true, bias, bias
		grouped := c.Bool(false, "new_decoder_architecture")
		switch {
		case grouped:
			a.K = c.Int(a.H, "num_kv_heads", "n_head_kv")
		case c.Bool(true, "multi_query"):
			a.K = 1
		}
		if c.Bool(false, "alibi") {
			s.falconSlopes(a)
		} else {
			a.Rope, s.Ropes = 0, []RopeSpec{c.Rope(a.D, s.MaxPos)}
		}
		f := &MLP{F: c.Int(4*s.C, "ffn_hidden_size"), Act: c.Act("activation"), Ungated: true, Bias: bias}
		parallel, norms := c.Bool(true, "parallel_attn"), c.Int(1, "num_ln_in_parallel_attn")
		if grouped && !c.has("num_ln_in_parallel_attn") {
			norms = 2
		}
		if grouped && !parallel || !grouped && norms != 1 || norms < 1 || norms > 2 {
			c.lack("parallel_attn, num_ln_in_parallel_attn", "found %v and %d: no Falcon with new_decoder_architecture %v has that", parallel, norms, grouped)
		}
		if !parallel {
			return c.layers(s, "num_hidden_layers", decoder(a, f))
		}
		return c.layers(s, "num_hidden_layers", beside(a, f, norms == 2))
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("falcon", kernels.GELU)
		a.Fused, a.ByKey, a.Rope = true, true, 0
		a.Bias, a.OutBias, f.Bias = false, false, false
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		return m.layers(s, beside(a, f, m.Has("blk.0.attn_norm_2.weight")))
	},
	Rules: func(s *Spec) []Rule {
		names := layerNames{layers: "transformer.h.%d.", modules: map[Role][2]string{
			Embed: {"transformer.word_embeddings", "token_embd"}, FinalNorm: {"transformer.ln_f", "output_norm"},
			QKV: {"self_attention.query_key_value", "attn_qkv"}, O: {"self_attention.dense", "attn_output"},
			Up: {"mlp.dense_h_to_4h", "ffn_up"}, Down: {"mlp.dense_4h_to_h", "ffn_down"},
		}, norms: usualNames.norms}
		if l := s.Layers[0]; l.Parallel && l.Sublayers[1].Pre == MLPNorm {
			names.norms = map[Role][2]string{AttnNorm: {"ln_attn", "attn_norm_2"}, MLPNorm: {"ln_mlp", "attn_norm"}}
		}
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(append(olderKV(s, "falcon"), keyHeads(s, "falcon")), rotationKV(s, "falcon")...)
		for i := range kv {
			if kv[i].Key == "falcon.context_length" { // the converter's, whatever the model's is
				kv[i].Value = uint32(2048)
			}
		}
		return append(kv, formats.KV{Key: "falcon.tensor_data_layout", Value: "jploski"})
	},
	Config: func(s *Spec) []formats.KV {
		a, l := s.Attention(), s.Layers[0]
		norms := 1
		if l.Sublayers[1].Pre == MLPNorm {
			norms = 2
		}
		inner, act := s.feed()
		kv := decoderConfig(s, "FalconForCausalLM", "falcon")
		kv = slices.DeleteFunc(kv, func(kv formats.KV) bool { return kv.Key == "head_dim" }) // Falcon's class takes none
		return append(kv, formats.KV{Key: "ffn_hidden_size", Value: inner}, formats.KV{Key: "activation", Value: actNames[act]},
			formats.KV{Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)}, formats.KV{Key: "num_kv_heads", Value: a.K}, formats.KV{Key: "alibi", Value: false},
			formats.KV{Key: "bias", Value: false}, formats.KV{Key: "multi_query", Value: true}, formats.KV{Key: "parallel_attn", Value: true},
			formats.KV{Key: "new_decoder_architecture", Value: a.K > 1 || norms == 2}, formats.KV{Key: "num_ln_in_parallel_attn", Value: norms})
	},
}

// falconSlopes gives a the slopes of Falcon as Transformers computes with eager
// attention: in bf16, scaled as scores are, and counted twice, for the bias is in
// the mask and added to the scores as well. SDPA attention, which Transformers 5.23 takes
// where nothing is asked for, counts it once, as the code that Falcon RW came with does:
// that is the trained model, from which logits differ here by as much as the bias makes.
// Products of slope and position, which are rounded to bf16 there, are not here:
// that matters beyond position 256 or with more than 8 heads.
func (s *Spec) falconSlopes(a *Attention) {
	a.ALiBi, s.Slopes = true, alibiSlopes(min(a.H, maxHeads))
	roundBF16(s.Slopes)
	for i := range s.Slopes {
		s.Slopes[i] *= float32(2 / math.Sqrt(float64(a.D)))
	}
}
