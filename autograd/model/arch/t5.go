package arch

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// t5 has an encoder and a decoder that reads what it makes, positions as distances,
// and scores that nothing divides: the first release with plain feed-forward parts
// and a tied head, and the second (v1.1, Flan) with gated ones and a head of its own.
var t5 = Arch{
	Name: "t5", HF: []string{"T5ForConditionalGeneration"}, GGUF: "t5",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "32128", "d_ff": "2048", "num_layers": "6", "num_heads": "8", "feed_forward_proj": `"relu"`})
		s, err := c.t5("t5")
		if c.Bool(s.Tied, "scale_decoder_outputs") {
			s.LogitScale = headScale(s.C)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: t5GGUF,
	Rules:    t5Rules,
	KV:       t5KV,
	NoGGUF:   noT5,
	Config: func(s *Spec) []formats.KV {
		return append(t5Config(s, "T5ForConditionalGeneration", "t5"), formats.KV{Key: "scale_decoder_outputs", Value: s.LogitScale != 0})
	},
	Drops: t5Drops,
}

// mt5 is the second T5 with a vocabulary of many languages.
var mt5 = Arch{
	Name: "mt5", HF: []string{"MT5ForConditionalGeneration"}, GGUF: "t5", IsGGUF: func(*Metadata) bool { return false },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "250112", "d_ff": "1024", "num_layers": "8", "num_heads": "6", "feed_forward_proj": `"gated-gelu"`, "tie_word_embeddings": "false"})
		s, err := c.t5("mt5")
		// The fifth Transformers writes that the head is tied where it need not be, and
		// does not scale; those before scaled where it was.
		if s.Tied && !strings.HasPrefix(c.String("", "transformers_version"), "5.") {
			s.LogitScale = headScale(s.C)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: t5GGUF,
	Rules:    t5Rules,
	KV:       t5KV,
	NoGGUF:   noT5,
	Config:   func(s *Spec) []formats.KV { return t5Config(s, "MT5ForConditionalGeneration", "mt5") },
	Drops:    t5Drops,
}

// umt5 is mt5 with a table of distances in every layer. A head of its own reads what
// nothing scales, as before the fifth Transformers, which takes each config for tied.
var umt5 = Arch{
	Name: "umt5", HF: []string{"UMT5ForConditionalGeneration"}, GGUF: "t5",
	IsGGUF: func(m *Metadata) bool {
		return m.Has("enc.blk.1.attn_rel_b.weight") || m.Has("dec.blk.1.attn_rel_b.weight")
	},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "250112", "d_ff": "1024", "num_layers": "8", "num_heads": "6", "feed_forward_proj": `"gated-gelu"`})
		s, err := c.t5("umt5")
		if s.Tied {
			s.LogitScale = headScale(s.C)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) { return m.t5("umt5") },
	Rules:    t5Rules,
	KV:       t5KV,
	NoGGUF:   noT5,
	Config:   func(s *Spec) []formats.KV { return t5Config(s, "UMT5ForConditionalGeneration", "umt5") },
}

// t5Drops is a table that older checkpoints have and no release reads.
var t5Drops = []string{"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias."}

// headScale is the factor on what a tied head of T5 reads.
func headScale(width int) float32 { return float32(1 / math.Sqrt(float64(width))) }

// t5 reads what both families share.
func (c *Config) t5(name string) (Spec, error) {
	c.assume(map[string]string{"d_model": "512", "d_kv": "64"})
	s := Spec{
		Arch: name, C: c.Int(-1, "d_model"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(t5Context, "n_positions"),
		Norm: NormSpec{Eps: float32(c.Float(1e-6, "layer_norm_epsilon"))}, Tied: c.Bool(true, "tie_word_embeddings"), Start: int32(c.Int(0, "decoder_start_token_id", "pad_token_id")),
		Distances: Distances{c.Int(32, "relative_attention_num_buckets"), c.Int(128, "relative_attention_max_distance")},
	}
	f := &MLP{F: c.Int(-1, "d_ff")}
	f.Act, f.Ungated = c.t5Act()
	layers := c.Int(-1, "num_layers")
	err := s.t5(layers, c.Int(layers, "num_decoder_layers"), &Attention{H: c.Int(-1, "num_heads"), D: c.Int(-1, "d_kv")}, f)
	return s, err
}

// t5Act reads the activation, and whether a gate has it.
func (c *Config) t5Act() (act kernels.ActKind, ungated bool) {
	const key = "feed_forward_proj"
	given := c.String("relu", key)
	name, gated := strings.CutPrefix(given, "gated-")
	if gated && name == "gelu" {
		name = "gelu_new"
	}
	for key, want := range map[string]any{"dense_act_fn": name, "is_gated_act": gated} { // which say it again
		if v, ok := get[any](c, key); ok && v != want {
			c.fail(key, "is %v, feed_forward_proj is %q: one of them is wrong", v, given)
		}
	}
	return c.act(name, key), !gated
}

// t5Context is the context length that files state of models that have none.
const t5Context = 512

// t5 makes the layers of an encoder and a decoder.
func (s *Spec) t5(encoder, decoder int, a *Attention, f *MLP) error {
	if err := checkSizes(size{"encoder layers", encoder, maxLayers}, size{"decoder layers", decoder, maxLayers}); err != nil {
		return err
	}
	a.K, a.Rope, a.Scale = a.H, NoRope, 1
	a.OwnDistances = s.Arch == "umt5"
	a.Distances = !a.OwnDistances
	both := *a
	both.Full = true
	reads := &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: &both}, {Pre: MLPNorm, Body: f}}}
	writes := &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: a}, {Pre: CrossNorm, Body: &Cross{H: a.H, K: a.H, D: a.D, Scale: 1}}, {Pre: MLPNorm, Body: f}}}
	s.Encoder = encoder
	s.Layers = append(slices.Repeat([]*LayerSpec{reads}, encoder), slices.Repeat([]*LayerSpec{writes}, decoder)...)
	return nil
}

// decoder are the layers behind the encoder.
func (s *Spec) decoder() []*LayerSpec { return s.Layers[s.Encoder:] }

// t5GGUF reads a GGUF, to which a plain part is one with ReLU and a gated one has
// GELU; a tied head is that of the first T5.
func t5GGUF(m *Metadata) (Spec, error) { return m.t5("t5") }

func (m *Metadata) t5(name string) (Spec, error) {
	s := Spec{
		Arch: name, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), Tied: !m.Has("output.weight"),
		Norm: NormSpec{Eps: m.eps()}, Start: int32(m.Int(0, "decoder_start_token_id")),
		Distances: Distances{m.Int(-1, "attention.relative_buckets_count"), t5Far},
	}
	m.asked["attention.layer_norm_epsilon"] = true // the same again
	if emb := m.shapes["token_embd.weight"]; len(emb) == 2 {
		s.V = int(emb[0])
	}
	if s.Tied {
		s.LogitScale = headScale(s.C)
	}
	f := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.GELUTanh}
	if f.Ungated = !m.Has("enc.blk.0.ffn_gate.weight"); f.Ungated {
		f.Act = kernels.ReLU
	}
	layers := m.Int(-1, "block_count")
	a := &Attention{H: m.Int(-1, "attention.head_count"), D: m.Int(-1, "attention.key_length")}
	err := s.t5(layers, m.Int(layers, "decoder_block_count"), a, f)
	return s, cmp.Or(m.err, err)
}

// t5Far is the distance that llama.cpp takes for granted.
const t5Far = 128

// noT5 says what llama.cpp has no key for.
func noT5(s *Spec) string {
	switch {
	case s.Distances.Far != t5Far:
		return fmt.Sprintf("relative_attention_max_distance %d (%d there)", s.Distances.Far, t5Far)
	case s.Tied != (s.LogitScale != 0):
		return fmt.Sprintf("tie_word_embeddings %t with scale_decoder_outputs %t", s.Tied, s.LogitScale != 0)
	}
	return ""
}

func t5KV(s *Spec) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: "t5." + k, Value: uint32(v)} }
	a := s.Attention()
	inner, _ := s.feed()
	return []formats.KV{
		u("context_length", s.MaxPos), u("embedding_length", s.C), u("feed_forward_length", inner), u("block_count", s.Encoder), u("decoder_block_count", len(s.decoder())),
		u("attention.head_count", a.H), u("attention.key_length", a.D), u("attention.value_length", a.D),
		{Key: "t5.attention.layer_norm_epsilon", Value: s.Norm.Eps}, u("attention.relative_buckets_count", s.Distances.Buckets),
		{Key: "t5.attention.layer_norm_rms_epsilon", Value: s.Norm.Eps}, u("decoder_start_token_id", int(s.Start)),
	}
}

func t5Config(s *Spec, class, modelType string) []formats.KV {
	a, f := s.Attention(), s.mlp()
	proj := actNames[f.Act]
	if !f.Ungated {
		proj = "gated-" + strings.TrimSuffix(proj, "_pytorch_tanh")
	}
	return []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType}, {Key: "is_encoder_decoder", Value: true},
		{Key: "d_model", Value: s.C}, {Key: "d_ff", Value: f.F}, {Key: "d_kv", Value: a.D}, {Key: "num_heads", Value: a.H},
		{Key: "num_layers", Value: s.Encoder}, {Key: "num_decoder_layers", Value: len(s.decoder())}, {Key: "n_positions", Value: s.MaxPos},
		{Key: "feed_forward_proj", Value: proj}, {Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)},
		{Key: "relative_attention_num_buckets", Value: s.Distances.Buckets}, {Key: "relative_attention_max_distance", Value: s.Distances.Far},
		{Key: "decoder_start_token_id", Value: s.Start},
		{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
}

// t5Names are what a module is called in the sublayer that it is of.
var t5Names = map[Role][2]string{
	Q: {"SelfAttention.q", "attn_q"}, K: {"SelfAttention.k", "attn_k"}, V: {"SelfAttention.v", "attn_v"}, O: {"SelfAttention.o", "attn_o"},
	Gate: {"DenseReluDense.wi_0", "ffn_gate"}, Up: {"DenseReluDense.wi_1", "ffn_up"}, Down: {"DenseReluDense.wo", "ffn_down"},
}

// t5Rules lists the tensors: the embedding, the encoder, the decoder, the head.
func t5Rules(s *Spec) []Rule {
	b := &rules{layer: -1}
	embed := b.matrix(Embed, "shared", "token_embd", s.V, s.C)
	copies := []string{"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
	for _, name := range copies { // one of which may stand for it
		embed.Also = append(embed.Also, []Piece{{Name: name}})
	}
	for _, name := range copies {
		b.list = append(b.list, Rule{Role: Embed, Layer: -1, Name: name, Rows: s.V, Cols: s.C, HF: []Piece{{Name: name}}, GGUF: []Piece{{Name: "token_embd.weight"}}, Tied: true})
	}
	b.t5Stack(s, "encoder", "enc", EncoderNear, EncoderNorm, 0, s.Encoder)
	b.t5Stack(s, "decoder", "dec", Near, FinalNorm, s.Encoder, len(s.Layers))
	b.enter(-1, "", "")
	b.matrix(Head, UsualHead, "output", s.V, s.C).Tied = s.Tied
	return b.list
}

// t5Stack adds layers from … to-1, which are called hf and gguf, with their table of
// distances and the norm behind them.
func (b *rules) t5Stack(s *Spec, hf, gguf string, near, last Role, from, to int) {
	b.enter(-1, "", "")
	own := s.Attention().OwnDistances
	if !own {
		b.matrix(near, hf+".block.0.layer.0.SelfAttention.relative_attention_bias", gguf+".blk.0.attn_rel_b", s.Distances.Buckets, s.Attention().H)
	}
	for i := from; i < to; i++ {
		block := fmt.Sprintf("%s.block.%d.", hf, i-from)
		for j, sub := range s.Layers[i].Sublayers {
			b.enter(i, fmt.Sprintf("%slayer.%d.", block, j), fmt.Sprintf("%s.blk.%d.", gguf, i-from))
			norm := map[Role]string{AttnNorm: "attn_norm", CrossNorm: "cross_attn_norm", MLPNorm: "ffn_norm"}[sub.Pre]
			b.norm(sub.Pre, "layer_norm", norm, s.C)
			b.names = layerNames{modules: t5Names}
			switch m := sub.Body.(type) {
			case *Attention:
				b.attention(m, s.C, false)
				if own {
					b.matrix(Near, "SelfAttention.relative_attention_bias", "attn_rel_b", s.Distances.Buckets, m.H)
				}
			case *Cross:
				for role, name := range [...]string{"q", "k", "v"} {
					b.matrix(CrossQ+Role(role), "EncDecAttention."+name, "cross_attn_"+name, m.H*m.D, s.C)
				}
				b.matrix(CrossO, "EncDecAttention.o", "cross_attn_o", s.C, m.H*m.D)
			case *MLP:
				first := len(b.list)
				if b.mlp(m, s.C); m.Ungated {
					b.list[first].rename(block + fmt.Sprintf("layer.%d.DenseReluDense.wi.weight", j))
				}
			}
		}
		for k := range b.list {
			if b.list[k].Layer == i {
				b.list[k].layerPath = strings.TrimSuffix(block, ".")
			}
		}
	}
	b.enter(-1, "", "")
	b.norm(last, hf+".final_layer_norm", gguf+".output_norm", s.C)
}

// rename gives a tensor that Hugging Face files have in one piece another name.
func (r *Rule) rename(name string) { r.Name, r.HF = name, []Piece{{Name: name}} }
