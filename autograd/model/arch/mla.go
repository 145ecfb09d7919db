package arch

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// MLA is multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434, section
// 2.1): keys and values, and maybe queries, are made of a latent of few elements.
// A query or key is Nope elements without a position, then Rot that rotate; the
// latter are the same for the keys of all heads.
type MLA struct {
	H      int // heads
	QRank  int // size of the queries' latent; 0: they are made of the input
	KVRank int // size of the latent of keys and values
	Nope   int
	Rot    int
	V      int // size of a value
	Rope   int // index in Spec.Ropes; NoRope: no positions, also where Rot is not 0
	Pairs  kernels.Pairs
	Scale  float32 // of the scores; 0: 1/√(Nope+Rot)
	Bias   bool    // of what reads the input (but for queries without a latent) and of the output
	// Temperature multiplies the queries by Spec.Temperature.
	Temperature bool
	Index       Indexer // picks the keys that a token sees
}

// Indexer picks the keys that a token sees: H heads of D elements, of which the first
// MLA.Rot rotate, score every key (DeepSeek-V3.2). P keys are seen; 0: all, there is
// no indexer.
type Indexer struct {
	H, D, P int
	Pairs   kernels.Pairs
	Lends   bool // layers behind this one see the keys that it picks
	Borrows bool // it has no heads: the keys are those of the last layer that picks
}

// picks reports whether a layer has an indexer.
func (x Indexer) picks() bool { return x.P > 0 && !x.Borrows }

// LatentEps is what the norms of latents add to the variance: that of the class
// in Transformers, whatever config.json says about other norms.
const LatentEps = 1e-6

func (a *MLA) check(s *Spec) error {
	err := checkSizes(size{"attention heads", a.H, maxHeads}, size{"rank of keys and values", a.KVRank, maxWidth}, size{"part of a head without a position", a.Nope, 1 << 14},
		size{"part of a head that rotates", a.Rot, 1 << 14}, size{"size of a value", a.V, 1 << 14})
	if err != nil {
		return err
	}
	if a.QRank < 0 || a.QRank > maxWidth {
		return fmt.Errorf("rank of queries is %d", a.QRank)
	}
	if x := a.Index; x.picks() {
		if err := checkSizes(size{"heads of the indexer", x.H, maxHeads}, size{"head size of the indexer", x.D, 1 << 14}, size{"picked keys", x.P, 1 << 28}); err != nil {
			return err
		}
		if a.QRank == 0 || x.D < a.Rot {
			return fmt.Errorf("an indexer of heads of %d needs queries with a latent and no more than that rotating", x.D)
		}
	}
	if a.Temperature {
		if err := s.Temperature.check(); err != nil {
			return err
		}
	}
	if a.Rope == NoRope {
		return nil
	}
	if rot := s.Ropes[a.Rope].Dim; rot != a.Rot {
		return fmt.Errorf("rotary size %d, but %d elements of a head rotate", rot, a.Rot)
	}
	return nil
}

// mla is the first latent attention among the layers, nil where there is none.
func (s *Spec) mla() *MLA { return first[*MLA](s) }

// rotatable is the number of elements of a head that config.json takes for rotated by
// the first table of angles.
func (s *Spec) rotatable() int {
	if a := s.mla(); a != nil {
		return a.Rot
	}
	for _, a := range s.attentions() {
		if a != nil && a.Rope == 0 {
			return a.D
		}
	}
	if a := s.Attention(); a != nil {
		return a.D
	}
	return s.rope().Dim // nothing rotates
}

// latentSpec reads the keys that families with latent attention share; they have
// equal layers here.
func latentSpec(c *Config, name string, pairs kernels.Pairs) (Spec, error) {
	s := Spec{
		Arch: name, C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings"),
	}
	a := c.latentAttention()
	a.Pairs = pairs
	r := c.Rope(a.Rot, s.MaxPos)
	s.Ropes, a.Scale = []RopeSpec{r}, r.latentScale(a.Nope+a.Rot)
	mlp := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")}
	if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
		c.err = s.repeat(n, decoder(a, mlp))
	}
	return s, c.err
}

// latentAttention reads the heads of latent attention.
func (c *Config) latentAttention() *MLA {
	a := &MLA{H: c.Int(-1, "num_attention_heads"), QRank: c.Int(0, "q_lora_rank"), KVRank: c.Int(-1, "kv_lora_rank"),
		Nope: c.Int(-1, "qk_nope_head_dim"), Rot: c.Int(-1, "qk_rope_head_dim"), V: c.Int(-1, "v_head_dim"), Bias: c.Bool(false, "attention_bias")}
	if n := c.Int(a.H, "num_key_value_heads"); n != a.H {
		c.lack("num_key_value_heads", "is %d, but latent attention has a key for each of %d heads", n, a.H)
	}
	return a
}

// latentScale is the factor on the scores of heads of d elements: what DeepSeek
// makes of mscale_all_dim. 0: 1/√d.
func (r RopeSpec) latentScale(d int) float32 {
	if r.Type == "" || r.MScaleAll == 0 {
		return 0
	}
	m := mscale(r.Factor, r.MScaleAll)
	return float32(m * m / math.Sqrt(float64(d)))
}

// latentGGUF reads the keys that llama.cpp has for latent attention.
func latentGGUF(m *Metadata) (Spec, error) {
	s := Spec{
		Arch: m.prefix, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"),
		Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight"),
	}
	if emb, ok := m.shapes["token_embd.weight"]; ok && len(emb) == 2 {
		s.V = int(emb[0])
	}
	a := m.latentAttention(0)
	a.Pairs = kernels.Adjacent
	r := m.Rope(a.Rot, s.MaxPos)
	if all := m.Float(0, "rope.scaling.yarn_log_multiplier"); all != 0 {
		// llama.cpp has a tenth of what config.json has, and no mscale: cosines and sines keep their size.
		r.MScaleAll = shortFloat(float32(10 * shortFloat(float32(all))))
		r.MScale = r.MScaleAll
	}
	s.Ropes, a.Scale = []RopeSpec{r}, r.latentScale(a.Nope+a.Rot)
	err := s.repeat(m.Int(-1, "block_count"), decoder(a, &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU}))
	if m.err != nil {
		err = m.err
	}
	return s, err
}

// latentAttention reads the heads of latent attention, which a layer has.
func (m *Metadata) latentAttention(layer int) *MLA {
	if m.Has(fmt.Sprintf("blk.%d.attn_kv_b.weight", layer)) {
		m.lack("attention.kv_lora_rank", "stands beside attn_kv_b, which converters split since April 2025; convert the model again")
	}
	a := &MLA{H: m.Int(-1, "attention.head_count"), QRank: m.Int(0, "attention.q_lora_rank"), KVRank: m.Int(-1, "attention.kv_lora_rank"),
		Rot: m.Int(-1, "rope.dimension_count"), V: m.Int(-1, "attention.value_length_mla")}
	a.Nope = m.Int(-1, "attention.key_length_mla") - a.Rot
	return a
}

// latentKV are the keys that latentGGUF reads.
func latentKV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	f := func(k string, v float64) formats.KV { return formats.KV{Key: p + "." + k, Value: float32(v)} }
	a, r := s.mla(), s.rope()
	inner, _ := s.feed()
	kv := []formats.KV{
		u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C), u("feed_forward_length", inner),
		u("attention.head_count", a.H), u("attention.head_count_kv", 1), f("rope.freq_base", r.Base), f("attention.layer_norm_rms_epsilon", float64(s.Norm.Eps)),
		u("attention.key_length", a.KVRank+a.Rot), u("attention.value_length", a.KVRank), u("vocab_size", s.V),
	}
	if a.QRank > 0 {
		kv = append(kv, u("attention.q_lora_rank", a.QRank))
	}
	kv = append(kv, u("attention.kv_lora_rank", a.KVRank), u("attention.key_length_mla", a.Nope+a.Rot), u("attention.value_length_mla", a.V), u("rope.dimension_count", a.Rot))
	if r.Type == "yarn" { // whose factor on cosines and sines llama.cpp takes back
		r.MScale, r.MScaleAll, r.AttnFactor = 0, 0, 0
		kv = append(kv, r.ggufScaling(p)...)
		if all := s.rope().MScaleAll; all != 0 {
			kv = append(kv, f("rope.scaling.yarn_log_multiplier", 0.1*all))
		}
	}
	return kv
}

// latentNoGGUF says what of latent attention llama.cpp has no key for.
func latentNoGGUF(s *Spec) string {
	a, r := s.mla(), s.rope()
	_, scale := r.Angles(0)
	switch {
	case s.scattered() != "":
		return s.scattered()
	case a.Bias:
		return "attention_bias"
	case a.Pairs != kernels.Adjacent:
		return "rope_interleave: false"
	case r.Type != "" && r.Type != "yarn":
		return r.Type + " rope scaling of latent attention"
	case r.Type == "yarn" && (r.MScaleAll == 0 || float32(scale) != 1):
		return fmt.Sprintf("yarn rope scaling with mscale %g and mscale_all_dim %g", r.MScale, r.MScaleAll)
	}
	return ""
}

// latentConfig is config.json of a model with latent attention.
func latentConfig(s *Spec, class, modelType string) []formats.KV {
	a := s.mla()
	inner, act := s.feed()
	kv := []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: inner}, {Key: "num_hidden_layers", Value: len(s.Layers)},
		{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.H}, {Key: "q_lora_rank", Value: nil}, {Key: "kv_lora_rank", Value: a.KVRank},
		{Key: "qk_nope_head_dim", Value: a.Nope}, {Key: "qk_rope_head_dim", Value: a.Rot}, {Key: "v_head_dim", Value: a.V},
		{Key: "hidden_act", Value: actNames[act]}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)},
		{Key: "rope_theta", Value: s.rope().Base}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
	if a.QRank > 0 {
		kv = append(kv, formats.KV{Key: "q_lora_rank", Value: a.QRank})
	}
	if r := ropeScaling(s.rope()); r != nil {
		kv = append(kv, formats.KV{Key: "rope_scaling", Value: r})
	}
	return kv
}

// mla adds the linear maps of latent attention and the norms of its latents. A
// GGUF keeps what makes the keys transposed, apart from what makes the values,
// unless whole is set.
func (b *rules) mla(a *MLA, width int, whole bool) {
	d, kv := a.Nope+a.Rot, a.Nope+a.V
	if a.QRank > 0 {
		b.linear(QA, "self_attn.q_a_proj", "attn_q_a", a.QRank, width, a.Bias, 0)
		b.norm(QANorm, "self_attn.q_a_layernorm", "attn_q_a_norm", a.QRank)
		b.matrix(QB, "self_attn.q_b_proj", "attn_q_b", a.H*d, a.QRank)
	} else {
		b.matrix(Q, "self_attn.q_proj", "attn_q", a.H*d, width)
	}
	b.linear(KVA, "self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", a.KVRank+a.Rot, width, a.Bias, 0)
	b.norm(KVANorm, "self_attn.kv_a_layernorm", "attn_kv_a_norm", a.KVRank)
	m := b.matrix(KVB, "self_attn.kv_b_proj", "attn_kv_b", a.H*kv, a.KVRank)
	if !whole {
		m.GGUF = []Piece{
			{Name: b.gguf + "attn_k_b.weight", Rows: Rows{0, a.Nope, kv, a.H}, Transpose: true, Shape: []int64{int64(a.H), int64(a.KVRank), int64(a.Nope)}},
			{Name: b.gguf + "attn_v_b.weight", Rows: Rows{a.Nope, a.V, kv, a.H}, Shape: []int64{int64(a.H), int64(a.V), int64(a.KVRank)}},
		}
	}
	b.linear(O, "self_attn.o_proj", "attn_output", width, a.H*a.V, a.Bias, 0)
	if x := a.Index; x.picks() {
		b.matrix(IndexQ, "self_attn.indexer.wq_b", "indexer.attn_q_b", x.H*x.D, a.QRank)
		b.matrix(IndexK, "self_attn.indexer.wk", "indexer.attn_k", x.D, width)
		b.vector(IndexNorm, "self_attn.indexer.k_norm.weight", "indexer.k_norm.weight", x.D)
		b.vector(IndexNorm, "self_attn.indexer.k_norm.bias", "indexer.k_norm.bias", x.D).Bias = true
		b.matrix(IndexW, "self_attn.indexer.weights_proj", "indexer.proj", x.H, width)
	}
}
