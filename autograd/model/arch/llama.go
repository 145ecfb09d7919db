package arch

import (
	"cmp"
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// llama covers Llama 1 to 3.x, SmolLM2, Yi, SOLAR, TinyLlama and every other
// checkpoint that says LlamaForCausalLM.
var llama = Arch{
	Name: "llama", HF: []string{"LlamaForCausalLM"}, GGUF: "llama",
	Spec: func(c *Config) (Spec, error) {
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		return decoderSpec(c, "llama", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Bias = bias, bias, mlp })
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "llama") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "LlamaForCausalLM", "llama"),
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}

// decoder is a layer of the Llama family: attention, then a feed-forward part,
// each on the normed stream.
func decoder(mixer, feed Body) *LayerSpec {
	return &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: mixer}, {Pre: MLPNorm, Body: feed}}}
}

// decoderSpec reads the keys that the Llama-shaped families share; more says
// what a family adds to its layers, which are all equal.
func decoderSpec(c *Config, name string, more func(*Attention, *MLP)) (Spec, error) {
	s := Spec{
		Arch: name, C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings"),
	}
	a := c.attention(s.C)
	m := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")}
	s.Ropes = []RopeSpec{c.Rope(a.D, s.MaxPos)}
	more(a, m)
	if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
		c.err = s.repeat(n, decoder(a, m))
	}
	return s, c.err
}

// attention reads the heads of a model of width width.
func (c *Config) attention(width int) *Attention {
	a := &Attention{H: c.Int(-1, "num_attention_heads")}
	a.K = c.Int(a.H, "num_key_value_heads")
	if a.H > 0 {
		a.D = c.Int(width/a.H, "head_dim")
	}
	return a
}

// decoderGGUF reads <prefix>.* keys; biases, norms and tying follow from the
// tensors present.
func decoderGGUF(m *Metadata) (Spec, error) {
	s := Spec{
		Arch: m.prefix, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"),
		Norm: NormSpec{Eps: float32(m.Float(1e-5, "attention.layer_norm_rms_epsilon"))}, Tied: !m.Has("output.weight"),
	}
	if emb, ok := m.shapes["token_embd.weight"]; ok && len(emb) == 2 {
		s.V = int(emb[0])
	}
	a := m.attention(s.C)
	s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
	mlp := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU, Bias: m.Has("blk.0.ffn_up.bias")}
	err := s.repeat(m.Int(-1, "block_count"), decoder(a, mlp))
	return s, cmp.Or(m.err, err)
}

// attention reads the heads of a model of width width.
func (m *Metadata) attention(width int) *Attention {
	a := &Attention{H: m.Int(-1, "attention.head_count"), Bias: m.Has("blk.0.attn_q.bias"), OutBias: m.Has("blk.0.attn_output.bias")}
	a.K = m.Int(a.H, "attention.head_count_kv")
	if a.H > 0 {
		a.D = m.Int(width/a.H, "attention.key_length")
	}
	if norm := m.shapes["blk.0.attn_q_norm.weight"]; len(norm) == 1 {
		a.QKNorm = WholeWidth
		if norm[0] == int64(a.D) {
			a.QKNorm = PerHead
		}
	}
	return a
}

// layerNames are what families name differently within a layer.
type layerNames struct {
	norms   map[Role][2]string // in Hugging Face files and in GGUF
	experts expertNames
}

// usualNames are Llama's and those of most experts.
var usualNames = layerNames{
	map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "ffn_norm"}},
	hubExperts,
}

// decoderRules lists the tensors under their usual names; pairs says that GGUF
// holds the rows of q and k in rotation pairs.
func decoderRules(s *Spec, pairs bool) []Rule { return namedRules(s, pairs, usualNames) }

// namedRules is decoderRules with names of a family's own.
func namedRules(s *Spec, pairs bool, names layerNames) []Rule {
	b := &rules{layer: -1, addOne: s.Norm.Offset == 1}
	b.matrix(Embed, "model.embed_tokens", "token_embd", s.V, s.C)
	for i, l := range s.Layers {
		b.enter(i, fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i))
		seen := map[Role]bool{None: true}
		norm := func(role Role) { // once where two parts share it
			if !seen[role] {
				seen[role] = true
				b.norm(role, names.norms[role][0], names.norms[role][1], s.C)
			}
		}
		for _, sub := range l.Sublayers {
			norm(sub.Pre)
			switch m := sub.Body.(type) {
			case *Attention:
				b.attention(m, s.C, pairs)
			case *MLA:
				b.mla(m, s.C, false)
			case *MLP:
				b.mlp(m, s.C)
			case *MoE:
				b.experts(m, s.C, names.experts)
			}
			norm(sub.Post)
		}
	}
	b.enter(-1, "", "")
	b.norm(FinalNorm, "model.norm", "output_norm", s.C)
	b.matrix(Head, "lm_head", "output", s.V, s.C).Tied = s.Tied
	return b.list
}

// attention adds the linear maps of attention under their usual names.
func (b *rules) attention(a *Attention, width int, pairs bool) {
	q, kv := a.H*a.D, a.K*a.D
	qPairs, kPairs := 0, 0
	if pairs {
		qPairs, kPairs = a.H, a.K
	}
	b.linear(Q, "self_attn.q_proj", "attn_q", q, width, a.Bias, qPairs)
	b.linear(K, "self_attn.k_proj", "attn_k", kv, width, a.Bias, kPairs)
	b.linear(V, "self_attn.v_proj", "attn_v", kv, width, a.Bias, 0)
	b.linear(O, "self_attn.o_proj", "attn_output", width, q, a.OutBias, 0)
	if a.Sinks {
		b.vector(Sinks, "self_attn.sinks", "attn_sinks.weight", a.H)
	}
	switch a.QKNorm {
	case PerHead:
		q, kv = a.D, a.D
		fallthrough
	case WholeWidth:
		b.norm(QNorm, "self_attn.q_norm", "attn_q_norm", q)
		b.norm(KNorm, "self_attn.k_norm", "attn_k_norm", kv)
	}
}

// mlp adds the linear maps of a gated feed-forward part.
func (b *rules) mlp(m *MLP, width int) {
	b.linear(Gate, "mlp.gate_proj", "ffn_gate", m.F, width, m.Bias, 0)
	b.linear(Up, "mlp.up_proj", "ffn_up", m.F, width, m.Bias, 0)
	b.linear(Down, "mlp.down_proj", "ffn_down", width, m.F, m.Bias, 0)
}

// decoderKV is the metadata in the order llama.cpp's converter writes it.
func decoderKV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	f := func(k string, v float64) formats.KV { return formats.KV{Key: p + "." + k, Value: float32(v)} }
	a, r := s.Attention(), s.rope()
	inner, _ := s.feed()
	kv := []formats.KV{
		u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C),
		u("feed_forward_length", inner), u("attention.head_count", a.H), u("attention.head_count_kv", a.K),
	}
	kv = append(kv, r.ggufScaling(p)...)
	if m := s.moe(); m != nil {
		kv = append(kv, expertKV(m, p)...)
	}
	eps := "attention.layer_norm_rms_epsilon"
	if s.Norm.Kind == kernels.LayerNorm {
		eps = "attention.layer_norm_epsilon"
	}
	return append(kv, f("rope.freq_base", r.Base), f(eps, float64(s.Norm.Eps)),
		u("attention.key_length", a.D), u("attention.value_length", a.D), u("vocab_size", s.V), u("rope.dimension_count", r.Dim))
}

// epsKey is what config.json calls the norms' epsilon.
func epsKey(n NormSpec) string {
	if n.Kind == kernels.LayerNorm {
		return "layer_norm_eps"
	}
	return "rms_norm_eps"
}

// actName is what config.json calls an activation.
func actName(kind kernels.ActKind) string {
	return map[kernels.ActKind]string{kernels.SiLU: "silu", kernels.GELU: "gelu", kernels.GELUTanh: "gelu_pytorch_tanh", kernels.ReLU: "relu"}[kind]
}

// decoderConfig is config.json in the form that both generations of
// Transformers and the servers read.
func decoderConfig(s *Spec, class, modelType string) []formats.KV {
	a := s.Attention()
	inner, kind := s.feed()
	kv := []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: inner}, {Key: "num_hidden_layers", Value: len(s.Layers)},
		{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K}, {Key: "head_dim", Value: a.D},
		{Key: "hidden_act", Value: actName(kind)}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: epsKey(s.Norm), Value: shortFloat(s.Norm.Eps)},
		{Key: "rope_theta", Value: s.rope().Base}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
	if r := ropeScaling(s.rope()); r != nil {
		kv = append(kv, formats.KV{Key: "rope_scaling", Value: r})
	}
	return kv
}
