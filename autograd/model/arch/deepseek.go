package arch

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// deepseek2 is DeepSeek V2: latent attention, and experts beside shared ones
// behind the first layers. In GGUF its successors are called so, too.
var deepseek2 = Arch{
	Name: "deepseek_v2", HF: []string{"DeepseekV2ForCausalLM"}, GGUF: "deepseek2", Experts: true,
	IsGGUF: func(m *Metadata) bool { return m.Int(gateSoftmax, "expert_gating_func") != gateSigmoid },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "2048", "kv_lora_rank": "512", "q_lora_rank": "1536", "qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128",
			"n_shared_experts": "2", "routed_scaling_factor": "1.0"})
		c.only("scoring_func", `"softmax"`)
		c.only("moe_layer_freq", "1")
		s, err := latentSpec(c, "deepseek_v2", kernels.Adjacent)
		m := c.latentExperts(kernels.RouteArgs{})
		if mlp := s.mlp(); mlp != nil {
			mlp.Bias = c.Bool(false, "mlp_bias")
			m.SharedBias = mlp.Bias
		}
		m.Route.Renorm = false // norm_topk_prob counts for nothing in this family
		switch how := c.String("greedy", "topk_method"); how {
		case "greedy":
			m.Route.Groups, m.Route.TopGroups = 0, 0
		case "group_limited_greedy":
		default:
			c.lack("topk_method", "%q is not supported; known: greedy, group_limited_greedy", how)
		}
		s.withExperts(m, c.sparseLayers(0))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) { return deepseekGGUF(m, "deepseek_v2") },
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:       func(s *Spec) []formats.KV { return deepseekKV(s, "deepseek2") },
	NoGGUF:   latentNoGGUF,
	Config: func(s *Spec) []formats.KV {
		how := "greedy"
		if s.moe().Route.Groups > 1 {
			how = "group_limited_greedy"
		}
		return append(deepseekConfig(s, "DeepseekV2ForCausalLM", "deepseek_v2"), formats.KV{Key: "topk_method", Value: how})
	},
}

// deepseek3 is DeepSeek V3, R1, and Kimi K2: V2 with a bias where experts and
// their groups are chosen.
var deepseek3 = Arch{
	Name: "deepseek_v3", HF: []string{"DeepseekV3ForCausalLM"}, GGUF: "deepseek2", Experts: true,
	IsGGUF: func(m *Metadata) bool { return m.Int(gateSoftmax, "expert_gating_func") == gateSigmoid },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "4096", "kv_lora_rank": "512", "q_lora_rank": "1536", "qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128",
			"n_group": "8", "topk_group": "4", "n_routed_experts": "256", "num_experts_per_tok": "8", "n_shared_experts": "1", "norm_topk_prob": "true", "routed_scaling_factor": "2.5"})
		return deepseek3Spec(c, "deepseek_v3", 3)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) { return deepseekGGUF(m, "deepseek_v3") },
	Rules:    func(s *Spec) []Rule { return decoderRules(s, false) },
	KV:       func(s *Spec) []formats.KV { return deepseekKV(s, "deepseek2") },
	NoGGUF:   latentNoGGUF,
	Config: func(s *Spec) []formats.KV {
		return append(deepseekConfig(s, "DeepseekV3ForCausalLM", "deepseek_v3"), formats.KV{Key: "scoring_func", Value: "sigmoid"}, formats.KV{Key: "topk_method", Value: "noaux_tc"})
	},
}

// deepseek32 is DeepSeek V3.2: V3 whose tokens see the keys that an indexer picks.
var deepseek32 = Arch{
	Name: "deepseek_v32", HF: []string{"DeepseekV32ForCausalLM"}, GGUF: "deepseek32",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "163840", "kv_lora_rank": "512", "q_lora_rank": "1536", "qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128",
			"n_group": "8", "topk_group": "4", "n_routed_experts": "256", "num_experts_per_tok": "8", "n_shared_experts": "1", "norm_topk_prob": "true", "routed_scaling_factor": "2.5",
			"index_n_heads": "64", "index_head_dim": "128", "index_topk": "2048"})
		c.layerTypes("layer_types", "indexed_attention", "deepseek_sparse_attention")
		s, err := deepseek3Spec(c, "deepseek_v32", 3)
		if a := s.mla(); a != nil { // one for all layers
			a.Index = Indexer{H: c.Int(-1, "index_n_heads"), D: c.Int(-1, "index_head_dim"), P: c.Int(-1, "index_topk")}
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := deepseekGGUF(m, "deepseek_v32")
		if a := s.mla(); a != nil {
			a.Index = Indexer{H: m.Int(-1, "attention.indexer.head_count"), D: m.Int(-1, "attention.indexer.key_length"), P: m.Int(-1, "attention.indexer.top_k")}
		}
		return s, cmp.Or(err, m.err)
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		x := s.mla().Index
		return append(deepseekKV(s, "deepseek32"), formats.KV{Key: "deepseek32.attention.indexer.head_count", Value: uint32(x.H)},
			formats.KV{Key: "deepseek32.attention.indexer.key_length", Value: uint32(x.D)}, formats.KV{Key: "deepseek32.attention.indexer.top_k", Value: uint32(x.P)})
	},
	NoGGUF: latentNoGGUF,
	Config: func(s *Spec) []formats.KV {
		x := s.mla().Index
		return append(deepseekConfig(s, "DeepseekV32ForCausalLM", "deepseek_v32"), formats.KV{Key: "index_n_heads", Value: x.H}, formats.KV{Key: "index_head_dim", Value: x.D},
			formats.KV{Key: "index_topk", Value: x.P}, formats.KV{Key: "scoring_func", Value: "sigmoid"}, formats.KV{Key: "topk_method", Value: "noaux_tc"})
	},
}

// glmMoeDsa is GLM 5: DeepSeek V3.2 in which a layer may see the keys that an earlier
// one picked.
var glmMoeDsa = Arch{
	Name: "glm_moe_dsa", HF: []string{"GlmMoeDsaForCausalLM"}, GGUF: "glm-dsa",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "202752", "rms_norm_eps": "1e-5", "kv_lora_rank": "512", "q_lora_rank": "2048", "qk_nope_head_dim": "192", "qk_rope_head_dim": "64", "v_head_dim": "256",
			"n_group": "1", "topk_group": "1", "n_routed_experts": "256", "num_experts_per_tok": "8", "n_shared_experts": "1", "norm_topk_prob": "true", "routed_scaling_factor": "2.5",
			"index_n_heads": "32", "index_head_dim": "128", "index_topk": "2048"})
		c.only("rope_interleave", "true")
		c.only("indexer_rope_interleave", "true")
		c.layerTypes("layer_types", "indexed_attention", "deepseek_sparse_attention")
		s, err := deepseek3Spec(c, "glm_moe_dsa", 3)
		if err != nil {
			return s, err
		}
		x := Indexer{H: c.Int(-1, "index_n_heads"), D: c.Int(-1, "index_head_dim"), P: c.Int(-1, "index_topk"), Pairs: kernels.Adjacent}
		if err := s.indexed(x, c.picking(len(s.Layers))); err != nil {
			c.fail("indexer_types", "%v", err)
		}
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := deepseekGGUF(m, "glm_moe_dsa")
		if err != nil {
			return s, err
		}
		picking, ok := m.kv[m.prefix+".attention.indexer.types"].([]bool)
		if !ok {
			picking = slices.Repeat([]bool{true}, len(s.Layers))
		}
		x := Indexer{H: m.Int(-1, "attention.indexer.head_count"), D: m.Int(-1, "attention.indexer.key_length"), P: m.Int(-1, "attention.indexer.top_k"), Pairs: kernels.Adjacent}
		if err := s.indexed(x, picking); err != nil {
			m.fail("attention.indexer.types", "%v", err)
		}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		x := s.mla().Index
		return append(deepseekKV(s, "glm-dsa"), formats.KV{Key: "glm-dsa.attention.indexer.head_count", Value: uint32(x.H)},
			formats.KV{Key: "glm-dsa.attention.indexer.key_length", Value: uint32(x.D)}, formats.KV{Key: "glm-dsa.attention.indexer.top_k", Value: uint32(x.P)},
			formats.KV{Key: "glm-dsa.attention.indexer.types", Value: s.picking()})
	},
	NoGGUF: latentNoGGUF,
	Config: func(s *Spec) []formats.KV {
		x := s.mla().Index
		var types []string
		for _, own := range s.picking() {
			types = append(types, map[bool]string{true: "full", false: "shared"}[own])
		}
		return append(deepseekConfig(s, "GlmMoeDsaForCausalLM", "glm_moe_dsa"), formats.KV{Key: "index_n_heads", Value: x.H}, formats.KV{Key: "index_head_dim", Value: x.D},
			formats.KV{Key: "index_topk", Value: x.P}, formats.KV{Key: "indexer_types", Value: types}, formats.KV{Key: "scoring_func", Value: "sigmoid"}, formats.KV{Key: "topk_method", Value: "noaux_tc"})
	},
}

// picking reads which of n layers have an indexer of their own: indexer_types says it
// of each, index_topk_pattern by letters, index_topk_freq and index_skip_topk_offset
// by number.
func (c *Config) picking(n int) []bool {
	types := c.layerTypes("indexer_types", "full", "shared")
	if pattern, ok := c.raw["index_topk_pattern"]; ok && types == nil && string(pattern) != "null" {
		if pattern[0] == '"' {
			for _, letter := range c.String("", "index_topk_pattern") {
				types = append(types, map[rune]string{'F': "full", 'S': "shared"}[letter])
			}
		} else {
			types, _ = get[[]string](c, "index_topk_pattern")
		}
		for i, t := range types {
			if t != "full" && t != "shared" {
				c.lack("index_topk_pattern", "layer %d is none of F (full), S (shared)", i)
			}
		}
		if len(types) != n {
			c.fail("index_topk_pattern", "has %d entries for %d layers", len(types), n)
		}
	}
	every, first := max(c.Int(1, "index_topk_freq"), 1), c.Int(2, "index_skip_topk_offset")
	out := make([]bool, n)
	for i := range out {
		if out[i] = max(i-first+1, 0)%every == 0; types != nil {
			out[i] = i < len(types) && types[i] == "full"
		}
	}
	return out
}

// indexed gives the layers that picking names indexers like x; the others see what
// the last such layer before them picks.
func (s *Spec) indexed(x Indexer, picking []bool) error {
	if len(picking) != len(s.Layers) || len(picking) > 0 && !picking[0] {
		return fmt.Errorf("%d entries for %d layers, of which the first picks keys", len(picking), len(s.Layers))
	}
	for i := range s.Layers {
		own := x
		if own.Lends = i+1 < len(picking) && picking[i] && !picking[i+1]; !picking[i] {
			own = Indexer{P: x.P, Borrows: true}
		}
		s.rebuild(func(j int) bool { return i == j }, func(old Body) Body {
			a, ok := old.(*MLA)
			if !ok {
				return old
			}
			of := *a
			of.Index = own
			return &of
		})
	}
	return nil
}

// picking says which layers have an indexer of their own.
func (s *Spec) picking() []bool {
	out := make([]bool, len(s.Layers))
	for i, l := range s.Layers {
		a, _ := bodyOf[*MLA](l)
		out[i] = a != nil && a.Index.picks()
	}
	return out
}

// glm4moelite is GLM 4.7 Flash: DeepSeek V3 by another name, also in GGUF, where
// nothing tells them apart.
var glm4moelite = Arch{
	Name: "glm4_moe_lite", HF: []string{"Glm4MoeLiteForCausalLM"}, GGUF: "deepseek2", Experts: true,
	IsGGUF: func(*Metadata) bool { return false },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "202752", "rms_norm_eps": "1e-5", "kv_lora_rank": "512", "q_lora_rank": "768", "qk_nope_head_dim": "192", "qk_rope_head_dim": "64", "v_head_dim": "256",
			"n_group": "1", "topk_group": "1", "n_routed_experts": "64", "num_experts_per_tok": "4", "n_shared_experts": "1", "norm_topk_prob": "true", "routed_scaling_factor": "1.8"})
		return deepseek3Spec(c, "glm4_moe_lite", 1)
	},
	GGUFSpec: deepseek3.GGUFSpec,
	Rules:    deepseek3.Rules,
	KV:       deepseek3.KV,
	NoGGUF:   latentNoGGUF,
	Config:   deepseek3.Config,
}

// deepseek3Spec reads config.json of DeepSeek V3 and its likes, of whose layers
// the first dense have no experts unless it says so.
func deepseek3Spec(c *Config, name string, dense int) (Spec, error) {
	c.only("scoring_func", `"sigmoid"`)
	c.only("topk_method", `"noaux_tc"`)
	c.only("moe_layer_freq", "1")
	s, err := latentSpec(c, name, c.latentPairs())
	m := c.latentExperts(biasedSigmoid)
	m.Select = true
	s.withExperts(m, c.sparseLayers(dense))
	s.Predict = c.predicting()
	return s, cmp.Or(err, c.err)
}

// latentPairs reads which elements rotate together, of heads whose rotating part
// config.json may state twice.
func (c *Config) latentPairs() kernels.Pairs {
	if rot := c.Int(0, "qk_rope_head_dim"); c.has("head_dim") && c.Int(0, "head_dim") != rot {
		c.fail("head_dim", "is %s, but qk_rope_head_dim, of which it is another name here, is %d; remove one", c.raw["head_dim"], rot)
	}
	if !c.Bool(true, "rope_interleave") {
		return kernels.HalfSplit
	}
	return kernels.Adjacent
}

// predicting reads the number of layers that predict further tokens.
func (c *Config) predicting() int {
	n := c.Int(0, "num_nextn_predict_layers")
	if n < 0 || n > maxLayers {
		c.fail("num_nextn_predict_layers", "is %d, allowed 0 to %d", n, maxLayers)
		return 0
	}
	return n
}

// biasedSigmoid is how DeepSeek V3 and many after it route: each score by itself,
// a bias where experts are chosen, and groups by the sum of their two best.
var biasedSigmoid = kernels.RouteArgs{Kind: kernels.RouteSigmoid, Best2: true, Eps: 1e-20}

// latentExperts reads experts under the names that DeepSeek gave their numbers.
func (c *Config) latentExperts(r kernels.RouteArgs) MoE {
	r.Renorm, r.Scale = c.Bool(true, "norm_topk_prob"), float32(c.Float(1, "routed_scaling_factor"))
	r.Groups, r.TopGroups = groups(c.Int(1, "n_group"), c.Int(1, "topk_group"))
	m := MoE{E: c.Int(-1, "n_routed_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"), Route: r}
	m.Shared = m.F * c.Int(0, "n_shared_experts")
	return m
}

// deepseekGGUF reads a GGUF of DeepSeek V2 or V3.
func deepseekGGUF(m *Metadata, name string) (Spec, error) {
	s, err := latentGGUF(m)
	s.Arch = name
	m.routed(&s)
	return s, cmp.Or(err, m.err)
}

// deepseekKV are the keys that deepseekGGUF reads.
func deepseekKV(s *Spec, p string) []formats.KV {
	return append(append(latentKV(s, p), expertKV(s.moe(), p)...), s.routerKV(p)...)
}

// deepseekConfig is config.json of DeepSeek V2 or V3 but for how experts are chosen.
func deepseekConfig(s *Spec, class, modelType string) []formats.KV {
	return append(latentConfig(s, class, modelType), s.expertConfig()...)
}
