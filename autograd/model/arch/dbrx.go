package arch

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// dbrx has LayerNorms without biases, queries, keys and values from one map that are
// cut off, and experts.
var dbrx = Arch{
	Name: "dbrx", HF: []string{"DbrxForCausalLM"}, GGUF: "dbrx",
	Spec: func(c *Config) (Spec, error) {
		attn, ffn := c.inner("attn_config"), c.inner("ffn_config")
		attn.assume(map[string]string{"kv_n_heads": "1"})
		ffn.assume(map[string]string{"ffn_hidden_size": "3584", "moe_num_experts": "4", "moe_top_k": "1"})
		c.assume(map[string]string{"d_model": "2048", "n_heads": "16", "n_layers": "24", "max_seq_len": "2048", "vocab_size": "32000"})
		s := Spec{Arch: "dbrx", C: c.Int(-1, "d_model"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_seq_len"),
			Norm: NormSpec{Kind: kernels.LayerNorm, Eps: 1e-5}, Tied: c.Bool(false, "tie_word_embeddings")}
		a := heads(c.Int(-1, "n_heads"), s.C)
		a.K, a.Fused, a.Bias, a.OutBias, a.Clip, a.Rope = attn.Int(-1, "kv_n_heads"), true, false, false, attn.clip(), 0
		if !c.has("rope_theta") && c.ropeRule() == nil && attn.has("rope_theta") {
			c.raw["rope_theta"] = attn.raw["rope_theta"]
			if base := attn.Float(-1, "rope_theta"); base != 10000 { // what the published models were trained with stands there alone
				c.notes = append(c.notes, fmt.Sprintf("config.json states rope_theta in attn_config alone: %g is computed with, as the published models were trained and as llama.cpp's converter reads it; Transformers 5 takes 10000 there", base))
			}
		}
		s.Ropes = []RopeSpec{c.Rope(a.D, s.MaxPos)}
		f := &MLP{F: ffn.Int(-1, "ffn_hidden_size")}
		if act := ffn.inner("ffn_act_fn"); act.has("name") {
			f.Act = act.Act("name")
		}
		route := kernels.RouteArgs{Renorm: true}
		if p, ok := ffn.raw["moe_normalize_expert_weights"]; ok {
			switch {
			case string(p) == "null":
				route.Renorm = false
			case ffn.Float(1, "moe_normalize_expert_weights") != 1:
				ffn.lack("moe_normalize_expert_weights", "is %s, supported are 1 and null", p)
			}
		}
		e := MoE{E: ffn.Int(-1, "moe_num_experts"), K: ffn.Int(-1, "moe_top_k"), Route: route}
		s, err := c.layers(s, "n_layers", decoder(a, f))
		s.withExperts(e, nil)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, a, f := m.older("dbrx", kernels.SiLU)
		a.Rope, a.Clip = 0, float32(m.Float(0, "attention.clamp_kqv"))
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		f.Ungated = false
		s, err := m.layers(s, decoder(a, f))
		e := m.experts()
		e.Route.Renorm = true
		s.withExperts(e, nil)
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{
			layers: "transformer.blocks.%d.",
			norms:  map[Role][2]string{AttnNorm: {"norm_attn_norm.norm_1", "attn_norm"}, MLPNorm: {"norm_attn_norm.norm_2", "attn_output_norm"}},
			modules: map[Role][2]string{Embed: {"transformer.wte", "token_embd"}, FinalNorm: {"transformer.norm_f", "output_norm"},
				QKV: {"norm_attn_norm.attn.Wqkv", "attn_qkv"}, O: {"norm_attn_norm.attn.out_proj", "attn_output"}},
			experts: expertNames{router: "ffn.router.layer", experts: "ffn.experts.mlp", gate: "ffn.experts.mlp.w1", up: "ffn.experts.mlp.v1", down: "ffn.experts.mlp.w2", flat: true},
		})
	},
	KV: func(s *Spec) []formats.KV {
		kv := append(append(append(olderKV(s, "dbrx"), keyHeads(s, "dbrx")), expertKV(s.moe(), "dbrx")...), s.rope().ggufScaling("dbrx")...)
		kv = append(kv, formats.KV{Key: "dbrx.rope.freq_base", Value: float32(s.rope().Base)})
		if clip := s.Attention().Clip; clip != 0 {
			kv = append(kv, formats.KV{Key: "dbrx.attention.clamp_kqv", Value: clip})
		}
		return kv
	},
	NoGGUF: func(s *Spec) string {
		if !s.moe().Route.Renorm {
			return "moe_normalize_expert_weights: null"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		m, a := s.moe(), s.Attention()
		attn := map[string]any{"kv_n_heads": a.K, "clip_qkv": nil, "rope_theta": s.rope().Base}
		if a.Clip != 0 {
			attn["clip_qkv"] = shortFloat(a.Clip)
		}
		ffn := map[string]any{"ffn_hidden_size": m.F, "moe_num_experts": m.E, "moe_top_k": m.K, "moe_normalize_expert_weights": 1, "ffn_act_fn": map[string]any{"name": actNames[m.Act]}}
		kv := []formats.KV{{Key: "architectures", Value: []string{"DbrxForCausalLM"}}, {Key: "model_type", Value: "dbrx"}, {Key: "d_model", Value: s.C}, {Key: "n_heads", Value: a.H}, {Key: "n_layers", Value: len(s.Layers)},
			{Key: "max_seq_len", Value: s.MaxPos}, {Key: "vocab_size", Value: s.V}, {Key: "attn_config", Value: attn}, {Key: "ffn_config", Value: ffn}, {Key: "rope_theta", Value: s.rope().Base}, {Key: "tie_word_embeddings", Value: s.Tied}}
		return append(kv, s.scalingConfig()...)
	},
}

// inner is the object under a key; without keys where there is none.
func (c *Config) inner(key string) *Config {
	o, _ := get[map[string]json.RawMessage](c, key)
	if o == nil {
		o = map[string]json.RawMessage{}
	}
	return c.within(o)
}
