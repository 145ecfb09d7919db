package arch

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// jamba has Mamba mixers, in some layers attention without positions instead,
// and experts in some.
var jamba = Arch{
	Name: "jamba", HF: []string{"JambaForCausalLM"}, GGUF: "jamba",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "65536", "hidden_size": "4096", "intermediate_size": "14336", "num_hidden_layers": "32", "num_attention_heads": "32",
			"num_key_value_heads": "8", "max_position_embeddings": "262144"})
		if c.Int(0, "sliding_window") > 0 {
			c.lack("sliding_window", "sliding attention of Jamba is not supported")
		}
		s := Spec{Arch: "jamba", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings")}
		s.emptyLayers(c)
		n := len(s.Layers)
		a := c.attention(s.C)
		mlp := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")}
		e := &MoE{E: c.Int(16, "num_experts"), K: c.Int(2, "num_experts_per_tok"), F: mlp.F, Act: mlp.Act}
		sparse := c.period("expert_layer", 2, 1, n)
		if e.E == 1 { // which is a feed-forward part as any other
			sparse = make([]bool, n)
		}
		s.jambaLayers(c.period("attn_layer", 8, 4, n), sparse, a, c.mamba1(s.C), mlp, e)
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{Arch: "jamba", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
		full := m.emptyLayers(&s)
		var sparse []bool
		for i := range s.Layers {
			sparse = append(sparse, m.Has(fmt.Sprintf("blk.%d.ffn_gate_inp.weight", i)))
		}
		a := m.hybridAttention(s.C, len(s.Layers))
		mlp := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU}
		e := m.experts()
		e.F = mlp.F
		mixer := &Mamba1{I: m.Int(-1, "ssm.inner_size"), S: m.Int(-1, "ssm.state_size"), R: m.Int(-1, "ssm.time_step_rank"), Taps: m.Int(-1, "ssm.conv_kernel"), ConvBias: true}
		s.jambaLayers(full, sparse, a, mixer, mlp, &e)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := layerNames{norms: map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"pre_ff_layernorm", "ffn_norm"}}, experts: hubExperts}
		return respell(namedRules(s, false, names), []string{".mlp.gate.weight", ".feed_forward.router.weight", ".mlp.", ".feed_forward.", "model.norm", "model.final_layernorm"}, nil, nil)
	},
	KV: func(s *Spec) []formats.KV {
		u := func(k string, v int) formats.KV { return formats.KV{Key: "jamba." + k, Value: uint32(v)} }
		a, m := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*Mamba1](s), &Mamba1{})
		inner, _ := s.feed()
		kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C), u("feed_forward_length", inner), u("attention.head_count", a.H),
			{Key: "jamba.attention.head_count_kv", Value: s.keyHeads()}, u("ssm.conv_kernel", m.Taps), u("ssm.inner_size", m.I), u("ssm.state_size", m.S), u("ssm.time_step_rank", m.R),
			{Key: "jamba.attention.layer_norm_rms_epsilon", Value: s.Norm.Eps}}
		if e := s.moe(); e != nil {
			kv = append(kv, u("expert_count", e.E), u("expert_used_count", e.K))
		}
		return kv
	},
	NoGGUF: func(s *Spec) string {
		if m := first[*Mamba1](s); m != nil && (m.Bias || !m.ConvBias || m.I != 2*s.C) {
			return "mamba_proj_bias, no mamba_conv_bias or another mamba_expand than 2"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		a, m := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*Mamba1](s), &Mamba1{})
		inner, _ := s.feed()
		period, offset := periodOf(s.keyHeads())
		kv := []formats.KV{{Key: "architectures", Value: []string{"JambaForCausalLM"}}, {Key: "model_type", Value: "jamba"},
			{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: inner}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "num_attention_heads", Value: a.H},
			{Key: "num_key_value_heads", Value: a.K}, {Key: "hidden_act", Value: "silu"}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)},
			{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V}, {Key: "mamba_d_conv", Value: m.Taps}, {Key: "mamba_d_state", Value: m.S},
			{Key: "mamba_dt_rank", Value: m.R}, {Key: "mamba_expand", Value: m.I / s.C}, {Key: "mamba_conv_bias", Value: m.ConvBias}, {Key: "mamba_proj_bias", Value: m.Bias},
			{Key: "attn_layer_period", Value: period}, {Key: "attn_layer_offset", Value: offset}}
		e := s.moe()
		if e == nil {
			return append(kv, formats.KV{Key: "num_experts", Value: 1})
		}
		period, offset = periodOf(s.expertLayers())
		return append(kv, formats.KV{Key: "num_experts", Value: e.E}, formats.KV{Key: "num_experts_per_tok", Value: e.K},
			formats.KV{Key: "expert_layer_period", Value: period}, formats.KV{Key: "expert_layer_offset", Value: offset})
	},
}

// period reads which of n layers are of a kind: every so many from an offset on.
func (c *Config) period(kind string, period, offset, n int) []bool {
	period, offset = c.Int(period, kind+"_period"), c.Int(offset, kind+"_offset")
	if period < 1 || offset < 0 || offset >= period {
		c.fail(kind+"_offset", "is %d of a period of %d", offset, period)
		return nil
	}
	out := make([]bool, n)
	for i := range out {
		out[i] = i%period == offset
	}
	return out
}

// periodOf is the rule that period reads, for layers of a kind where kind is not
// 0: of one such layer, or none, the period is the number of layers and more.
func periodOf(kind []int32) (period, offset int) {
	var at []int
	for i, v := range kind {
		if v != 0 {
			at = append(at, i)
		}
	}
	switch len(at) {
	case 0:
		return len(kind) + 1, len(kind)
	case 1:
		return max(len(kind), at[0]+1), at[0]
	}
	return at[1] - at[0], at[0]
}

// expertLayers are the experts of every layer.
func (s *Spec) expertLayers() []int32 {
	out := make([]int32, len(s.Layers))
	for i, l := range s.Layers {
		if e, ok := bodyOf[*MoE](l); ok {
			out[i] = int32(e.E)
		}
	}
	return out
}

// mamba1 reads the mixer of a model of width width.
func (c *Config) mamba1(width int) *Mamba1 {
	m := &Mamba1{I: c.Int(2, "mamba_expand") * width, S: c.Int(16, "mamba_d_state"), Taps: c.Int(4, "mamba_d_conv"), Act: c.Act("hidden_act"), Bias: c.Bool(false, "mamba_proj_bias"), ConvBias: c.Bool(true, "mamba_conv_bias")}
	if raw, ok := c.raw["mamba_dt_rank"]; !ok || string(raw) == `"auto"` {
		m.R = int(math.Ceil(float64(width) / 16))
	} else {
		m.R = c.Int(-1, "mamba_dt_rank")
	}
	return m
}

// jambaLayers makes the layers: attention where full says so, else Mamba;
// experts where sparse says so, else one feed-forward part.
func (s *Spec) jambaLayers(full, sparse []bool, a *Attention, m *Mamba1, mlp *MLP, e *MoE) {
	a.Rope = NoRope
	for i := range s.Layers {
		var mixer, feed Body = m, mlp
		if i < len(full) && full[i] {
			mixer = a
		}
		if i < len(sparse) && sparse[i] {
			feed = e
		}
		s.Layers[i] = decoder(mixer, feed)
	}
}

// hybridAttention are the heads of those of n layers that have attention.
func (m *Metadata) hybridAttention(width, n int) *Attention {
	a := &Attention{H: m.Int(-1, "attention.head_count")}
	if a.H > 0 {
		a.D = m.Int(width/a.H, "attention.key_length")
	}
	a.K = slices.Max(append(m.perLayer(-1, n, "attention.head_count_kv"), 0))
	if a.K == 0 { // no layer has attention
		a.K = a.H
	}
	return a
}
