package arch

import (
	"maps"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// cohere2moe is Command A+: attention and experts beside each other on one norm, a
// window and rotation of neighbouring elements in some layers and neither in the
// others, and the average of routed and shared experts.
var cohere2moe = Arch{
	Name: "cohere2_moe", HF: []string{"Cohere2MoeForCausalLM"}, GGUF: "cohere2moe", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "8192", "head_dim": "128", "sliding_window": "4096", "sliding_window_pattern": "4", "tie_word_embeddings": "true",
			"num_experts": "8", "num_experts_per_tok": "2"})
		bias := c.Bool(false, "attention_bias")
		if old, _ := get[map[string]any](c, "rope_scaling"); len(old) > 0 {
			c.lack("rope_scaling", "is a rule, which this class does not read there; state it in rope_parameters")
		}
		if rule := c.ropeRule(); rule != nil && rule.has("rope_theta") {
			delete(c.raw, "rope_theta") // which the class states in every file, and reads of the rule
		}
		s, err := decoderSpec(c, "cohere2_moe", func(a *Attention, _ *MLP) { a.Bias, a.OutBias = bias, bias })
		if err != nil {
			return s, err
		}
		e := MoE{E: c.Int(-1, "num_experts"), K: c.Int(-1, "num_experts_per_tok"), Shared: c.Int(0, "num_shared_experts") * s.mlp().F}
		switch how := c.String("softmax", "expert_selection_fn"); how {
		case "softmax":
			e.Route = chosenAlone
		case "sigmoid":
			e.Route = kernels.RouteArgs{Kind: kernels.RouteSigmoid, Renorm: c.Bool(true, "norm_topk_prob")}
		default:
			c.lack("expert_selection_fn", "%q is not supported; known: softmax, sigmoid", how)
		}
		switch how := c.String("average", "shared_expert_combination_strategy"); how {
		case "average":
			e.Average = e.Shared > 0
		case "sum":
		default:
			c.lack("shared_expert_combination_strategy", "%q is not supported; known: average, sum", how)
		}
		first, pattern, prefix := c.Int(0, "first_k_dense_replace"), c.Int(4, "sliding_window_pattern"), c.Int(1, "prefix_dense_sliding_window_pattern")
		if pattern < 1 || prefix < 1 {
			c.fail("sliding_window_pattern", "%d, and %d of dense layers, want 1 or more", pattern, prefix)
			return s, c.err
		}
		sparse, list := c.sparseLayers(0), c.windowed(len(s.Layers), func(i int) bool {
			if i < first {
				return (i+1)%prefix != 0
			}
			return (i-first+1)%pattern != 0
		})
		if c.err != nil {
			return s, c.err
		}
		local := func(i int) bool { return list[i] }
		dense := c.Int(s.mlp().F, "prefix_dense_intermediate_size")
		eps := float32(c.Float(1e-5, "layer_norm_eps"))
		norm := kernels.LayerNorm
		if c.has("rms_norm_eps") {
			norm, eps = kernels.RMSNorm, s.Norm.Eps
		}
		s.besideEachOther(eps, float32(c.Float(0.0625, "logit_scale")))
		s.Norm.Kind = norm
		size := c.Int(0, "sliding_window")
		if size < 1 && c.has("sliding_window") && slices.Contains(list, true) {
			c.fail("sliding_window", "is %d, but some layers attend to a window", size)
		}
		s.cohereLayers(e, dense, size, sparse, local, func(i int) bool { return local(i) && size > 0 || prefix == 1 && !sparse(i) })
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch = "cohere2_moe"
		s.besideEachOther(m.eps(), float32(m.Float(0, "logit_scale")))
		e := m.experts()
		if e.Route.Renorm = m.Bool(false, "expert_weights_norm"); m.Int(gateSoftmax, "expert_gating_func") == gateSigmoid {
			e.Route.Kind = kernels.RouteSigmoid
		} else {
			e.Route = chosenAlone
		}
		m.Int(0, "expert_shared_count")
		e.Average = e.Shared > 0
		first := m.Int(0, "leading_dense_block_count")
		list := m.windowed(len(s.Layers), 4)
		if list == nil {
			return s, m.err
		}
		local := func(i int) bool { return list[i] }
		s.cohereLayers(e, s.mlp().F, m.Int(0, "attention.sliding_window"), from(first), local, func(i int) bool { return local(i) || i < first })
		return s, m.err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		m := s.moe()
		u := func(k string, v int) formats.KV { return formats.KV{Key: "cohere2moe." + k, Value: uint32(v)} }
		gate := gateSoftmax
		if m.Route.Kind == kernels.RouteSigmoid {
			gate = gateSigmoid
		}
		kv := append(decoderKV(s, "cohere2moe"), formats.KV{Key: "cohere2moe.logit_scale", Value: s.LogitScale}, u("expert_gating_func", gate),
			u("leading_dense_block_count", s.denseLayers()), u("expert_shared_count", m.Shared/m.F), u("expert_shared_feed_forward_length", m.Shared),
			formats.KV{Key: "cohere2moe.expert_weights_norm", Value: m.Route.Renorm})
		if s.rope().Type == "" {
			kv = append(kv, formats.KV{Key: "cohere2moe.rope.scaling.type", Value: "none"})
		}
		return append(kv, s.windowKV("cohere2moe", 0, true)...)
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		how := "softmax"
		if m.Route.Kind == kernels.RouteSigmoid {
			how = "sigmoid"
		}
		kv := append(decoderConfig(s, "Cohere2MoeForCausalLM", "cohere2_moe"), s.windowConfig()...)
		if i := slices.IndexFunc(kv, func(e formats.KV) bool { return e.Key == "rope_scaling" }); i >= 0 { // which the class does not read
			rule := maps.Clone(kv[i].Value.(map[string]any))
			rule["rope_theta"] = s.rope().Base
			kv[i] = formats.KV{Key: "rope_parameters", Value: rule}
		}
		return append(kv, formats.KV{Key: "logit_scale", Value: shortFloat(s.LogitScale)}, formats.KV{Key: "attention_bias", Value: s.Attention().Bias}, formats.KV{Key: "intermediate_size", Value: m.F}, formats.KV{Key: "prefix_dense_intermediate_size", Value: m.Dense},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K}, formats.KV{Key: "num_shared_experts", Value: m.Shared / m.F},
			formats.KV{Key: "shared_expert_combination_strategy", Value: "average"}, formats.KV{Key: "expert_selection_fn", Value: how}, formats.KV{Key: "norm_topk_prob", Value: m.Route.Renorm},
			formats.KV{Key: "mlp_layer_types", Value: s.mlpTypes()}, formats.KV{Key: "prefix_dense_sliding_window_pattern", Value: 1})
	},
}

// cohereLayers makes the layers: experts e where sparse says so, else a feed-forward
// part of inner size dense, a window where local does, and rotation where rotates does.
func (s *Spec) cohereLayers(e MoE, dense, window int, sparse, local, rotates func(layer int) bool) {
	one, feed := s.Layers[0], *s.mlp()
	if e.F == 0 {
		e.F = feed.F
	}
	e.Act, e.Dense, feed.F = feed.Act, dense, dense
	made := map[[3]bool]*LayerSpec{}
	for i := range s.Layers {
		kind := [3]bool{sparse(i), local(i), rotates(i)}
		if made[kind] == nil {
			a := *one.Sublayers[0].Body.(*Attention)
			if kind[1] {
				a.Window = window
			}
			if !kind[2] {
				a.Rope = NoRope
			}
			own := *one
			own.Sublayers = []Sublayer{{Pre: AttnNorm, Body: &a}, {Pre: AttnNorm, Body: &feed}}
			if kind[0] {
				own.Sublayers[1].Body = &e
			}
			made[kind] = &own
		}
		s.Layers[i] = made[kind]
	}
}

// mlpTypes are the words of mlp_layer_types.
func (s *Spec) mlpTypes() []string {
	types := make([]string, len(s.Layers))
	for i, is := range s.sparse() {
		types[i] = map[bool]string{true: "sparse", false: "dense"}[is]
	}
	return types
}
