package arch

import (
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// llama covers Llama 1 to 3.x, SmolLM2, Yi, SOLAR, TinyLlama and every other
// checkpoint that says LlamaForCausalLM.
var llama = Arch{
	Name: "llama", HF: []string{"LlamaForCausalLM"}, GGUF: "llama",
	Spec: func(c *Config) (Spec, error) {
		s, err := decoderSpec(c, "llama")
		bias := c.Bool(false, "attention_bias")
		s.AttnBias, s.OutBias = bias, bias
		s.MLPBias = c.Bool(false, "mlp_bias")
		return s, err
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "llama") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "LlamaForCausalLM", "llama"),
			formats.KV{Key: "attention_bias", Value: s.AttnBias},
			formats.KV{Key: "mlp_bias", Value: s.MLPBias})
	},
}

// decoderSpec reads the keys that the Llama-shaped families share.
func decoderSpec(c *Config, name string) (Spec, error) {
	s := Spec{
		Arch: name, C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), Layers: c.Int(-1, "num_hidden_layers"),
		H: c.Int(-1, "num_attention_heads"), F: c.Int(-1, "intermediate_size"),
		MaxPos: c.Int(2048, "max_position_embeddings"),
		Eps:    float32(c.Float(1e-6, "rms_norm_eps")), Act: c.Act("hidden_act"),
		Tied: c.Bool(false, "tie_word_embeddings"), Pairs: kernels.HalfSplit,
	}
	s.K = c.Int(s.H, "num_key_value_heads")
	if s.H > 0 {
		s.D = c.Int(s.C/s.H, "head_dim")
	}
	s.Rot = s.D
	s.Rope = c.Rope(s.MaxPos)
	return s, c.err
}

// decoderGGUF reads <prefix>.* keys; biases and tying follow from the tensors
// present.
func decoderGGUF(m *Metadata) (Spec, error) {
	s := Spec{
		Arch: m.prefix, C: m.Int(-1, "embedding_length"), Layers: m.Int(-1, "block_count"), F: m.Int(-1, "feed_forward_length"),
		H: m.Int(-1, "attention.head_count"), MaxPos: m.Int(-1, "context_length"),
		Eps: float32(m.Float(1e-5, "attention.layer_norm_rms_epsilon")), Act: kernels.SiLU, Pairs: kernels.HalfSplit,
		Tied:     !m.Has("output.weight"),
		AttnBias: m.Has("blk.0.attn_q.bias"), OutBias: m.Has("blk.0.attn_output.bias"), MLPBias: m.Has("blk.0.ffn_up.bias"),
	}
	s.K = m.Int(s.H, "attention.head_count_kv")
	if s.H > 0 {
		s.D = m.Int(s.C/s.H, "attention.key_length")
	}
	s.Rot = m.Int(s.D, "rope.dimension_count")
	if emb, ok := m.shapes["token_embd.weight"]; ok && len(emb) == 2 {
		s.V = int(emb[0])
	}
	s.Rope = m.Rope(s.MaxPos)
	if s.Rope.Factors != nil && len(s.Rope.Factors) != s.Rot/2 {
		return s, fmt.Errorf("rope_freqs.weight has %d elements, want %d", len(s.Rope.Factors), s.Rot/2)
	}
	return s, m.err
}

// decoderRules lists the tensors; pairs says that GGUF holds the rows of q and k
// in rotation pairs.
func decoderRules(s *Spec, pairs bool) []Rule {
	b := &rules{layer: -1}
	b.matrix(Embed, "model.embed_tokens", "token_embd", s.V, s.C)
	q, kv := s.H*s.D, s.K*s.D
	qPairs, kPairs := 0, 0
	if pairs {
		qPairs, kPairs = s.H, s.K
	}
	for i := range s.Layers {
		b.enter(i, fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i))
		b.norm(AttnNorm, "input_layernorm", "attn_norm", s.C)
		b.linear(Q, "self_attn.q_proj", "attn_q", q, s.C, s.AttnBias, qPairs)
		b.linear(K, "self_attn.k_proj", "attn_k", kv, s.C, s.AttnBias, kPairs)
		b.linear(V, "self_attn.v_proj", "attn_v", kv, s.C, s.AttnBias, 0)
		b.linear(O, "self_attn.o_proj", "attn_output", s.C, q, s.OutBias, 0)
		b.norm(MLPNorm, "post_attention_layernorm", "ffn_norm", s.C)
		b.linear(Gate, "mlp.gate_proj", "ffn_gate", s.F, s.C, s.MLPBias, 0)
		b.linear(Up, "mlp.up_proj", "ffn_up", s.F, s.C, s.MLPBias, 0)
		b.linear(Down, "mlp.down_proj", "ffn_down", s.C, s.F, s.MLPBias, 0)
	}
	b.enter(-1, "", "")
	b.norm(FinalNorm, "model.norm", "output_norm", s.C)
	b.matrix(Head, "lm_head", "output", s.V, s.C).Tied = s.Tied
	return b.list
}

// decoderKV is the metadata in the order llama.cpp's converter writes it.
func decoderKV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	f := func(k string, v float64) formats.KV { return formats.KV{Key: p + "." + k, Value: float32(v)} }
	kv := []formats.KV{
		u("block_count", s.Layers), u("context_length", s.MaxPos), u("embedding_length", s.C),
		u("feed_forward_length", s.F), u("attention.head_count", s.H), u("attention.head_count_kv", s.K),
	}
	if r := s.Rope; r.Factors == nil && (r.Type == "linear" || r.Type == "yarn") {
		kv = append(kv, formats.KV{Key: p + ".rope.scaling.type", Value: r.Type}, f("rope.scaling.factor", r.Factor))
		if r.Type == "yarn" {
			kv = append(kv, u("rope.scaling.original_context_length", r.OrigMax))
		}
	}
	return append(kv, f("rope.freq_base", s.Rope.Base), f("attention.layer_norm_rms_epsilon", float64(s.Eps)),
		u("attention.key_length", s.D), u("attention.value_length", s.D), u("vocab_size", s.V), u("rope.dimension_count", s.Rot))
}

// decoderConfig is config.json in the form that both generations of
// Transformers and the servers read.
func decoderConfig(s *Spec, class, modelType string) []formats.KV {
	act := map[kernels.ActKind]string{kernels.SiLU: "silu", kernels.GELU: "gelu", kernels.GELUTanh: "gelu_pytorch_tanh", kernels.ReLU: "relu"}[s.Act]
	kv := []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: s.F}, {Key: "num_hidden_layers", Value: s.Layers},
		{Key: "num_attention_heads", Value: s.H}, {Key: "num_key_value_heads", Value: s.K}, {Key: "head_dim", Value: s.D},
		{Key: "hidden_act", Value: act}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "rms_norm_eps", Value: shortFloat(s.Eps)},
		{Key: "rope_theta", Value: s.Rope.Base}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
	if r := ropeScaling(s); r != nil {
		kv = append(kv, formats.KV{Key: "rope_scaling", Value: r})
	}
	return kv
}

// ropeScaling is the rope_scaling object, nil for plain rotation.
func ropeScaling(s *Spec) map[string]any {
	r := s.Rope
	if r.Factors != nil {
		r = llama3FromFactors(r)
	}
	switch r.Type {
	case "linear", "dynamic":
		return map[string]any{"rope_type": r.Type, "factor": r.Factor}
	case "yarn":
		m := map[string]any{"rope_type": r.Type, "factor": r.Factor, "original_max_position_embeddings": r.OrigMax}
		if r.AttnFactor != 0 {
			m["attention_factor"] = r.AttnFactor
		}
		return m
	case "llama3":
		return map[string]any{"rope_type": r.Type, "factor": r.Factor, "low_freq_factor": r.LowFreq,
			"high_freq_factor": r.HighFreq, "original_max_position_embeddings": r.OrigMax}
	}
	return nil
}
