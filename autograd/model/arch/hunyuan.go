package arch

import (
	"cmp"
	"math"

	"github.com/tunekit/tunekit/formats"
)

// hunyuanDense is Llama with a norm of each query and key behind the rotation.
var hunyuanDense = Arch{
	Name: "hunyuan_v1_dense", HF: []string{"HunYuanDenseV1ForCausalLM"}, GGUF: "hunyuan-dense",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"rms_norm_eps": "1e-5"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "hunyuan_v1_dense", func(a *Attention, _ *MLP) {
			a.QKNorm, a.NormLast, a.Bias, a.OutBias = PerHead, true, bias, bias
		})
		if len(s.Ropes) > 0 {
			s.Ropes[0] = c.alphaRope(s.Ropes[0])
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "hunyuan_v1_dense"
		if a := s.Attention(); a != nil { // one for all layers
			a.NormLast = true
		}
		return s, err
	},
	Rules: func(s *Spec) []Rule { return namedRules(s, false, hunyuanNames) },
	KV:    func(s *Spec) []formats.KV { return decoderKV(s, "hunyuan-dense") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
	},
}

// hunyuanNames are the usual ones but for the norms of queries and keys.
var hunyuanNames = layerNames{norms: usualNames.norms, experts: usualNames.experts, modules: map[Role][2]string{
	QNorm: {"self_attn.query_layernorm", "attn_q_norm"}, KNorm: {"self_attn.key_layernorm", "attn_k_norm"}}}

// alphaRope is a table of Hunyuan's: dynamic scaling with an alpha is a larger
// base for texts of every length.
func (c *Config) alphaRope(r RopeSpec) RopeSpec {
	rule := c.ropeRule()
	if rule == nil {
		return r
	}
	if alpha := rule.Float(0, "alpha"); r.Type == "dynamic" && alpha != 0 {
		if !(alpha > 0) || r.Dim <= 2 {
			c.fail("rope_scaling", "alpha is %g, for %d rotating elements", alpha, r.Dim)
			return r
		}
		return RopeSpec{Dim: r.Dim, Base: r.Base * math.Pow(alpha, float64(r.Dim)/float64(r.Dim-2)), MaxPos: r.MaxPos}
	}
	return r
}
