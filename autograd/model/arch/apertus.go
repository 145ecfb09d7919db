package arch

import (
	"fmt"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
)

// apertus is Qwen3 without a gate in the feed-forward part, whose activation xIELU
// has numbers of its own in every layer.
var apertus = Arch{
	Name: "apertus", HF: []string{"ApertusForCausalLM"}, GGUF: "apertus",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "65536", "rms_norm_eps": "1e-5", "hidden_act": `"xielu"`, "default_theta": "12000000"})
		c.assumeRule(`{"rope_type": "llama3", "rope_theta": 12000000, "factor": 8, "original_max_position_embeddings": 8192, "low_freq_factor": 1, "high_freq_factor": 4}`)
		for key, usual := range map[string]bool{"post_norm": false, "qk_norm": true, "mlp_bias": false} {
			if v := c.Bool(usual, key); v != usual {
				c.lack(key, "is %v; supported is %v", v, usual)
			}
		}
		if act := c.String("", "hidden_act"); act != "xielu" {
			c.lack("hidden_act", "activation %q is not supported; known: xielu", act)
		}
		c.raw["hidden_act"] = []byte(`"silu"`) // xIELU is no activation of other families
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "apertus", func(a *Attention, _ *MLP) { a.QKNorm, a.Bias, a.OutBias = PerHead, bias, bias })
		s.withXIELU(nil)
		return s, err
	},
	Read: func(s *Source) error {
		for i := range s.Spec.Layers {
			x := s.Spec.Layers[i].Sublayers[1].Body.(*MLP).XIELU
			for role, v := range map[Role]*float32{ActPos: &x.Pos, ActNeg: &x.Neg, ActBeta: &x.Beta, ActEps: &x.Eps} {
				m, _, err := s.Read(s.At(i, role))
				if err != nil {
					return err
				}
				if one := []float32{0}; m.Data != nil {
					block.DecodeAll(one, m)
					*v = one[0]
				}
			}
		}
		return nil
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		numbers := make([]XIELU, len(s.Layers))
		for key, put := range map[string]func(x *XIELU, v float32){
			"alpha_p": func(x *XIELU, v float32) { x.Pos = v }, "alpha_n": func(x *XIELU, v float32) { x.Neg = v },
			"beta": func(x *XIELU, v float32) { x.Beta = v }, "eps": func(x *XIELU, v float32) { x.Eps = v },
		} {
			list, _ := m.kv["xielu."+key].([]float32)
			if len(list) != len(numbers) {
				return s, fmt.Errorf("xielu.%s has %d numbers, want one for each of %d layers", key, len(list), len(numbers))
			}
			for i, v := range list {
				put(&numbers[i], v)
			}
		}
		s.withXIELU(numbers)
		return s, nil
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{norms: map[Role][2]string{
			AttnNorm: {"attention_layernorm", "attn_norm"}, MLPNorm: {"feedforward_layernorm", "ffn_norm"}}})
	},
	KV: func(s *Spec) []formats.KV {
		var pos, neg, beta, eps []float32
		for _, l := range s.Layers {
			x := l.Sublayers[1].Body.(*MLP).XIELU
			pos, neg, beta, eps = append(pos, x.Pos), append(neg, x.Neg), append(beta, x.Beta), append(eps, x.Eps)
		}
		return append(decoderKV(s, "apertus"), formats.KV{Key: "xielu.alpha_p", Value: pos}, formats.KV{Key: "xielu.alpha_n", Value: neg},
			formats.KV{Key: "xielu.beta", Value: beta}, formats.KV{Key: "xielu.eps", Value: eps})
	},
	Config: func(s *Spec) []formats.KV {
		return append(s.statePlain(decoderConfig(s, "ApertusForCausalLM", "apertus")), formats.KV{Key: "hidden_act", Value: "xielu"},
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias})
	},
}

// withXIELU gives every layer a feed-forward part of its own, with its numbers; nil:
// they are read later.
func (s *Spec) withXIELU(numbers []XIELU) {
	for i, l := range s.Layers {
		f := *l.Sublayers[1].Body.(*MLP)
		f.Ungated, f.Act, f.XIELU = true, kernels.XIELU, &XIELU{}
		if numbers != nil {
			*f.XIELU = numbers[i]
		}
		s.Layers[i] = decoder(l.Sublayers[0].Body, &f)
	}
}
