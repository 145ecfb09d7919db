package arch

import (
	"cmp"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// graniteHybrid is Granite 4: Mamba-2 in most layers, attention as a rule without
// positions in the others, and Granite's factors.
var graniteHybrid = Arch{
	Name: "granitemoehybrid", HF: []string{"GraniteMoeHybridForCausalLM"}, GGUF: "granitehybrid",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "32000", "hidden_size": "4096", "num_hidden_layers": "32", "num_attention_heads": "32", "max_position_embeddings": "2048",
			"shared_intermediate_size": "1024"})
		s := Spec{Arch: "granitemoehybrid", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings"), EmbedScale: float32(c.Float(1, "embedding_multiplier"))}
		if by := c.Float(1, "logits_scaling"); by > 0 {
			s.LogitScale = float32(1 / by)
		} else {
			c.fail("logits_scaling", "is %g", by)
		}
		s.emptyLayers(c)
		a := c.attention(s.C)
		a.Bias, a.Scale = c.Bool(false, "attention_bias"), float32(c.Float(1, "attention_multiplier"))
		a.OutBias, a.Rope = a.Bias, NoRope
		s.Ropes = []RopeSpec{c.Rope(a.D, s.MaxPos)}
		switch kind := c.String("", "position_embedding_type"); kind {
		case "", "nope":
		case "rope":
			a.Rope = 0
		default:
			c.lack("position_embedding_type", "%q is not supported; known: rope", kind)
		}
		mlp := &MLP{F: c.Int(-1, "shared_intermediate_size"), Act: c.Act("hidden_act"), Fused: true}
		full := make([]bool, len(s.Layers))
		if c.has("layer_types") {
			full = c.layerKinds(len(s.Layers), map[string]bool{"full_attention": true, "attention": true, "linear_attention": false, "mamba": false})
		}
		var feed Body = mlp
		if n := c.Int(8, "num_local_experts"); n > 0 {
			feed = besideExperts(&MoE{E: n, K: c.Int(2, "num_experts_per_tok"), F: c.Int(11008, "intermediate_size"), Act: mlp.Act}, mlp)
		}
		s.graniteLayers(full, a, c.mamba2(s.C, s.Norm.Eps), feed, float32(c.Float(1, "residual_multiplier")))
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{Arch: "granitemoehybrid", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight"), EmbedScale: float32(m.Float(1, "embedding_scale"))}
		if by := m.Float(1, "logit_scale"); by > 0 {
			s.LogitScale = float32(1 / by)
		}
		full := m.emptyLayers(&s)
		a := m.hybridAttention(s.C, len(s.Layers))
		a.Scale, a.Rope = float32(m.Float(0, "attention.scale")), NoRope
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		if on, _ := m.kv[m.prefix+".rope.scaling.finetuned"].(bool); on {
			a.Rope = 0
		}
		mlp := &MLP{F: m.Int(-1, "expert_shared_feed_forward_length"), Act: kernels.SiLU, Fused: true}
		var feed Body = mlp
		if n := m.Int(0, "expert_count"); n > 0 {
			feed = besideExperts(&MoE{E: n, K: m.Int(-1, "expert_used_count"), F: m.Int(-1, "feed_forward_length"), Act: mlp.Act}, mlp)
		}
		s.graniteLayers(full, a, m.mamba2(s.Norm.Eps), feed, float32(m.Float(1, "residual_scale")))
		return s, m.err
	},
	Rules: graniteRules,
	KV: func(s *Spec) []formats.KV {
		const p = "granitehybrid."
		u := func(k string, v int) formats.KV { return formats.KV{Key: p + k, Value: uint32(v)} }
		a, m, f := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*Mamba2](s), &Mamba2{}), s.mlp().F
		e := cmp.Or(s.moe(), &MoE{F: f})
		kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", endless), u("embedding_length", s.C), u("feed_forward_length", e.F), u("attention.head_count", a.H),
			{Key: p + "attention.head_count_kv", Value: s.keyHeads()}, {Key: p + "rope.freq_base", Value: float32(s.rope().Base)}, {Key: p + "attention.layer_norm_rms_epsilon", Value: s.Norm.Eps},
			u("expert_count", e.E), u("expert_used_count", e.K), u("vocab_size", s.V), u("rope.dimension_count", s.rope().Dim), {Key: p + "attention.scale", Value: a.Scale},
			{Key: p + "embedding_scale", Value: s.EmbedScale}, {Key: p + "residual_scale", Value: s.Layers[0].Residual}, {Key: p + "logit_scale", Value: 1 / s.LogitScale},
			u("expert_shared_feed_forward_length", f), {Key: p + "rope.scaling.finetuned", Value: a.Rope != NoRope}}
		return append(kv, m.kv("granitehybrid")...)
	},
	NoGGUF: func(s *Spec) string {
		if a := s.Attention(); a != nil && a.Rope != NoRope {
			return "attention with positions beside Mamba"
		}
		return first[*Mamba2](s).noGGUF()
	},
	Config: func(s *Spec) []formats.KV {
		a, m := cmp.Or(s.Attention(), &Attention{H: 1, K: 1, Scale: 1, Rope: NoRope}), cmp.Or(first[*Mamba2](s), &Mamba2{})
		e := cmp.Or(s.moe(), &MoE{F: s.mlp().F})
		kv := []formats.KV{{Key: "architectures", Value: []string{"GraniteMoeHybridForCausalLM"}}, {Key: "model_type", Value: "granitemoehybrid"},
			{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: e.F}, {Key: "shared_intermediate_size", Value: s.mlp().F}, {Key: "num_hidden_layers", Value: len(s.Layers)},
			{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K}, {Key: "hidden_act", Value: "silu"}, {Key: "max_position_embeddings", Value: s.MaxPos},
			{Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V}, {Key: "rope_theta", Value: s.rope().Base},
			{Key: "attention_bias", Value: a.Bias}, {Key: "attention_multiplier", Value: shortFloat(a.Scale)}, {Key: "embedding_multiplier", Value: shortFloat(s.EmbedScale)},
			{Key: "logits_scaling", Value: shortFloat(1 / s.LogitScale)}, {Key: "residual_multiplier", Value: shortFloat(s.Layers[0].Residual)}, {Key: "num_local_experts", Value: e.E},
			{Key: "num_experts_per_tok", Value: e.K}, {Key: "layer_types", Value: s.layerTypes("attention", "mamba")}}
		if a.Rope != NoRope {
			kv = append(kv, formats.KV{Key: "position_embedding_type", Value: "rope"})
		}
		return append(kv, m.config(s.C)...)
	},
}

// splitGate lets GGUF have gate and up apart.
func (r *Rule) splitGate() {
	half := r.Rows / 2
	up := r.GGUF[0]
	gate := up
	gate.Name = strings.Replace(up.Name, "ffn_up", "ffn_gate", 1)
	gate.Rows, up.Rows = Rows{0, half, half, 1}, Rows{half, half, half, 1}
	r.GGUF = []Piece{gate, up}
}

// besideExperts is a feed-forward part for every token, and experts, of whose
// scores those of the chosen count alone.
func besideExperts(e *MoE, mlp *MLP) Body {
	e.Route = chosenAlone
	return &Beside{[]Body{e, mlp}}
}

// graniteLayers makes the layers: attention where full says so, else Mamba.
func (s *Spec) graniteLayers(full []bool, a *Attention, m *Mamba2, feed Body, residual float32) {
	both := map[bool]*LayerSpec{true: decoder(a, feed), false: decoder(m, feed)}
	for i := range s.Layers {
		s.Layers[i] = both[i < len(full) && full[i]]
		s.Layers[i].Residual = residual
	}
}
