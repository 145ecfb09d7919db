package arch

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// nemotronH has one part a layer: Mamba-2, attention without positions, or a
// feed-forward part without a gate.
var nemotronH = Arch{
	Name: "nemotron_h", HF: []string{"NemotronHForCausalLM"}, GGUF: "nemotron_h",
	Spec: nemotronSpec, GGUFSpec: nemotronGGUF, Rules: nemotronRules, KV: nemotronKV, NoGGUF: nemotronNoGGUF, Config: nemotronConfig,
	Fit: nemotronFit, Drops: []string{"mtp."},
}

// nemotronHMoE is one with layers of experts, for which llama.cpp has a name of
// its own.
var nemotronHMoE = Arch{
	Name: "nemotron_h_moe", GGUF: "nemotron_h_moe",
	Spec: nemotronSpec, GGUFSpec: nemotronGGUF, Rules: nemotronRules, KV: nemotronKV, NoGGUF: nemotronNoGGUF, Config: nemotronConfig,
	Fit: nemotronFit, Drops: []string{"mtp."},
}

func nemotronSpec(c *Config) (Spec, error) {
	c.assume(map[string]string{"vocab_size": "131072", "hidden_size": "4096", "num_attention_heads": "32", "num_key_value_heads": "8", "head_dim": "128",
		"max_position_embeddings": "4096", "intermediate_size": "21504", "mlp_hidden_act": `"relu2"`})
	for old, key := range map[string]string{"mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_dt_limit": "time_step_limit", "mamba_conv_bias": "use_conv_bias"} {
		c.rename(old, key)
	}
	if c.Int(0, "sliding_window") > 0 {
		c.lack("sliding_window", "sliding attention of Nemotron-H is not supported")
	}
	s := Spec{Arch: "nemotron_h", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-5, "layer_norm_epsilon"))}, Tied: c.Bool(false, "tie_word_embeddings")}
	a := c.attention(s.C)
	a.Bias, a.Rope = c.Bool(false, "attention_bias"), NoRope
	a.OutBias = a.Bias
	m := &Mamba2{H: c.Int(128, "mamba_num_heads"), P: c.Int(64, "mamba_head_dim"), G: c.Int(8, "n_groups"), S: c.Int(128, "ssm_state_size"), Taps: c.Int(4, "conv_kernel"),
		Bias: c.Bool(false, "use_bias"), ConvBias: c.Bool(true, "use_conv_bias"), Norm: GateThenNorm, NormEps: s.Norm.Eps}
	m.OutBias = m.Bias
	// time_step_limit is what NVIDIA's own code gives the kernels, and training has no
	// other: released models state 0 to infinity. Transformers 5.23 cuts steps off at
	// time_step_min instead, of initialisation (0.001), in texts but not in single tokens;
	// that model is not the trained one, nor llama.cpp's or vLLM's.
	c.mambaRest(m, m.inner())
	mlp := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("mlp_hidden_act"), Bias: c.Bool(false, "mlp_bias"), Ungated: true}
	kinds := c.nemotronKinds()
	bodies := map[string]Body{"full_attention": a, "linear_attention": m, "mlp": mlp}
	if slices.Contains(kinds, "moe") {
		s.Arch, bodies["moe"] = "nemotron_h_moe", c.nemotronExperts(mlp.Act)
	}
	err := s.nemotronLayers(kinds, bodies)
	return s, cmp.Or(c.err, err)
}

// nemotronFit leaves attention without biases where the folder has none: the class of
// Transformers 5.23 has none whatever attention_bias says, the models' own code goes by it.
func nemotronFit(s *Spec, has func(name string) bool) {
	for i, l := range s.Layers {
		a, ok := bodyOf[*Attention](l) // one for all layers
		if !ok {
			continue
		}
		name := fmt.Sprintf("layers.%d.mixer.q_proj.bias", i)
		a.Bias = a.Bias && (has("backbone."+name) || has("model."+name) || has(name))
		a.OutBias = a.Bias
		return
	}
}

func nemotronGGUF(m *Metadata) (Spec, error) {
	s := Spec{Arch: m.prefix, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
		Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
	full := m.emptyLayers(&s)
	a := m.hybridAttention(s.C, len(s.Layers))
	a.Rope = NoRope
	mlp := &MLP{Act: kernels.ReLU2, Ungated: true}
	kinds := make([]string, len(s.Layers))
	for i, inner := range m.perLayer(-1, len(s.Layers), "feed_forward_length") {
		switch {
		case full[i]:
			kinds[i] = "full_attention"
			a.Bias, a.OutBias = m.Has(fmt.Sprintf("blk.%d.attn_q.bias", i)), m.Has(fmt.Sprintf("blk.%d.attn_output.bias", i))
		case m.Has(fmt.Sprintf("blk.%d.ffn_gate_inp.weight", i)):
			kinds[i] = "moe"
		case inner > 0:
			kinds[i], mlp.F, mlp.Bias = "mlp", inner, m.Has(fmt.Sprintf("blk.%d.ffn_up.bias", i))
		default:
			kinds[i] = "linear_attention"
		}
	}
	bodies := map[string]Body{"full_attention": a, "linear_attention": m.mamba2(s.Norm.Eps), "mlp": mlp}
	if i := slices.Index(kinds, "moe"); i >= 0 {
		e := m.experts()
		e.Narrow = m.Int(0, "moe_latent_size")
		e.Act, e.Ungated, e.Select, e.Route = mlp.Act, true, m.Has(fmt.Sprintf("blk.%d.exp_probs_b.bias", i)), m.router()
		e.Route.Kind, e.Route.Best2, e.Route.Eps = kernels.RouteSigmoid, true, 1e-20
		if m.Int(1, "expert_shared_count") < 1 {
			e.Shared = 0
		}
		bodies["moe"] = &e
	}
	err := s.nemotronLayers(kinds, bodies)
	return s, cmp.Or(m.err, err)
}

func nemotronRules(s *Spec) []Rule {
	names := usualNames
	names.norms = map[Role][2]string{AttnNorm: {"norm", "attn_norm"}}
	names.experts.selects = "mlp.gate.e_score_correction_bias"
	return respell(namedRules(s, true, names), []string{".self_attn.", ".mixer.", ".mlp.", ".mixer.", ".mamba.", ".mixer.", "model.embed_tokens", "model.embeddings", "model.norm", "model.norm_f"},
		[]string{"model.", "backbone."}, nil)
}

func nemotronKV(s *Spec) []formats.KV {
	p := s.Arch + "."
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + k, Value: uint32(v)} }
	a, m := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*Mamba2](s), &Mamba2{})
	inner := make([]int32, len(s.Layers))
	for i, l := range s.Layers {
		if f, ok := bodyOf[*MLP](l); ok {
			inner[i] = int32(f.F)
		}
		if e, ok := bodyOf[*MoE](l); ok {
			inner[i] = int32(e.F)
		}
	}
	kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", endless), u("embedding_length", s.C), {Key: p + "feed_forward_length", Value: inner},
		u("attention.head_count", a.H), {Key: p + "attention.head_count_kv", Value: s.keyHeads()}, {Key: p + "attention.layer_norm_rms_epsilon", Value: s.Norm.Eps},
		{Key: p + "attention.layer_norm_epsilon", Value: s.Norm.Eps}, u("vocab_size", s.V), u("rope.dimension_count", s.C/max(a.H, 1)), u("attention.key_length", a.D), u("attention.value_length", a.D),
		{Key: p + "rope.scaling.finetuned", Value: false}}
	if e := s.moe(); e != nil {
		r := e.Route
		kv = append(kv, u("expert_count", e.E), u("expert_used_count", e.K), u("expert_group_count", max(r.Groups, 1)), u("expert_group_used_count", max(r.TopGroups, 1)), u("expert_feed_forward_length", e.F),
			u("expert_shared_feed_forward_length", e.Shared), u("expert_shared_count", min(e.Shared, 1)), formats.KV{Key: p + "expert_weights_norm", Value: r.Renorm}, formats.KV{Key: p + "expert_weights_scale", Value: r.Scale})
	}
	if e := s.moe(); e != nil && e.Narrow > 0 {
		kv = append(kv, u("moe_latent_size", e.Narrow))
	}
	return append(kv, m.kv(s.Arch)...)
}

func nemotronNoGGUF(s *Spec) string { return first[*Mamba2](s).noGGUF() }

func nemotronConfig(s *Spec) []formats.KV {
	a, m, f := cmp.Or(s.Attention(), &Attention{}), cmp.Or(first[*Mamba2](s), &Mamba2{}), cmp.Or(s.mlp(), &MLP{})
	pattern := ""
	for _, l := range s.Layers {
		switch l.Sublayers[0].Body.(type) {
		case *Attention:
			pattern += "*"
		case *Mamba2:
			pattern += "M"
		case *MoE:
			pattern += "E"
		default:
			pattern += "-"
		}
	}
	kv := []formats.KV{{Key: "architectures", Value: []string{"NemotronHForCausalLM"}}, {Key: "model_type", Value: "nemotron_h"},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: f.F}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "hybrid_override_pattern", Value: pattern},
		{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K}, {Key: "head_dim", Value: a.D}, {Key: "attention_bias", Value: a.Bias},
		{Key: "mlp_hidden_act", Value: "relu2"}, {Key: "mlp_bias", Value: f.Bias}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "layer_norm_epsilon", Value: shortFloat(s.Norm.Eps)},
		{Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V}, {Key: "mamba_num_heads", Value: m.H}, {Key: "mamba_head_dim", Value: m.P},
		{Key: "n_groups", Value: m.G}, {Key: "ssm_state_size", Value: m.S}, {Key: "conv_kernel", Value: m.Taps}, {Key: "use_bias", Value: m.Bias}, {Key: "use_conv_bias", Value: m.ConvBias}}
	if e := s.moe(); e != nil {
		r := e.Route
		kv = append(kv, formats.KV{Key: "n_routed_experts", Value: e.E}, formats.KV{Key: "num_experts_per_tok", Value: e.K}, formats.KV{Key: "moe_intermediate_size", Value: e.F},
			formats.KV{Key: "n_shared_experts", Value: min(e.Shared, 1)}, formats.KV{Key: "moe_shared_expert_intermediate_size", Value: e.Shared}, formats.KV{Key: "n_group", Value: max(r.Groups, 1)},
			formats.KV{Key: "topk_group", Value: max(r.TopGroups, 1)}, formats.KV{Key: "norm_topk_prob", Value: r.Renorm}, formats.KV{Key: "routed_scaling_factor", Value: shortFloat(r.Scale)})
		if e.Narrow > 0 {
			kv = append(kv, formats.KV{Key: "moe_latent_size", Value: e.Narrow})
		}
	}
	return kv
}

// nemotronKinds are the kinds of the layers: a list, or a word with a letter for
// each.
func (c *Config) nemotronKinds() []string {
	if list, ok := get[[]string](c, "layers_block_type"); ok {
		for i, kind := range list {
			list[i] = cmp.Or(map[string]string{"attention": "full_attention", "mamba": "linear_attention"}[kind], kind)
		}
		return list
	}
	var out []string
	for _, letter := range c.String("ME*-", "hybrid_override_pattern") {
		kind, ok := map[rune]string{'M': "linear_attention", '*': "full_attention", '-': "mlp", 'E': "moe"}[letter]
		if !ok {
			c.fail("hybrid_override_pattern", "has a letter %q; known: M, *, -, E", letter)
		}
		out = append(out, kind)
	}
	return out
}

// nemotronLayers makes a layer of each kind, with its norm before it.
func (s *Spec) nemotronLayers(kinds []string, bodies map[string]Body) error {
	s.Layers = nil
	made := map[string]*LayerSpec{}
	for i, kind := range kinds {
		if bodies[kind] == nil {
			return lack{fmt.Errorf("layer %d is %q, which is not supported in this architecture; known: linear_attention, full_attention, mlp, moe", i, kind)}
		}
		if made[kind] == nil {
			made[kind] = &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: bodies[kind]}}}
		}
		s.Layers = append(s.Layers, made[kind])
	}
	return checkSizes(size{"layers", len(kinds), maxLayers})
}

// nemotronExperts reads the experts, routed as DeepSeek V3's.
func (c *Config) nemotronExperts(act kernels.ActKind) *MoE {
	e := &MoE{E: c.Int(8, "n_routed_experts"), K: c.Int(2, "num_experts_per_tok"), F: c.Int(7688, "moe_intermediate_size"), Shared: c.Int(7688, "moe_shared_expert_intermediate_size"),
		Narrow: c.Int(0, "moe_latent_size"), SharedBias: c.Bool(false, "mlp_bias"), Act: act, Ungated: true, Select: true, Route: biasedSigmoid}
	r := &e.Route
	r.Groups, r.TopGroups = groups(c.Int(1, "n_group"), c.Int(1, "topk_group"))
	r.Renorm, r.Scale = c.Bool(true, "norm_topk_prob"), float32(c.Float(1, "routed_scaling_factor"))
	return e
}
