package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
)

// mamba2 has nothing but Mamba-2 mixers.
var mamba2 = Arch{
	Name: "mamba2", HF: []string{"Mamba2ForCausalLM"}, GGUF: "mamba2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "32768", "hidden_size": "4096", "num_hidden_layers": "64"})
		eps := float32(c.Float(1e-5, "layer_norm_epsilon"))
		s := Spec{Arch: "mamba2", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: endless, Norm: NormSpec{Eps: eps}, Tied: c.Bool(false, "tie_word_embeddings")}
		m := &Mamba2{H: c.Int(128, "num_heads"), P: c.Int(64, "head_dim"), G: c.Int(8, "n_groups"), S: c.Int(128, "state_size"), Taps: c.Int(4, "conv_kernel"),
			Bias: c.Bool(false, "use_bias"), ConvBias: c.Bool(true, "use_conv_bias"), Norm: GateThenNorm, NormEps: eps}
		m.OutBias = m.Bias
		c.mambaRest(m, int(c.Float(2, "expand")*float64(s.C)))
		if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
			c.err = s.repeat(n, &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: m}}})
		}
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{Arch: "mamba2", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
		err := s.repeat(m.Int(-1, "block_count"), &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: m.mamba2(s.Norm.Eps)}}})
		return s, cmp.Or(m.err, err)
	},
	Rules: func(s *Spec) []Rule {
		names := layerNames{norms: map[Role][2]string{AttnNorm: {"norm", "attn_norm"}}}
		return respell(namedRules(s, false, names), []string{"model.embed_tokens", "backbone.embeddings", "model.norm", "backbone.norm_f", "model.layers", "backbone.layers", ".mamba.", ".mixer."}, nil, nil)
	},
	KV: func(s *Spec) []formats.KV {
		u := func(k string, v int) formats.KV { return formats.KV{Key: "mamba2." + k, Value: uint32(v)} }
		kv := []formats.KV{u("context_length", s.MaxPos), u("embedding_length", s.C), u("feed_forward_length", 0), u("attention.head_count", 0), u("block_count", len(s.Layers))}
		return append(append(kv, first[*Mamba2](s).kv("mamba2")...), formats.KV{Key: "mamba2.attention.layer_norm_rms_epsilon", Value: s.Norm.Eps})
	},
	NoGGUF: func(s *Spec) string { return first[*Mamba2](s).noGGUF() },
	Config: func(s *Spec) []formats.KV {
		m := first[*Mamba2](s)
		return []formats.KV{{Key: "architectures", Value: []string{"Mamba2ForCausalLM"}}, {Key: "model_type", Value: "mamba2"},
			{Key: "hidden_size", Value: s.C}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "vocab_size", Value: s.V}, {Key: "tie_word_embeddings", Value: s.Tied},
			{Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)}, {Key: "hidden_act", Value: "silu"}, {Key: "expand", Value: float64(m.inner()) / float64(s.C)},
			{Key: "num_heads", Value: m.H}, {Key: "head_dim", Value: m.P}, {Key: "n_groups", Value: m.G}, {Key: "state_size", Value: m.S}, {Key: "conv_kernel", Value: m.Taps},
			{Key: "use_bias", Value: m.Bias}, {Key: "use_conv_bias", Value: m.ConvBias}}
	},
}

// endless is the context length of models that state none, as llama.cpp's
// converter has it.
const endless = 1 << 20

// mambaRest reads what all families with Mamba-2 state alike, and checks the
// width of the mixer, inner.
func (c *Config) mambaRest(m *Mamba2, inner int) {
	m.Act = c.Act("mamba_hidden_act", "hidden_act")
	if m.inner() != inner {
		c.fail("num_heads", "%d heads of %d do not make the width of the mixer, %d", m.H, m.P, inner)
	}
	m.DtMin, m.DtMax = c.timeSteps()
}

// timeSteps reads time_step_limit: the least and the greatest time step, 0 where
// there is no greatest. (time_step_min and time_step_max are of initialisation.)
func (c *Config) timeSteps() (lo, hi float32) {
	list, ok := get[[]pythonFloat](c, "time_step_limit")
	if !ok {
		return 0, 0
	}
	if len(list) != 2 || !(list[0] >= 0) || !(list[1] > 0) || math.IsInf(float64(list[0]), 0) {
		c.fail("time_step_limit", "is %s, want a least and a greatest time step", c.raw["time_step_limit"])
		return 0, 0
	}
	if lo = float32(list[0]); math.IsInf(float64(list[1]), 1) {
		return lo, 0
	}
	return lo, float32(list[1])
}

// noGGUF says what llama.cpp has no key for.
func (m *Mamba2) noGGUF() string {
	switch {
	case m == nil:
		return ""
	case m.DtMin != 0 || m.DtMax != 0:
		return "time_step_limit"
	case m.Bias || m.OutBias:
		return "a bias of Mamba's maps"
	case !m.ConvBias:
		return "a convolution without a bias"
	}
	return ""
}

// kv are the keys of the mixer below prefix p.
func (m *Mamba2) kv(p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + ".ssm." + k, Value: uint32(v)} }
	return []formats.KV{u("conv_kernel", m.Taps), u("inner_size", m.inner()), u("state_size", m.S), u("time_step_rank", m.H), u("group_count", m.G)}
}

// mamba2 reads the mixer.
func (m *Metadata) mamba2(eps float32) *Mamba2 {
	s := &Mamba2{H: m.Int(-1, "ssm.time_step_rank"), G: m.Int(-1, "ssm.group_count"), S: m.Int(-1, "ssm.state_size"), Taps: m.Int(-1, "ssm.conv_kernel"), ConvBias: true,
		Norm: GateThenNorm, NormEps: eps}
	if s.H > 0 {
		s.P = m.Int(-1, "ssm.inner_size") / s.H
	}
	return s
}

// mamba2 reads the keys that begin with mamba_, of a model of width width.
func (c *Config) mamba2(width int, eps float32) *Mamba2 {
	m := &Mamba2{H: c.Int(128, "mamba_n_heads"), G: c.Int(1, "mamba_n_groups"), S: c.Int(256, "mamba_d_state"), Taps: c.Int(4, "mamba_d_conv"),
		Bias: c.Bool(false, "mamba_proj_bias"), ConvBias: c.Bool(true, "mamba_conv_bias"), Norm: GateThenNorm, NormEps: eps}
	m.OutBias = m.Bias
	inner := c.Int(c.Int(2, "mamba_expand")*width, "mamba_d_ssm")
	if raw, ok := c.raw["mamba_d_head"]; (!ok || string(raw) == `"auto"`) && m.H > 0 {
		m.P = inner / m.H
	} else {
		m.P = c.Int(-1, "mamba_d_head")
	}
	c.mambaRest(m, inner)
	return m
}

// config is what config.json says of the mixer in a model of width width.
func (m *Mamba2) config(width int) []formats.KV {
	return []formats.KV{{Key: "mamba_n_heads", Value: m.H}, {Key: "mamba_d_head", Value: m.P}, {Key: "mamba_n_groups", Value: m.G}, {Key: "mamba_d_state", Value: m.S},
		{Key: "mamba_d_conv", Value: m.Taps}, {Key: "mamba_expand", Value: m.inner() / max(width, 1)}, {Key: "mamba_conv_bias", Value: m.ConvBias}, {Key: "mamba_proj_bias", Value: m.Bias}}
}
