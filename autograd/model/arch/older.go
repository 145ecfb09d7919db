package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// What the families around GPT share: LayerNorms with biases, a feed-forward part
// without a gate, and names of their own for all that.

// layers makes a model of equal layers, whose number key states.
func (c *Config) layers(s Spec, key string, l *LayerSpec) (Spec, error) {
	if n := c.Int(-1, key); c.err == nil {
		c.err = s.repeat(n, l)
	}
	return s, c.err
}

// layers makes a model of equal layers.
func (m *Metadata) layers(s Spec, l *LayerSpec) (Spec, error) {
	err := s.repeat(m.Int(-1, "block_count"), l)
	return s, cmp.Or(m.err, err)
}

// layerNorms are LayerNorms with biases, whose epsilon key states.
func (c *Config) layerNorms(key string) NormSpec {
	return NormSpec{Kind: kernels.LayerNorm, Eps: float32(c.Float(1e-5, key)), Bias: true}
}

// heads are h heads over a width, each with a key of its own and a bias on every map.
func heads(h, width int) *Attention {
	a := &Attention{H: h, K: h, Rope: NoRope, Bias: true, OutBias: true}
	if h > 0 {
		a.D = width / h
	}
	return a
}

// older reads what the GGUF files of these families share; biases follow from the
// tensors present.
func (m *Metadata) older(name string, act kernels.ActKind) (Spec, *Attention, *MLP) {
	s := Spec{
		Arch: name, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), Tied: !m.Has("output.weight"), HeadBias: m.Has("output.bias"),
		Norm:      NormSpec{Kind: kernels.LayerNorm, Eps: m.eps(), Bias: m.Has("output_norm.bias")},
		EmbedNorm: m.Has("token_embd_norm.weight"),
	}
	if emb := m.shapes["token_embd.weight"]; len(emb) == 2 {
		s.V = int(emb[0])
	}
	if pos := m.shapes["position_embd.weight"]; len(pos) == 2 {
		s.Positions = int(pos[0])
	}
	a := m.attention(s.C)
	a.Rope, a.Fused = NoRope, m.Has("blk.0.attn_qkv.weight")
	return s, a, &MLP{F: m.Int(-1, "feed_forward_length"), Act: act, Ungated: !m.Has("blk.0.ffn_gate.weight"), Bias: m.Has("blk.0.ffn_up.bias")}
}

// beside is a layer whose parts read its input side by side: one norm of it, or a
// norm each where own is set.
func beside(mixer, feed Body, own bool) *LayerSpec {
	l := decoder(mixer, feed)
	if l.Parallel = true; !own {
		l.Sublayers[1].Pre = AttnNorm
	}
	return l
}

// olderKV are the keys that llama.cpp's converter writes for all of these families.
func olderKV(s *Spec, p string) []formats.KV {
	f, _ := s.feed()
	a := s.Attention()
	kv := []formats.KV{
		{Key: p + ".block_count", Value: uint32(len(s.Layers))}, {Key: p + ".context_length", Value: uint32(s.MaxPos)},
		{Key: p + ".embedding_length", Value: uint32(s.C)}, {Key: p + ".feed_forward_length", Value: uint32(f)},
		{Key: p + ".attention.head_count", Value: uint32(a.H)},
		{Key: p + ".attention.layer_norm_epsilon", Value: s.Norm.Eps},
	}
	if a.H*a.D != s.C {
		kv = append(kv, formats.KV{Key: p + ".attention.key_length", Value: uint32(a.D)}, formats.KV{Key: p + ".attention.value_length", Value: uint32(a.D)})
	}
	return kv
}

// keyHeads is the number of key heads as GGUF states it.
func keyHeads(s *Spec, p string) formats.KV {
	return formats.KV{Key: p + ".attention.head_count_kv", Value: uint32(s.Attention().K)}
}

// rotationKV are the keys of the rotation below prefix p, without what is so by
// default.
func rotationKV(s *Spec, p string) []formats.KV {
	r := s.rope()
	kv := r.ggufScaling(p)
	if r.Base != 10000 {
		kv = append(kv, formats.KV{Key: p + ".rope.freq_base", Value: float32(r.Base)})
	}
	if a := s.Attention(); r.Dim != a.D {
		kv = append(kv, formats.KV{Key: p + ".rope.dimension_count", Value: uint32(r.Dim)})
	}
	return kv
}

// partConfig is decoderConfig with the share of a head that rotates.
func partConfig(s *Spec, class, modelType string) []formats.KV {
	share := float64(s.rope().Dim) / float64(s.Attention().D)
	return append(decoderConfig(s, class, modelType), formats.KV{Key: "partial_rotary_factor", Value: share})
}

// gptConfig is config.json in the words of GPT-2.
func gptConfig(s *Spec, class, modelType string) []formats.KV {
	f, act := s.feed()
	return []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType},
		{Key: "n_embd", Value: s.C}, {Key: "n_inner", Value: f}, {Key: "n_layer", Value: len(s.Layers)}, {Key: "n_head", Value: s.Attention().H},
		{Key: "n_positions", Value: s.MaxPos}, {Key: "activation_function", Value: actNames[act]},
		{Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
}

// alibiSlopes are the slopes of h heads: a geometric series that ends at 2^-8, and
// where h is no power of two every second term of the next finer series (Press et
// al. 2021, arXiv:2108.12409).
func alibiSlopes(h int) []float32 {
	const most = 8
	out := make([]float32, 0, max(h, 0))
	whole := 1
	for whole*2 <= h {
		whole *= 2
	}
	for i := range h {
		exponent := most * float64(i+1) / float64(whole)
		if i >= whole {
			exponent = most * (float64(i-whole) + 0.5) / float64(whole)
		}
		out = append(out, float32(math.Exp2(-exponent)))
	}
	return out
}

// roundBF16 rounds values to bf16.
func roundBF16(v []float32) {
	raw, err := encodeAs(dtype.Of(dtype.BF16), 1, len(v), v)
	if err == nil {
		err = decodeStored(v, raw)
	}
	if err != nil {
		panic(err)
	}
}
