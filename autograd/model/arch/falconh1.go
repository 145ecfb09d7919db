package arch

import (
	"cmp"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// falconH1 has attention and Mamba-2 beside each other in every layer, and
// factors at every corner. GGUF holds the factors in the weights.
var falconH1 = Arch{
	Name: "falcon_h1", HF: []string{"FalconH1ForCausalLM"}, GGUF: "falcon-h1", Folds: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "128000", "hidden_size": "4096", "intermediate_size": "14336", "num_hidden_layers": "32", "num_attention_heads": "32",
			"num_key_value_heads": "8", "max_position_embeddings": "8192", "mamba_d_ssm": "1024"})
		s := Spec{Arch: "falcon_h1", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-5, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings"),
			EmbedScale: float32(c.Float(1, "embedding_multiplier")), LogitScale: float32(c.Float(1, "lm_head_multiplier"))}
		a := c.attention(s.C)
		a.Bias = c.Bool(false, "attention_bias")
		a.OutBias = a.Bias
		a.InScale, a.OutScale, a.KeyScale = float32(c.Float(1, "attention_in_multiplier")), float32(c.Float(1, "attention_out_multiplier")), float32(c.Float(1, "key_multiplier"))
		s.Ropes = []RopeSpec{c.Rope(a.D, s.MaxPos)}
		m := c.mamba2(s.C, s.Norm.Eps)
		m.OutBias = c.Bool(false, "projectors_bias")
		m.InScale, m.OutScale = float32(c.Float(1, "ssm_in_multiplier")), float32(c.Float(1, "ssm_out_multiplier"))
		copy(m.PartScales[:], c.multipliers("ssm_multipliers", 5))
		switch {
		case !c.Bool(false, "mamba_rms_norm"):
			m.Norm = NoMixNorm
		case c.Bool(true, "mamba_norm_before_gate"):
			m.Norm = NormThenGate
		}
		mlp := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act"), Bias: c.Bool(false, "mlp_bias")}
		by := c.multipliers("mlp_multipliers", 2)
		mlp.GateScale, mlp.OutScale = by[0], by[1]
		if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
			c.err = s.repeat(n, falconLayer(a, m, mlp))
		}
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{Arch: "falcon_h1", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
		a := m.attention(s.C)
		s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
		mixer := m.mamba2(s.Norm.Eps)
		if !m.Has("blk.0.ssm_norm.weight") {
			mixer.Norm = NoMixNorm
		}
		mlp := &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU}
		a.InScale, a.OutScale, a.KeyScale = 1, 1, 1 // weights have what a config.json states
		mixer.InScale, mixer.OutScale, mixer.PartScales = 1, 1, [5]float32{1, 1, 1, 1, 1}
		mlp.GateScale, mlp.OutScale = 1, 1
		err := s.repeat(m.Int(-1, "block_count"), falconLayer(a, mixer, mlp))
		return s, cmp.Or(m.err, err)
	},
	Rules: func(s *Spec) []Rule {
		names := layerNames{norms: map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"pre_ff_layernorm", "ffn_norm"}}}
		list := respell(namedRules(s, false, names), []string{".mlp.", ".feed_forward.", "model.norm", "model.final_layernorm"}, nil, []string{"ffn_norm.weight", "ffn_norm"})
		s.foldFactors(list)
		return list
	},
	KV: func(s *Spec) []formats.KV {
		return append(decoderKV(s, "falcon-h1"), first[*Mamba2](s).kv("falcon-h1")...)
	},
	NoGGUF: func(s *Spec) string {
		a, m, f := s.Attention(), first[*Mamba2](s), s.mlp()
		switch {
		case m.Act != kernels.SiLU || f.Act != kernels.SiLU: // what is folded is not read back
			return "hidden_act"
		case a.Bias || f.Bias:
			return "a bias of attention or feed-forward part"
		case m.Norm == NormThenGate:
			return "mamba_norm_before_gate"
		case s.Tied && s.EmbedScale != s.LogitScale:
			return "a head that is the embedding with another factor"
		}
		return m.noGGUF()
	},
	Config: func(s *Spec) []formats.KV {
		m := first[*Mamba2](s)
		return append(append(decoderConfig(s, "FalconH1ForCausalLM", "falcon_h1"), m.config(s.C)...), formats.KV{Key: "mamba_d_ssm", Value: m.inner()}, formats.KV{Key: "projectors_bias", Value: m.OutBias},
			formats.KV{Key: "mamba_rms_norm", Value: m.Norm != NoMixNorm}, formats.KV{Key: "mamba_norm_before_gate", Value: m.Norm == NormThenGate})
	},
}

// falconLayer is a layer: attention and Mamba on one norm, then a feed-forward part.
func falconLayer(a *Attention, m *Mamba2, mlp *MLP) *LayerSpec {
	return decoder(&Beside{[]Body{a, m}}, mlp)
}

// multipliers reads a list of n factors, each 1 where it is absent.
func (c *Config) multipliers(key string, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = 1
	}
	if list, ok := get[[]float32](c, key); ok {
		if len(list) != n {
			c.fail(key, "has %d entries, want %d", len(list), n)
		}
		copy(out, list)
	}
	return out
}

// foldFactors lets GGUF have each weight with the factors of what it makes.
func (s *Spec) foldFactors(list []Rule) {
	a, m, f := s.Attention(), first[*Mamba2](s), s.mlp()
	inner, bc := m.inner(), m.G*m.S
	widths := []int{inner, inner, bc, bc, m.H}
	for i := range list {
		r := &list[i]
		if r.Bias { // which GGUF does not have here
			continue
		}
		all := func(by ...float32) []Factor { return factors(r.Rows, by...) }
		var fs []Factor
		switch r.Role {
		case Embed:
			fs = all(s.EmbedScale)
		case Head:
			fs = all(s.LogitScale)
		case Q, V:
			fs = all(a.InScale)
		case K:
			fs = all(a.KeyScale, a.InScale)
		case O:
			fs = all(a.OutScale)
		case Gate:
			fs = all(f.GateScale)
		case Down:
			fs = all(f.OutScale)
		case MixOut:
			fs = all(m.OutScale)
		case MixIn:
			for j, n := range widths {
				fs = append(fs, factors(n, m.InScale, m.PartScales[j])...)
			}
		}
		if slices.ContainsFunc(fs, func(f Factor) bool { return len(f.By) > 0 }) {
			r.GGUF[0].Factors = fs
		}
	}
}
