package arch

import (
	"cmp"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// lfm2 has short convolutions in place of attention in most of its layers.
var lfm2 = Arch{
	Name: "lfm2", HF: []string{"Lfm2ForCausalLM"}, GGUF: "lfm2",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "65536", "hidden_size": "2560", "intermediate_size": "12288", "num_hidden_layers": "32",
			"num_attention_heads": "32", "num_key_value_heads": "8", "max_position_embeddings": "128000", "default_theta": "1e6"})
		s := c.lfm2()
		s.Arch = "lfm2"
		mlp := &MLP{F: c.lfm2Inner(), Act: kernels.SiLU}
		s.convLayers(c.lfm2Kinds(len(s.Layers)), c.attention(s.C), c.shortConv(), func(int) Body { return mlp })
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, kinds := m.lfm2("lfm2")
		mlp := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU}
		s.convLayers(kinds, m.hybridAttention(s.C, len(kinds)), m.shortConv(), func(int) Body { return mlp })
		return s, m.err
	},
	Rules:  lfm2Rules,
	NoGGUF: (*Spec).unattended,
	KV: func(s *Spec) []formats.KV {
		return append(lfm2KV(s, "lfm2"), formats.KV{Key: "lfm2.feed_forward_length", Value: uint32(s.mlp().F)})
	},
	Config: func(s *Spec) []formats.KV {
		return append(lfm2Config(s, "Lfm2ForCausalLM", "lfm2"), formats.KV{Key: "intermediate_size", Value: s.mlp().F},
			formats.KV{Key: "block_auto_adjust_ff_dim", Value: false})
	},
}

// lfm2 reads the keys around the layers.
func (c *Config) lfm2() Spec {
	c.rename("theta", "rope_theta")
	s := Spec{
		C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-5, "norm_eps"))}, Tied: c.Bool(true, "tie_embedding", "tie_word_embeddings"),
	}
	s.Ropes = []RopeSpec{c.Rope(c.attention(s.C).D, s.MaxPos)}
	s.emptyLayers(c)
	return s
}

// emptyLayers makes as many layers as c says, for whoever fills them.
func (s *Spec) emptyLayers(c *Config) {
	if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
		c.err = s.repeat(n, nil)
	}
}

// unattended says what llama.cpp, which makes no context of such a model, lacks.
func (s *Spec) unattended() string {
	if s.Attention() == nil {
		return "a model of which no layer has attention"
	}
	return ""
}

// lfm2Inner is the inner size of the feed-forward parts: as stated, or two
// thirds of it, made a multiple.
func (c *Config) lfm2Inner() int {
	f := c.Int(-1, "block_ff_dim", "intermediate_size")
	if !c.Bool(true, "block_auto_adjust_ff_dim") {
		return f
	}
	f = 2 * f / 3
	if by, ok := get[float64](c, "block_ffn_dim_multiplier"); ok || !c.stated("block_ffn_dim_multiplier") {
		if !ok {
			by = 1
		}
		multiple := c.Int(256, "block_multiple_of")
		if multiple < 1 {
			c.fail("block_multiple_of", "is %d, want 1 or more", multiple)
			return f
		}
		f = (int(by*float64(f)) + multiple - 1) / multiple * multiple
	}
	return f
}

// stated reports a key that is there, be it null.
func (c *Config) stated(key string) bool { _, ok := c.raw[key]; return ok }

// lfm2Kinds says of n layers which have attention.
func (c *Config) lfm2Kinds(n int) []bool {
	if c.has("layer_types") {
		return c.layerKinds(n, map[string]bool{"full_attention": true, "conv": false})
	}
	full, stated := get[[]int](c, "full_attn_idxs")
	out := make([]bool, n)
	for i := range out {
		out[i] = !stated || slices.Contains(full, i)
	}
	return out
}

// layerKinds reads layer_types of n layers: whether each has attention.
func (c *Config) layerKinds(n int, known map[string]bool) []bool {
	types, _ := get[[]string](c, "layer_types")
	if len(types) != n {
		c.fail("layer_types", "has %d entries for %d layers", len(types), n)
	}
	var out []bool
	for _, t := range types {
		attends, ok := known[t]
		if !ok {
			c.lack("layer_types", "layers of type %q are not supported in this architecture", t)
		}
		out = append(out, attends)
	}
	return out
}

func (c *Config) shortConv() *ShortConv {
	return &ShortConv{Taps: c.Int(3, "conv_L_cache"), Bias: c.Bool(false, "conv_bias")}
}

// convLayers makes the layers: attention where kinds say so, else a short
// convolution, and the feed-forward part that feed makes of the layer's number.
func (s *Spec) convLayers(kinds []bool, a *Attention, conv *ShortConv, feed func(int) Body) {
	a.QKNorm = PerHead
	for i := range s.Layers {
		var mixer Body = conv
		if i < len(kinds) && kinds[i] {
			mixer = a
		}
		s.Layers[i] = decoder(mixer, feed(i))
	}
}

// lfm2 reads the keys around the layers, and which have attention.
func (m *Metadata) lfm2(name string) (Spec, []bool) {
	s := Spec{Arch: name, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"),
		Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
	s.V = m.vocabulary()
	kinds := m.emptyLayers(&s)
	s.Ropes = []RopeSpec{m.Rope(m.hybridAttention(s.C, len(kinds)).D, s.MaxPos)}
	return s, kinds
}

// vocabulary is the number of rows of the embedding.
func (m *Metadata) vocabulary() int {
	if emb, ok := m.shapes["token_embd.weight"]; ok && len(emb) == 2 {
		return int(emb[0])
	}
	return 0
}

// emptyLayers makes as many layers as the file says, for whoever fills them, and
// says which have attention: those with heads of keys.
func (m *Metadata) emptyLayers(s *Spec) []bool {
	n := m.Int(-1, "block_count")
	if m.err == nil {
		m.err = s.repeat(n, nil)
	}
	var out []bool
	for _, heads := range m.perLayer(-1, len(s.Layers), "attention.head_count_kv") {
		out = append(out, heads > 0)
	}
	return out
}

func (m *Metadata) shortConv() *ShortConv {
	return &ShortConv{Taps: m.Int(-1, "shortconv.l_cache"), Bias: m.Has("blk.0.shortconv.in_proj.bias")}
}

func lfm2Rules(s *Spec) []Rule {
	names := layerNames{norms: map[Role][2]string{AttnNorm: {"operator_norm", "attn_norm"}, MLPNorm: {"ffn_norm", "ffn_norm"}},
		experts: expertNames{router: "feed_forward.gate", experts: "feed_forward.experts", gate: "feed_forward.experts.%d.w1.weight",
			up: "feed_forward.experts.%d.w3.weight", down: "feed_forward.experts.%d.w2.weight", selects: "feed_forward.expert_bias"}}
	return respell(namedRules(s, false, names), []string{"self_attn.q_norm", "self_attn.q_layernorm", "self_attn.k_norm", "self_attn.k_layernorm",
		"self_attn.o_proj", "self_attn.out_proj", "mlp.gate_proj", "feed_forward.w1", "mlp.up_proj", "feed_forward.w3", "mlp.down_proj", "feed_forward.w2",
		"model.norm", "model.embedding_norm"}, nil, []string{"output_norm", "token_embd_norm"})
}

func lfm2KV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	f := func(k string, v float64) formats.KV { return formats.KV{Key: p + "." + k, Value: float32(v)} }
	a := cmp.Or(s.Attention(), &Attention{})
	conv := cmp.Or(first[*ShortConv](s), &ShortConv{})
	kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C), u("attention.head_count", a.H),
		{Key: p + ".attention.head_count_kv", Value: s.keyHeads()}}
	kv = append(kv, s.rope().ggufScaling(p)...)
	return append(kv, f("rope.freq_base", s.rope().Base), f("attention.layer_norm_rms_epsilon", float64(s.Norm.Eps)), u("vocab_size", s.V), u("shortconv.l_cache", conv.Taps))
}

// keyHeads are the key/value heads of every layer, 0 where it has no attention.
func (s *Spec) keyHeads() []int32 {
	out := make([]int32, len(s.Layers))
	for i, l := range s.Layers {
		if a, ok := bodyOf[*Attention](l); ok {
			out[i] = int32(a.K)
		}
		if _, ok := bodyOf[*MLA](l); ok { // llama.cpp has one of latents
			out[i] = 1
		}
	}
	return out
}

func lfm2Config(s *Spec, class, model string) []formats.KV {
	a := cmp.Or(s.Attention(), &Attention{})
	conv := cmp.Or(first[*ShortConv](s), &ShortConv{})
	kv := []formats.KV{{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: model},
		{Key: "hidden_size", Value: s.C}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K},
		{Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "norm_eps", Value: shortFloat(s.Norm.Eps)}, {Key: "rope_theta", Value: s.rope().Base},
		{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V}, {Key: "conv_L_cache", Value: conv.Taps}, {Key: "conv_bias", Value: conv.Bias},
		{Key: "layer_types", Value: s.layerTypes("full_attention", "conv")}}
	if r := ropeScaling(s.rope()); r != nil {
		kv = append(kv, formats.KV{Key: "rope_scaling", Value: r})
	}
	return kv
}

// layerTypes is layer_types of config.json.
func (s *Spec) layerTypes(attention, other string) []string {
	var out []string
	for _, heads := range s.keyHeads() {
		if heads > 0 {
			out = append(out, attention)
		} else {
			out = append(out, other)
		}
	}
	return out
}
