package arch

import (
	"github.com/tunekit/tunekit/kernels"
)

// opt has a table of positions that begins with its third row, biases everywhere,
// and in one size norms behind the sums and maps around the blocks. llama.cpp does
// not know it.
var opt = Arch{
	Name: "opt", HF: []string{"OPTForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"activation_function": `"relu"`})
		affine := c.Bool(true, "layer_norm_elementwise_affine")
		before, bias := c.Bool(true, "do_layer_norm_before"), c.Bool(true, "enable_bias")
		s := Spec{
			Arch: "opt", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
			Norm: NormSpec{Kind: kernels.LayerNorm, Eps: 1e-5, Bias: affine, Bare: !affine}, Tied: c.Bool(true, "tie_word_embeddings"),
			NoFinalNorm: !before || c.Bool(false, "_remove_final_layer_norm"), PosOffset: 2,
		}
		s.Positions = s.MaxPos + s.PosOffset
		if s.EmbedWidth = c.Int(s.C, "word_embed_proj_dim"); s.EmbedWidth == s.C {
			s.EmbedWidth = 0
		}
		a := heads(c.Int(-1, "num_attention_heads"), s.C)
		a.Bias, a.OutBias = bias, bias
		l := decoder(a, &MLP{F: c.Int(-1, "ffn_dim"), Act: c.Act("activation_function"), Ungated: true, Bias: bias})
		if !before {
			l = &LayerSpec{NormSum: true, Sublayers: []Sublayer{{Body: a, Post: PostAttnNorm}, {Body: l.Sublayers[1].Body, Post: PostMLPNorm}}}
		}
		return c.layers(s, "num_hidden_layers", l)
	},
	Rules: func(s *Spec) []Rule {
		attn, feed := [2]string{"self_attn_layer_norm", "attn_norm"}, [2]string{"final_layer_norm", "ffn_norm"}
		return namedRules(s, false, layerNames{layers: "model.decoder.layers.%d.", norms: map[Role][2]string{
			AttnNorm: attn, PostAttnNorm: attn, MLPNorm: feed, PostMLPNorm: feed,
		}, modules: map[Role][2]string{
			Embed: {"model.decoder.embed_tokens", "token_embd"}, Position: {"model.decoder.embed_positions", "position_embd"},
			FinalNorm: {"model.decoder.final_layer_norm", "output_norm"},
			ProjectIn: {"model.decoder.project_in", "token_proj_in"}, ProjectOut: {"model.decoder.project_out", "token_proj_out"},
			O: {"self_attn.out_proj", "attn_output"}, Up: {"fc1", "ffn_up"}, Down: {"fc2", "ffn_down"},
		}})
	},
}
