package arch

import (
	"github.com/tunekit/tunekit/kernels"
)

// gptJ has one LayerNorm for attention and feed-forward part beside each other,
// rotation of neighbouring elements in a part of each head, and biases in the
// feed-forward part and the head only. llama.cpp does not know it.
var gptJ = Arch{
	Name: "gptj", HF: []string{"GPTJForCausalLM"}, PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"activation_function": `"gelu_new"`, "rotary_dim": "64"})
		s := Spec{
			Arch: "gptj", C: c.Int(-1, "n_embd", "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "n_positions", "max_position_embeddings"),
			Norm: c.layerNorms("layer_norm_epsilon"), Tied: c.Bool(false, "tie_word_embeddings"), HeadBias: true,
		}
		a := heads(c.Int(-1, "n_head", "num_attention_heads"), s.C)
		a.Bias, a.OutBias, a.Rope, a.Pairs = false, false, 0, kernels.Adjacent
		if !c.has("rotary_dim") {
			c.lack("rotary_dim", "is null; models whose heads rotate as wide as the model are not supported")
		}
		s.Ropes = []RopeSpec{{Dim: c.Int(0, "rotary_dim"), Base: 10000, MaxPos: s.MaxPos}}
		return c.layers(s, "n_layer", beside(a, &MLP{F: c.Int(4*s.C, "n_inner"), Act: c.Act("activation_function"), Ungated: true, Bias: true}, false))
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{layers: "transformer.h.%d.", norms: map[Role][2]string{AttnNorm: {"ln_1", "attn_norm"}}, modules: map[Role][2]string{
			Embed: {"transformer.wte", "token_embd"}, FinalNorm: {"transformer.ln_f", "output_norm"},
			Q: {"attn.q_proj", "attn_q"}, K: {"attn.k_proj", "attn_k"}, V: {"attn.v_proj", "attn_v"}, O: {"attn.out_proj", "attn_output"},
			Up: {"mlp.fc_in", "ffn_up"}, Down: {"mlp.fc_out", "ffn_down"},
		}})
	},
}
