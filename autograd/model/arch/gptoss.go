package arch

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gptoss has a score without a value in every head, a window in every other layer,
// and experts with biases, whose gate and up columns alternate.
var gptoss = Arch{
	Name: "gpt_oss", HF: []string{"GptOssForCausalLM"}, GGUF: "gpt-oss", Untruncated: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "head_dim": "64", "num_key_value_heads": "8", "default_theta": "150000",
			"num_local_experts": "128", "num_experts_per_tok": "4", "attention_bias": "true", "sliding_window": "128"})
		if !c.has("rope_parameters") && !c.has("rope_scaling") {
			c.assume(map[string]string{"rope_scaling": `{"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}`})
		}
		c.only("hidden_act", `"silu"`)
		bias := c.Bool(true, "attention_bias")
		s, err := decoderSpec(c, "gpt_oss", func(a *Attention, _ *MLP) { a.Bias, a.OutBias, a.Sinks = bias, bias, true })
		s.withExperts(gptossExperts(c.Int(-1, "num_local_experts"), c.Int(-1, "num_experts_per_tok"), c.Float(1.702, "swiglu_alpha"), c.Float(7, "swiglu_limit")), nil)
		s.window(c.Int(0, "sliding_window"), c.slidingLayers(func(i int) bool { return i%2 == 0 }))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch, s.Ropes[0].NoTruncate, s.Attention().Sinks = "gpt_oss", s.Ropes[0].Type == "yarn", true
		e := m.experts()
		s.withExperts(gptossExperts(e.E, e.K, 1.702, 7), nil)
		s.window(m.Int(0, "attention.sliding_window"), func(i int) bool { return i%2 == 0 })
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		return namedRules(s, false, layerNames{
			norms:   map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "post_attention_norm"}},
			experts: expertNames{router: "mlp.router", experts: "mlp.experts", gate: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj", transposed: true}})
	},
	KV: func(s *Spec) []formats.KV {
		return append(decoderKV(s, "gpt-oss"), formats.KV{Key: "gpt-oss.attention.sliding_window", Value: uint32(s.Attention().Window)},
			formats.KV{Key: "gpt-oss.expert_feed_forward_length", Value: uint32(s.moe().F)})
	},
	Config: func(s *Spec) []formats.KV {
		m, a := s.moe(), s.Attention()
		return append(decoderConfig(s, "GptOssForCausalLM", "gpt_oss"), formats.KV{Key: "attention_bias", Value: a.Bias},
			formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "layer_types", Value: s.slidingTypes()}, formats.KV{Key: "hidden_act", Value: "silu"},
			formats.KV{Key: "sliding_window", Value: a.Window}, formats.KV{Key: "swiglu_limit", Value: shortFloat(m.ActParams.Limit)}, formats.KV{Key: "swiglu_alpha", Value: shortFloat(m.ActParams.Alpha)})
	},
}

func gptossExperts(experts, k int, alpha, limit float64) MoE {
	return MoE{E: experts, K: k, Act: kernels.ClampedSwiGLU, ActParams: kernels.ActParams{Alpha: float32(alpha), Limit: float32(limit)}, InTurn: true, Bias: true, Route: chosenAlone}
}

// slidingLayers reads which layers attend to a window; usual says it where the
// config does not.
func (c *Config) slidingLayers(usual func(layer int) bool) func(layer int) bool {
	types := c.layerTypes("layer_types", "sliding_attention", "full_attention")
	if types == nil {
		return usual
	}
	return func(i int) bool { return i < len(types) && types[i] == "sliding_attention" }
}

// slidingTypes are the words that slidingLayers reads.
func (s *Spec) slidingTypes() []string {
	var types []string
	for _, l := range s.Layers {
		types = append(types, map[bool]string{true: "sliding_attention", false: "full_attention"}[l.Sublayers[0].Body.(*Attention).Window > 0])
	}
	return types
}

// window gives the layers that local chooses attention to so many tokens.
func (s *Spec) window(size int, local func(layer int) bool) {
	s.each(func(i int, a *Attention) {
		if size > 0 && local(i) {
			a.Window = size
		}
	})
}

// each changes the attention of every layer by the layer's number. Layers that come
// out equal share a pointer.
func (s *Spec) each(change func(layer int, a *Attention)) {
	var made []*LayerSpec
	for i, l := range s.Layers {
		own := *l
		own.Sublayers = slices.Clone(l.Sublayers)
		for j := range own.Sublayers {
			if a, ok := own.Sublayers[j].Body.(*Attention); ok {
				b := *a
				change(i, &b)
				own.Sublayers[j].Body = &b
			}
		}
		same := slices.IndexFunc(made, func(x *LayerSpec) bool { return reflect.DeepEqual(x, &own) })
		if same < 0 {
			same, made = len(made), append(made, &own)
		}
		s.Layers[i] = made[same]
	}
}
