package arch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// kimiLinear has Kimi Delta Attention in most layers and latent attention without
// positions in the others, and the experts of DeepSeek V3 behind its first layers.
var kimiLinear = Arch{
	Name: "kimi_linear", HF: []string{"KimiLinearForCausalLM"}, GGUF: "kimi-linear", Experts: true,
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "163840", "hidden_size": "2304", "intermediate_size": "9216", "num_hidden_layers": "27", "num_attention_heads": "32",
			"kv_lora_rank": "512", "qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128", "moe_intermediate_size": "1024"})
		c.kimiLacks()
		s := Spec{Arch: "kimi_linear", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(1048576, "model_max_length", "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-5, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings")}
		s.emptyLayers(c)
		a := c.latentAttention()
		a.Rope = NoRope
		l := c.inner("linear_attn_config")
		d := kimiDelta(l.Int(c.Int(32, "linear_num_heads"), "num_heads"), l.Int(c.Int(128, "linear_head_dim"), "head_dim"),
			l.Int(c.Int(4, "linear_conv_kernel_dim"), "short_conv_kernel_size"), s.Norm.Eps)
		d.Act = c.Act("hidden_act")
		s.deltaLayers(c.kimiFull(l, len(s.Layers)), a, d, &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")})
		s.withExperts(c.kimiExperts(), c.sparseLayers(1))
		s.Predict = c.predicting()
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s := Spec{Arch: "kimi_linear", C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"), V: m.vocabulary(),
			Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight")}
		full := m.emptyLayers(&s)
		a := m.latentAttention(slices.Index(full, true))
		a.Rope = NoRope
		d := kimiDelta(a.H, m.Int(-1, "kda.head_dim"), m.Int(-1, "ssm.conv_kernel"), s.Norm.Eps)
		s.deltaLayers(full, a, d, &MLP{F: m.Int(-1, "feed_forward_length"), Act: kernels.SiLU})
		m.routed(&s)
		if e := s.moe(); e != nil { // one for all layers
			e.Route.Renorm = true
		}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts = sparseBlock
		names.experts.shared, names.experts.fileShared, names.experts.selects = "mlp.shared_experts", "block_sparse_moe.shared_experts", "block_sparse_moe.gate.e_score_correction_bias"
		list := namedRules(s, false, names)
		for i := range list {
			if r := &list[i]; r.Layer >= 0 && r.Experts == 0 && (r.Role == Gate || r.Role == Up || r.Role == Down) { // of a layer without experts: as Transformers 5.23 saves it
				r.Also = [][]Piece{{{Name: strings.Replace(r.HF[0].Name, ".mlp.", ".block_sparse_moe.", 1)}}}
			}
		}
		return list
	},
	KV: kimiKV,
	NoGGUF: func(s *Spec) string {
		d, a, m := first[*DeltaNet](s), s.mla(), s.moe()
		switch {
		case d == nil || a == nil:
			return "Kimi Linear with one kind of attention"
		case d.H != a.H:
			return fmt.Sprintf("%d heads in one kind of attention and %d in the other", d.H, a.H)
		case !m.Route.Renorm:
			return "moe_renormalize: false"
		}
		return s.scattered()
	},
	Config: kimiConfig,
}

// kimiDelta is Kimi Delta Attention of h heads of d elements.
func kimiDelta(h, d, taps int, eps float32) *DeltaNet {
	return &DeltaNet{In: LowRank, H: h, K: h, Dk: d, Dv: d, Taps: taps, Gate: kernels.Sigmoid, NormEps: eps}
}

// kimiLacks refuses what other models of the family do.
func (c *Config) kimiLacks() {
	c.only("mla_use_nope", "true")
	c.only("mla_use_output_gate", "false")
	c.only("attn_res_block_size", "0")
	c.only("moe_router_activation_func", `"sigmoid"`)
	c.only("moe_layer_freq", "1")
	c.only("forget_gate_lower_bound", "null")
	c.only("use_full_rank_output_gate", "false")
	if n, inner := c.Int(-1, "intermediate_size"), c.Int(0, "dense_ffn_hidden"); inner != 0 && inner != n {
		c.lack("dense_ffn_hidden", "is %d beside an intermediate_size of %d, which is not supported", inner, n)
	}
	if !c.Bool(true, "use_grouped_topk") && c.Int(1, "num_expert_group", "n_group") != 1 {
		c.lack("use_grouped_topk", "found false beside groups of experts")
	}
}

// kimiFull says which of n layers have latent attention: as layer_types lists, else
// the lists of the object l, which count from 1, else every fourth.
func (c *Config) kimiFull(l *Config, n int) []bool {
	if c.has("layer_types") {
		return c.layerKinds(n, map[string]bool{"full_attention": true, "linear_attention": false})
	}
	if !l.has("full_attn_layers") || !l.has("kda_layers") {
		return every(4, n)
	}
	full, seen := make([]bool, n), make([]bool, n)
	for _, key := range []string{"full_attn_layers", "kda_layers"} {
		list, _ := get[[]int](l, key)
		for _, i := range list {
			if i < 1 || i > n || seen[i-1] {
				c.fail("linear_attn_config", "%s has layer %d, which is no layer of %d or in a list already", key, i, n)
				return full
			}
			seen[i-1], full[i-1] = true, key == "full_attn_layers"
		}
	}
	if i := slices.Index(seen, false); i >= 0 {
		c.fail("linear_attn_config", "layer %d is neither in full_attn_layers nor in kda_layers", i+1)
	}
	return full
}

// kimiExperts reads the experts.
func (c *Config) kimiExperts() MoE {
	m := MoE{E: c.Int(256, "num_experts", "num_local_experts"), K: c.Int(8, "num_experts_per_token", "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"), Route: biasedSigmoid, Select: true}
	m.Route.Renorm, m.Route.Scale = c.Bool(true, "moe_renormalize", "norm_topk_prob"), float32(c.Float(2.446, "routed_scaling_factor"))
	m.Route.Groups, m.Route.TopGroups = groups(c.Int(1, "num_expert_group", "n_group"), c.Int(1, "topk_group"))
	m.Shared = m.F * c.Int(1, "num_shared_experts", "n_shared_experts")
	return m
}

// deltaLowRank adds the weights of Kimi Delta Attention. Files hold its convolution
// in three tensors: of queries, keys and values.
func (b *rules) deltaLowRank(d *DeltaNet, width int) {
	n := d.H * d.Dk
	b.matrix(Q, "self_attn.q_proj", "attn_q", n, width)
	b.matrix(K, "self_attn.k_proj", "attn_k", n, width)
	b.matrix(V, "self_attn.v_proj", "attn_v", n, width)
	b.matrix(MixDecay, "self_attn.forget_gate.f_a_proj", "ssm_f_a", d.Dk, width).HF[0].Name = b.hf + "self_attn.f_a_proj.weight"
	b.matrix(MixDecayUp, "self_attn.forget_gate.f_b_proj", "ssm_f_b", n, d.Dk).HF[0].Name = b.hf + "self_attn.f_b_proj.weight"
	b.matrix(MixBeta, "self_attn.b_proj", "ssm_beta", d.H, width)
	b.matrix(MixGate, "self_attn.g_a_proj", "ssm_g_a", d.Dk, width)
	b.matrix(MixGateUp, "self_attn.g_b_proj", "ssm_g_b", n, d.Dk)
	conv := b.convolution("self_attn.conv1d", "", 3*n, d.Taps, false)
	conv.HF, conv.GGUF = nil, nil
	for i, part := range []string{"q", "k", "v"} {
		rows := Rows{i * n, n, n, 1}
		conv.HF = append(conv.HF, Piece{Name: b.hf + "self_attn." + part + "_conv1d.weight", Rows: rows, Shape: []int64{int64(n), 1, int64(d.Taps)}})
		conv.GGUF = append(conv.GGUF, Piece{Name: b.gguf + "ssm_conv1d_" + part + ".weight", Rows: rows, Shape: []int64{1, int64(n), 1, int64(d.Taps)}})
	}
	b.vector(DtBias, "self_attn.dt_bias", "ssm_dt.bias", n)
	a, shape := b.vector(ALog, "self_attn.A_log", "ssm_a", d.H), []int64{1, 1, int64(d.H), 1}
	a.HF[0].Shape, a.GGUF[0].Shape, a.GGUF[0].NegExp = shape, shape, true
	b.vector(MixNorm, "self_attn.o_norm.weight", "ssm_norm.weight", d.Dk)
	b.matrix(MixOut, "self_attn.o_proj", "attn_output", width, n)
}

// kimiKV are the keys of a GGUF. What is a value's length there is what Transformers
// makes of head_dim; the layers have value_length_mla.
func kimiKV(s *Spec) []formats.KV {
	const p = "kimi-linear."
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + k, Value: uint32(v)} }
	a, d, m := s.mla(), first[*DeltaNet](s), s.moe()
	inner, _ := s.feed()
	kv := []formats.KV{u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C), u("feed_forward_length", inner),
		u("attention.head_count", a.H), {Key: p + "attention.head_count_kv", Value: s.keyHeads()}, {Key: p + "attention.layer_norm_rms_epsilon", Value: s.Norm.Eps},
		u("attention.key_length", a.KVRank+a.Rot), u("attention.value_length", a.Rot), u("vocab_size", s.V), u("ssm.conv_kernel", d.Taps), u("kda.head_dim", d.Dk)}
	if a.QRank > 0 {
		kv = append(kv, u("attention.q_lora_rank", a.QRank))
	}
	kv = append(kv, u("attention.kv_lora_rank", a.KVRank), u("rope.dimension_count", a.Rot), u("attention.key_length_mla", a.Nope+a.Rot), u("attention.value_length_mla", a.V))
	kv = append(kv, u("expert_count", m.E), u("expert_used_count", m.K), u("expert_feed_forward_length", m.F))
	return append(kv, s.routerKV("kimi-linear")...)
}

// kimiConfig is config.json in the form of the hub.
func kimiConfig(s *Spec) []formats.KV {
	a, d, m := s.mla(), first[*DeltaNet](s), s.moe()
	inner, act := s.feed()
	full, delta := []int{}, []int{}
	for i, heads := range s.keyHeads() {
		if heads > 0 {
			full = append(full, i+1)
		} else {
			delta = append(delta, i+1)
		}
	}
	linear := map[string]any{"full_attn_layers": full, "kda_layers": delta, "head_dim": d.Dk, "num_heads": d.H, "short_conv_kernel_size": d.Taps}
	kv := []formats.KV{{Key: "architectures", Value: []string{"KimiLinearForCausalLM"}}, {Key: "model_type", Value: "kimi_linear"}, {Key: "hidden_size", Value: s.C},
		{Key: "intermediate_size", Value: inner}, {Key: "num_hidden_layers", Value: len(s.Layers)}, {Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.H},
		{Key: "q_lora_rank", Value: nil}, {Key: "kv_lora_rank", Value: a.KVRank}, {Key: "qk_nope_head_dim", Value: a.Nope}, {Key: "qk_rope_head_dim", Value: a.Rot}, {Key: "v_head_dim", Value: a.V},
		{Key: "mla_use_nope", Value: true}, {Key: "linear_attn_config", Value: linear}, {Key: "hidden_act", Value: actNames[act]}, {Key: "model_max_length", Value: s.MaxPos},
		{Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
		{Key: "num_experts", Value: m.E}, {Key: "num_experts_per_token", Value: m.K}, {Key: "moe_intermediate_size", Value: m.F}, {Key: "num_shared_experts", Value: m.Shared / m.F},
		{Key: "first_k_dense_replace", Value: s.denseLayers()}, {Key: "moe_layer_freq", Value: 1}, {Key: "moe_renormalize", Value: m.Route.Renorm},
		{Key: "moe_router_activation_func", Value: "sigmoid"}, {Key: "routed_scaling_factor", Value: shortFloat(m.Route.Scale)}, {Key: "use_grouped_topk", Value: true},
		{Key: "num_expert_group", Value: max(m.Route.Groups, 1)}, {Key: "topk_group", Value: max(m.Route.TopGroups, 1)}}
	if a.QRank > 0 {
		kv = append(kv, formats.KV{Key: "q_lora_rank", Value: a.QRank})
	}
	return kv
}
