package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// minicpm3 is MiniCPM 3: latent attention whose heads rotate half by half, and
// factors on the embedding, on what the parts add and on the logits.
var minicpm3 = Arch{
	Name: "minicpm3", HF: []string{"MiniCPM3ForCausalLM"}, GGUF: "minicpm3",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "32768", "rms_norm_eps": "1e-5", "tie_word_embeddings": "true", "kv_lora_rank": "256", "q_lora_rank": "768",
			"qk_nope_head_dim": "64", "qk_rope_head_dim": "32", "scale_depth": "1.4", "dim_model_base": "256"})
		if h := c.Int(-1, "num_attention_heads"); !c.has("v_head_dim") && h > 0 {
			c.raw["v_head_dim"] = json.RawMessage(fmt.Sprint(c.Int(-1, "hidden_size") / h))
		}
		s, err := latentSpec(c, "minicpm3", kernels.HalfSplit)
		if mlp := s.mlp(); mlp != nil { // one for all layers
			mlp.Bias = c.Bool(false, "mlp_bias")
		}
		layers := math.Sqrt(float64(len(s.Layers)))
		s.miniFactors(c.Float(12, "scale_emb"), c.Float(layers, "scale_depth"), c.Float(float64(s.C), "dim_model_base"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{
			Arch: "minicpm3", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight"),
		}
		if emb := m.shapes["token_embd.weight"]; len(emb) == 2 {
			s.V = int(emb[0])
		}
		a := &MLA{H: m.Int(-1, "attention.head_count"), QRank: m.Int(0, "attention.q_lora_rank"), KVRank: m.Int(-1, "attention.kv_lora_rank"), Rot: m.Int(-1, "rope.dimension_count")}
		a.Nope = m.Int(-1, "attention.key_length") - a.Rot
		if kv := m.shapes["blk.0.attn_kv_b.weight"]; len(kv) == 2 && a.H > 0 {
			a.V = int(kv[0])/a.H - a.Nope
		}
		s.Ropes = []RopeSpec{m.Rope(a.Rot, s.MaxPos)}
		if err := s.repeat(m.Int(-1, "block_count"), decoder(a, &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU})); err != nil {
			return s, cmp.Or(m.err, err)
		}
		s.miniFactors(12, 1.4, 256)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.oneKVB = true
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		a, r, p := s.mla(), s.rope(), "minicpm3."
		u := func(k string, v int) formats.KV { return formats.KV{Key: p + k, Value: uint32(v)} }
		kv := []formats.KV{
			u("context_length", s.MaxPos), u("embedding_length", s.C), u("block_count", len(s.Layers)), u("feed_forward_length", s.mlp().F),
			u("attention.head_count", a.H), u("attention.head_count_kv", a.H), {Key: p + "attention.layer_norm_rms_epsilon", Value: s.Norm.Eps}, u("vocab_size", s.V),
		}
		if a.QRank > 0 {
			kv = append(kv, u("attention.q_lora_rank", a.QRank))
		}
		kv = append(kv, u("attention.kv_lora_rank", a.KVRank), u("attention.key_length", a.Nope+a.Rot), u("rope.dimension_count", a.Rot),
			formats.KV{Key: p + "rope.freq_base", Value: float32(r.Base)})
		return append(kv, r.ggufScaling("minicpm3")...)
	},
	NoGGUF: func(s *Spec) string {
		if s.EmbedScale != 12 || s.LogitScale != float32(256/float64(s.C)) { // scale_depth is seen in the layers
			return "scale_emb or dim_model_base other than 12 and 256"
		}
		return ""
	},
	Config: func(s *Spec) []formats.KV {
		return append(latentConfig(s, "MiniCPM3ForCausalLM", "minicpm3"), formats.KV{Key: "scale_emb", Value: shortFloat(s.EmbedScale)},
			formats.KV{Key: "scale_depth", Value: shortFloat(float32(float64(s.Layers[0].Residual) * math.Sqrt(float64(len(s.Layers)))))},
			formats.KV{Key: "dim_model_base", Value: int(math.Round(float64(s.LogitScale) * float64(s.C)))})
	},
}

// miniFactors sets the factors of MiniCPM.
func (s *Spec) miniFactors(embed, depth, base float64) {
	s.EmbedScale, s.LogitScale = float32(embed), float32(base/float64(s.C))
	for _, l := range s.Layers {
		l.Residual = float32(depth / math.Sqrt(float64(len(s.Layers))))
	}
}
