package arch

import (
	"cmp"
	"encoding/json"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// hunyuanmoe is Hunyuan A13B: norms of queries and keys behind the rotation, and
// experts beside a feed-forward part of full width.
var hunyuanmoe = Arch{
	Name: "hunyuan_v1_moe", HF: []string{"HunYuanMoEV1ForCausalLM"}, GGUF: "hunyuan-moe",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"rms_norm_eps": "1e-5", "num_experts": "1", "moe_topk": "1"})
		c.only("use_qk_norm", "true")
		c.only("use_mixed_mlp_moe", "false")
		experts, k, shared := c.everyLayer("num_experts"), c.everyLayer("moe_topk"), c.everyLayer("num_shared_expert")
		if shared > 1 {
			c.lack("num_shared_expert", "is %d, supported is 1", shared)
		}
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "hunyuan_v1_moe", func(a *Attention, _ *MLP) { a.QKNorm, a.NormLast, a.Bias, a.OutBias = PerHead, true, bias, bias })
		if err != nil {
			return s, err
		}
		s.Ropes[0] = c.alphaRope(s.Ropes[0])
		f := s.mlp().F
		if n := c.everyLayer("moe_intermediate_size"); n != 0 && n != f {
			c.lack("moe_intermediate_size", "is %d, but experts of this family are as wide as intermediate_size, %d", n, f)
		}
		s.withExperts(MoE{E: experts, K: k, Shared: f, Route: kernels.RouteArgs{Renorm: true}}, nil)
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch, s.Attention().NormLast = "hunyuan_v1_moe", true
		e := m.experts()
		m.Int(0, "expert_shared_count")
		if e.F != s.mlp().F {
			m.lack("expert_feed_forward_length", "is %d, but experts of this family are as wide as feed_forward_length, %d", e.F, s.mlp().F)
		}
		e.F, e.Route.Renorm = 0, true
		s.withExperts(e, nil)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := hunyuanNames
		names.experts.router, names.experts.shared = "mlp.gate.wg", "mlp.shared_mlp"
		return namedRules(s, false, names)
	},
	KV: func(s *Spec) []formats.KV {
		m := s.moe()
		u := func(k string, v int) formats.KV { return formats.KV{Key: "hunyuan-moe." + k, Value: uint32(v)} }
		return append(decoderKV(s, "hunyuan-moe"), u("expert_shared_feed_forward_length", m.Shared), u("expert_feed_forward_length", m.F), u("expert_shared_count", 1))
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(decoderConfig(s, "HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "moe_topk", Value: m.K}, formats.KV{Key: "num_shared_expert", Value: 1}, formats.KV{Key: "use_qk_norm", Value: true})
	},
}

// everyLayer reads a number, or a list with it for every layer; 0: absent.
func (c *Config) everyLayer(key string) int {
	list, isList := []json.RawMessage{}, false
	if raw, ok := c.raw[key]; ok {
		isList = json.Unmarshal(raw, &list) == nil && len(list) > 0
	}
	if !isList {
		return c.Int(0, key)
	}
	for i := range list {
		if !sameJSON(list[i], list[0]) {
			c.lack(key, "is %s in one layer, %s in another; only equal ones are supported", list[0], list[i])
		}
	}
	return c.within(map[string]json.RawMessage{key: list[0]}).Int(0, key)
}
