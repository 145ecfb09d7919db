package arch

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// qwen35 has gated delta nets in three of four layers and attention with a gate
// in the others, each before a feed-forward part. Weights of norms count from 1.
var qwen35 = Arch{
	Name: "qwen3_5_text", HF: []string{"Qwen3_5ForCausalLM"}, GGUF: "qwen35", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "248320", "hidden_size": "4096", "intermediate_size": "12288", "num_hidden_layers": "32", "num_key_value_heads": "4"})
		s := c.qwenHybrid("qwen3_5_text")
		s.deltaLayers(c.fullLayers(len(s.Layers)), c.gatedAttention(s.C), c.deltaNet(Joint), &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")})
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, full, a, d := m.qwenHybrid("qwen3_5_text", Joint)
		s.deltaLayers(full, a, d, &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU})
		return s, m.err
	},
	Rules:  func(s *Spec) []Rule { return qwenHybridRules(s, nil) },
	KV:     func(s *Spec) []formats.KV { return deltaKV(s, "qwen35") },
	NoGGUF: (*Spec).irregular,
	Config: func(s *Spec) []formats.KV { return deltaConfig(s, "Qwen3_5ForCausalLM", "qwen3_5_text") },
	Drops:  []string{"mtp."},
}

// qwen35moe has experts in place of each feed-forward part.
var qwen35moe = Arch{
	Name: "qwen3_5_moe_text", HF: []string{"Qwen3_5MoeForCausalLM"}, GGUF: "qwen35moe", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "248320", "hidden_size": "2048", "num_hidden_layers": "40", "num_key_value_heads": "2",
			"moe_intermediate_size": "512", "shared_expert_intermediate_size": "512", "num_experts_per_tok": "8", "num_experts": "256"})
		s := c.qwenHybrid("qwen3_5_moe_text")
		s.deltaLayers(c.fullLayers(len(s.Layers)), c.gatedAttention(s.C), c.deltaNet(Joint), c.qwenExperts(true))
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, full, a, d := m.qwenHybrid("qwen3_5_moe_text", Joint)
		s.deltaLayers(full, a, d, m.qwenExperts())
		return s, m.err
	},
	Rules:  func(s *Spec) []Rule { return qwenHybridRules(s, nil) },
	KV:     func(s *Spec) []formats.KV { return deltaKV(s, "qwen35moe") },
	NoGGUF: (*Spec).irregular,
	Config: func(s *Spec) []formats.KV { return deltaConfig(s, "Qwen3_5MoeForCausalLM", "qwen3_5_moe_text") },
	Drops:  []string{"mtp."},
}

// qwen3next is the same with other maps before its delta nets.
var qwen3next = Arch{
	Name: "qwen3_next", HF: []string{"Qwen3NextForCausalLM"}, GGUF: "qwen3next", PartRotates: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "151936", "hidden_size": "2048", "intermediate_size": "5632", "num_hidden_layers": "48", "num_key_value_heads": "2",
			"moe_intermediate_size": "512", "shared_expert_intermediate_size": "512", "num_experts_per_tok": "10", "num_experts": "512"})
		s := c.qwenHybrid("qwen3_next")
		e := c.qwenExperts(c.Bool(true, "norm_topk_prob"))
		e.Dense = c.Int(-1, "intermediate_size")
		full, a, d := c.fullLayers(len(s.Layers)), c.gatedAttention(s.C), c.deltaNet(ByKeyHead)
		s.deltaLayers(full, a, d, &MLP{F: e.Dense, Act: e.Act})
		s.withExperts(*e, c.sparseSteps())
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, full, a, d := m.qwenHybrid("qwen3_next", ByKeyHead)
		e := m.qwenExperts()
		e.Dense = m.Int(0, "feed_forward_length")
		s.deltaLayers(full, a, d, e)
		return s, m.err
	},
	Rules: func(s *Spec) []Rule { return qwenHybridRules(s, nil) },
	KV:    func(s *Spec) []formats.KV { return deltaKV(s, "qwen3next") },
	NoGGUF: func(s *Spec) string {
		if m := s.moe(); m != nil && !m.Route.Renorm {
			return "norm_topk_prob: false"
		}
		return s.irregular()
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		return append(deltaConfig(s, "Qwen3NextForCausalLM", "qwen3_next"), formats.KV{Key: "intermediate_size", Value: m.Dense}, formats.KV{Key: "norm_topk_prob", Value: m.Route.Renorm})
	},
	Drops: []string{"mtp."},
}

// qwenHybrid reads the keys around the layers.
func (c *Config) qwenHybrid(name string) Spec {
	c.assume(map[string]string{"num_attention_heads": "16", "head_dim": "256", "max_position_embeddings": "32768"})
	if !c.Bool(true, "attn_output_gate") {
		c.lack("attn_output_gate", "found false: attention without a gate is not supported")
	}
	s := Spec{
		Arch: name, C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps")), Offset: 1}, Tied: c.Bool(false, "tie_word_embeddings"),
	}
	rope := c.partRope(c.gatedAttention(s.C).D, s.MaxPos, 0.25)
	if rule := c.ropeRule(); rule != nil {
		rope.Sections, _ = get[[]int](rule, "mrope_section")
	}
	if n := rope.Sections; n != nil && (len(n) != 3 || n[0]+n[1]+n[2] != rope.Dim/2) {
		c.fail("rope_parameters", "mrope_section is %v, want three numbers that make %d", n, rope.Dim/2)
	}
	s.Ropes = []RopeSpec{rope}
	s.emptyLayers(c)
	return s
}

// gatedAttention reads the heads of the layers with attention.
func (c *Config) gatedAttention(width int) *Attention {
	a := c.attention(width)
	a.QGate, a.QKNorm = true, PerHead
	a.Bias = c.Bool(false, "attention_bias")
	a.OutBias = a.Bias
	return a
}

// fullLayers says which of n layers have attention: as layer_types lists, or one
// of so many.
func (c *Config) fullLayers(n int) []bool {
	if c.has("layer_types") {
		return c.layerKinds(n, map[string]bool{"full_attention": true, "linear_attention": false})
	}
	return every(c.Int(4, "full_attention_interval"), n)
}

// every chooses the last of every k of n layers.
func every(k, n int) []bool {
	out := make([]bool, n)
	for i := range out {
		out[i] = k > 0 && (i+1)%k == 0
	}
	return out
}

// deltaNet reads the heads of the delta nets.
func (c *Config) deltaNet(in DeltaIn) *DeltaNet {
	return &DeltaNet{In: in, H: c.Int(32, "linear_num_value_heads"), K: c.Int(16, "linear_num_key_heads"), Dk: c.Int(128, "linear_key_head_dim"), Dv: c.Int(128, "linear_value_head_dim"),
		Taps: c.Int(4, "linear_conv_kernel_dim"), Act: c.Act("hidden_act"), NormEps: float32(c.Float(1e-6, "rms_norm_eps"))}
}

// qwenExperts reads the experts, of which one serves every token.
func (c *Config) qwenExperts(renorm bool) *MoE {
	return &MoE{E: c.Int(-1, "num_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"), Shared: c.Int(-1, "shared_expert_intermediate_size"),
		SharedGated: true, Act: c.Act("hidden_act"), Route: kernels.RouteArgs{Renorm: renorm}}
}

// deltaLayers makes the layers: attention where full says so, else a delta net,
// and the feed-forward part.
func (s *Spec) deltaLayers(full []bool, a Body, d *DeltaNet, feed Body) {
	both := map[bool]*LayerSpec{true: decoder(a, feed), false: decoder(d, feed)}
	for i := range s.Layers {
		s.Layers[i] = both[i < len(full) && full[i]]
	}
}

// qwenHybrid reads the keys around the layers, which have attention, and the mixers.
func (m *Metadata) qwenHybrid(name string, in DeltaIn) (Spec, []bool, *Attention, *DeltaNet) {
	s := Spec{Arch: name, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
		Norm: NormSpec{Eps: m.eps(), Offset: 1}, Tied: !m.Has("output.weight")}
	n := m.Int(-1, "block_count")
	if m.err == nil {
		m.err = s.repeat(n, nil)
	}
	a := &Attention{QGate: true, QKNorm: PerHead, H: m.Int(-1, "attention.head_count"), D: m.Int(-1, "attention.key_length")}
	a.K = m.Int(a.H, "attention.head_count_kv")
	rope := m.Rope(a.D, s.MaxPos)
	if list, ok := ints(m.kv[m.prefix+".rope.dimension_sections"]); ok && len(list) > 0 {
		rope.Sections = list[:len(list)-1]
	}
	s.Ropes = []RopeSpec{rope}
	full := every(m.Int(4, "full_attention_interval"), len(s.Layers))
	for i, has := range full {
		if has {
			a.Bias, a.OutBias = m.Has(fmt.Sprintf("blk.%d.attn_q.bias", i)), m.Has(fmt.Sprintf("blk.%d.attn_output.bias", i))
		}
	}
	d := &DeltaNet{In: in, H: m.Int(-1, "ssm.time_step_rank"), K: m.Int(-1, "ssm.group_count"), Dk: m.Int(-1, "ssm.state_size"), Taps: m.Int(-1, "ssm.conv_kernel"),
		NormEps: s.Norm.Eps}
	if d.H > 0 {
		d.Dv = m.Int(-1, "ssm.inner_size") / d.H
	}
	return s, full, a, d
}

// qwenExperts reads the experts.
func (m *Metadata) qwenExperts() *MoE {
	e := m.experts()
	e.SharedGated, e.Route.Renorm = true, true
	return &e
}

// qwenHybridRules lists the tensors, under names that in changes; nil: under these.
func qwenHybridRules(s *Spec, in func(layerNames) layerNames) []Rule {
	names := layerNames{experts: hubExperts,
		norms: map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "post_attention_norm"}}}
	names.experts.shared = "mlp.shared_expert"
	if in != nil {
		names = in(names)
	}
	return namedRules(s, false, names)
}

// interval is the number of layers of which the last has attention, 0 where that
// is not the rule.
func (s *Spec) interval() int {
	heads := s.keyHeads()
	k := 0
	for k < len(heads) && heads[k] == 0 {
		k++
	}
	k++
	for i, full := range every(k, len(heads)) {
		if full != (heads[i] > 0) {
			return 0
		}
	}
	return k
}

// irregular says what llama.cpp has no key for.
func (s *Spec) irregular() string {
	if s.interval() == 0 {
		return "attention in other than every so many layers"
	}
	return ""
}

func deltaKV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	a, d, r := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*DeltaNet](s), &DeltaNet{}), s.rope()
	kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C)}
	if m := s.moe(); m == nil {
		kv = append(kv, u("feed_forward_length", s.mlp().F))
	} else {
		if m.Dense > 0 {
			kv = append(kv, u("feed_forward_length", m.Dense))
		}
		kv = append(kv, u("expert_count", m.E), u("expert_used_count", m.K), u("expert_feed_forward_length", m.F), u("expert_shared_feed_forward_length", m.Shared))
	}
	kv = append(kv, u("attention.head_count", a.H), u("attention.head_count_kv", a.K))
	if sections := r.Sections; sections != nil || p != "qwen3next" { // which llama.cpp does without
		if sections == nil {
			sections = r.evenSections()
		}
		var list []int32
		for _, n := range slices.Concat(sections, []int{0}) {
			list = append(list, int32(n))
		}
		kv = append(kv, formats.KV{Key: p + ".rope.dimension_sections", Value: list})
	}
	kv = append(kv, r.ggufScaling(p)...)
	return append(kv, formats.KV{Key: p + ".rope.freq_base", Value: float32(r.Base)}, formats.KV{Key: p + ".attention.layer_norm_rms_epsilon", Value: s.Norm.Eps},
		u("attention.key_length", a.D), u("attention.value_length", a.D), u("ssm.conv_kernel", d.Taps), u("ssm.state_size", d.Dk), u("ssm.group_count", d.K),
		u("ssm.time_step_rank", d.H), u("ssm.inner_size", d.H*d.Dv), u("full_attention_interval", s.interval()), u("rope.dimension_count", r.Dim))
}

// evenSections are the numbers of angles that three positions have which take turns.
func (r *RopeSpec) evenSections() []int {
	n := r.Dim / 2
	return []int{(n + 2) / 3, (n + 1) / 3, n / 3}
}

// leftOver tells whether some angle is of none of three positions that take turns, each as
// often as Sections say.
func (r *RopeSpec) leftOver() bool {
	for i := range r.Dim / 2 {
		if len(r.Sections) == 3 && i/3 >= r.Sections[i%3] {
			return true
		}
	}
	return false
}

func deltaConfig(s *Spec, class, model string) []formats.KV {
	a, d, r := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*DeltaNet](s), &DeltaNet{}), s.rope()
	rule := map[string]any{"rope_type": "default"}
	if scaling := ropeScaling(r); scaling != nil {
		maps.Copy(rule, scaling)
	}
	rule["rope_theta"], rule["partial_rotary_factor"] = r.Base, float64(r.Dim)/float64(max(a.D, 1))
	if r.Sections != nil {
		rule["mrope_section"], rule["mrope_interleaved"] = r.Sections, true
	}
	kv := []formats.KV{{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: model},
		{Key: "hidden_size", Value: s.C}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K},
		{Key: "head_dim", Value: a.D}, {Key: "attention_bias", Value: a.Bias}, {Key: "hidden_act", Value: "silu"}, {Key: "max_position_embeddings", Value: s.MaxPos},
		{Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V}, {Key: "rope_parameters", Value: rule},
		{Key: "linear_conv_kernel_dim", Value: d.Taps}, {Key: "linear_key_head_dim", Value: d.Dk}, {Key: "linear_value_head_dim", Value: d.Dv},
		{Key: "linear_num_key_heads", Value: d.K}, {Key: "linear_num_value_heads", Value: d.H}, {Key: "layer_types", Value: s.layerTypes("full_attention", "linear_attention")}}
	if m := s.moe(); m != nil {
		return append(kv, formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K},
			formats.KV{Key: "moe_intermediate_size", Value: m.F}, formats.KV{Key: "shared_expert_intermediate_size", Value: m.Shared})
	}
	return append(kv, formats.KV{Key: "intermediate_size", Value: s.mlp().F})
}
