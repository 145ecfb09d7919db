package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// ernie45moe is ERNIE 4.5 with experts: rotation of neighbouring elements, a
// softmax over all experts with a bias that chooses, and shared experts.
var ernie45moe = Arch{
	Name: "ernie4_5_moe", HF: []string{"Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"}, GGUF: "ernie4_5-moe", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "num_key_value_heads": "4", "tie_word_embeddings": "true", "default_theta": "500000",
			"moe_num_experts": "64", "moe_k": "6", "moe_num_shared_experts": "2", "moe_intermediate_size": "1536"})
		bias := c.Bool(false, "use_bias")
		if f := c.Float(1e-12, "moe_norm_min"); !(f >= 0 && f <= 1e-9) {
			c.lack("moe_norm_min", "is %g; only what leaves sums of weights as they are is supported", f)
		}
		s, err := decoderSpec(c, "ernie4_5_moe", func(a *Attention, mlp *MLP) {
			a.Pairs, a.Bias, a.OutBias, mlp.Bias = kernels.Adjacent, bias, bias, bias
		})
		s.HeadBias = bias
		m := MoE{E: c.Int(-1, "moe_num_experts"), K: c.Int(-1, "moe_k"), F: c.Int(-1, "moe_intermediate_size"), Route: kernels.RouteArgs{Renorm: true}, Select: true, SharedBias: bias}
		m.Shared = m.F * c.Int(0, "moe_num_shared_experts")
		step, start, end := c.Int(1, "moe_layer_interval"), c.Int(1, "moe_layer_start_index"), c.Int(-1, "moe_layer_end_index")
		if end == -1 {
			end = len(s.Layers) - 1
		}
		if step < 1 {
			c.fail("moe_layer_interval", "is %d, want 1 or more", step)
			step = 1
		}
		s.withExperts(m, func(i int) bool { return (i+1)%step == 0 && i >= start && i <= end })
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch, s.Attention().Pairs = "ernie4_5_moe", kernels.Adjacent
		m.Int(0, "interleave_moe_layer_step") // the tensors say it, too
		m.routed(&s)
		if e := s.moe(); e != nil {
			e.Route = kernels.RouteArgs{Renorm: true}
		}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		if m := s.moe(); m != nil {
			names.experts.selects, names.experts.selectsShape = "mlp.moe_statics.e_score_correction_bias", []int64{1, int64(m.E)}
		}
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		m := s.moe()
		first, step := s.expertSteps()
		u := func(k string, v int) formats.KV { return formats.KV{Key: "ernie4_5-moe." + k, Value: uint32(v)} }
		return append(decoderKV(s, "ernie4_5-moe"), u("interleave_moe_layer_step", step), u("leading_dense_block_count", first),
			u("expert_shared_count", m.Shared/m.F), u("expert_shared_feed_forward_length", m.Shared))
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		first, step := s.expertSteps()
		return append(decoderConfig(s, "Ernie4_5_MoeForCausalLM", "ernie4_5_moe"), formats.KV{Key: "use_bias", Value: false},
			formats.KV{Key: "moe_num_experts", Value: m.E}, formats.KV{Key: "moe_k", Value: m.K}, formats.KV{Key: "moe_intermediate_size", Value: m.F}, formats.KV{Key: "moe_num_shared_experts", Value: m.Shared / m.F},
			formats.KV{Key: "moe_layer_start_index", Value: first}, formats.KV{Key: "moe_layer_end_index", Value: len(s.Layers) - 1}, formats.KV{Key: "moe_layer_interval", Value: step})
	},
}

// expertSteps are the first layer with experts and how many layers further the next
// ones are, as files count: (layer+1) is a multiple of step. step is 0 where no
// such numbers describe the model.
func (s *Spec) expertSteps() (first, step int) {
	sparse := s.sparse()
	for first = 0; first < len(sparse) && !sparse[first]; first++ {
	}
	for step = 1; step <= len(sparse); step++ {
		fits := true
		for i, is := range sparse {
			fits = fits && is == (i >= first && (i+1)%step == 0)
		}
		if fits {
			return first, step
		}
	}
	return first, 0
}

// sparse says which layers have experts.
func (s *Spec) sparse() []bool {
	out := make([]bool, len(s.Layers))
	for i, l := range s.Layers {
		for _, sub := range l.Sublayers {
			if _, ok := sub.Body.(*MoE); ok {
				out[i] = true
			}
		}
	}
	return out
}
