package arch

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gemma4 has norms of queries, keys and values, larger heads of which few elements
// rotate in layers that see everything, inputs of its own for every layer, layers
// that see the keys of earlier ones, or experts beside the feed-forward part, and a
// factor on what leaves a layer; alone, or as the half of a larger model that reads
// text.
var gemma4 = Arch{
	Name: "gemma4_text", HF: []string{"Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"}, GGUF: "gemma4", PartRotates: true,
	Carried: []string{"model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."},
	Spec: func(c *Config) (Spec, error) {
		half, whole := c.has("text_config"), c
		c = c.text()
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_attention_heads": "8", "num_key_value_heads": "4", "head_dim": "256", "vocab_size": "262144",
			"tie_word_embeddings": "true", "sliding_window": "512", "hidden_size_per_layer_input": "256", "vocab_size_per_layer_input": "262144", "global_head_dim": "512"})
		c.gemma4Lacks()
		bias, act := c.Bool(false, "attention_bias"), c.gemmaAct()
		s, err := rotatedSpec(c, "gemma4_text", func(d, maxPos int) []RopeSpec { return make([]RopeSpec, 2) }, func(a *Attention, m *MLP) {
			a.Bias, a.OutBias, m.Act = bias, bias, act
		})
		if err != nil {
			return s, err
		}
		local := c.windowed(len(s.Layers), lastFull(6))
		if len(local) > 0 {
			local[len(local)-1] = false
		}
		near := s.Attention().D
		d, k := c.wideHeads(local, s.Attention())
		if err := checkSizes(size{"head size", d, 1 << 14}, size{"head size", near, 1 << 14}); err != nil {
			return s, err
		}
		if half {
			s.Stand = []int32{int32(whole.Int(258880, "image_token_id")), int32(whole.Int(258884, "video_token_id")), int32(whole.Int(258881, "audio_token_id"))}
			if s.StandAs = int32(c.Int(0, "pad_token_id")); s.StandAs < 0 || int(s.StandAs) >= s.V {
				c.fail("pad_token_id", "is %d, the vocabulary has %d", s.StandAs, s.V)
			}
			c.err = cmp.Or(c.err, whole.err)
		}
		s.Half, s.LogitCap = half, float32(c.Float(0, "final_logit_softcapping"))
		s.gemma4(local, c.window(local), d, k, c.Bool(false, "attention_k_eq_v"), c.Int(0, "hidden_size_per_layer_input"))
		shared := c.Int(0, "num_kv_shared_layers")
		if err := s.share(shared); err != nil {
			c.fail("num_kv_shared_layers", "%v", err)
		}
		if first := len(s.Layers) - shared; shared > 0 && c.Bool(false, "use_double_wide_mlp") {
			s.widen(func(i int, f int) int {
				if i >= first {
					return 2 * f
				}
				return f
			})
		}
		if c.Bool(false, "enable_moe_block") {
			s.gemma4Experts(MoE{E: c.Int(-1, "num_experts"), K: c.Int(-1, "top_k_experts"), F: c.Int(-1, "moe_intermediate_size")})
		}
		s.Ropes = c.gemma4Ropes(d, near, s.MaxPos)
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		list := m.apart("attention.head_count_kv", -1) // the last layer sees everything
		sizes := m.apart("feed_forward_length", 0)
		s, err := decoderGGUF(m)
		s.Arch = "gemma4_text"
		if err != nil {
			return s, err
		}
		local := m.windowed(len(s.Layers), 6)
		wide := *s.Attention()
		near := s.Attention()
		near.D = m.Int(wide.D, "attention.key_length_swa")
		if m.Int(wide.D, "attention.value_length") != wide.D || m.Int(near.D, "attention.value_length_swa") != near.D {
			m.lack("attention.value_length", "is not the size of keys, which is not supported")
		}
		for i, n := range list {
			if i < len(local) && local[i] {
				near.K = n
			}
		}
		if f := s.mlp(); f != nil {
			f.Act = kernels.GELUTanh
		}
		s.LogitCap = float32(m.Float(30, "final_logit_softcapping"))
		s.gemma4(local, m.Int(0, "attention.sliding_window"), wide.D, wide.K, m.keyValue(local), m.Int(0, "embedding_length_per_layer_input"))
		if err := s.share(m.Int(0, "attention.shared_kv_layers")); err != nil {
			m.fail("attention.shared_kv_layers", "%v", err)
		}
		if sizes != nil && len(sizes) != len(s.Layers) {
			m.fail("feed_forward_length", "has %d entries for %d layers", len(sizes), len(s.Layers))
		} else if sizes != nil {
			s.widen(func(i, _ int) int { return sizes[i] })
		}
		if e := m.experts(); e.E > 0 {
			s.gemma4Experts(MoE{E: e.E, K: e.K, F: e.F})
		}
		s.Ropes = append(s.Ropes, RopeSpec{Dim: m.Int(near.D, "rope.dimension_count_swa"), Base: m.Float(10000, "rope.freq_base_swa"), MaxPos: s.MaxPos})
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := gemmaNames.with(map[Role][2]string{PostPartNorm: {"post_per_layer_input_norm", "post_norm"}, OwnMLPNorm: {"post_feedforward_layernorm_1", "post_ffw_norm_1"},
			ExpertNorm: {"pre_feedforward_layernorm_2", "pre_ffw_norm_2"}, ExpertsNorm: {"post_feedforward_layernorm_2", "post_ffw_norm_2"}})
		names.experts = gemma4Experts
		return gemmaRules(s, names)
	},
	KV:     gemma4KV,
	Config: gemma4Config,
}

// gemmaRules are the rules of a model by names, or of half of a larger one.
func gemmaRules(s *Spec, names layerNames) []Rule {
	if s.Half {
		names = halfNames(names)
	}
	return namedRules(s, false, names)
}

// halfNames are names in the folder of a larger model.
func halfNames(names layerNames) layerNames {
	names = wrappedNames(names)
	for _, role := range []Role{PartEmbed, PartProject, PartNorm, StreamsIn, StreamsOut} {
		name := usualModules[role]
		name[0] = "model.language_model" + name[0][len("model"):]
		names.modules[role] = name
	}
	return names
}

// keyValue reports whether layers that see everything have keys that are values, too.
func (m *Metadata) keyValue(local []bool) bool {
	for i, near := range local {
		layer := "blk." + strconv.Itoa(i)
		if !near && m.Has(layer+".attn_k.weight") {
			return !m.Has(layer + ".attn_v.weight")
		}
	}
	return false
}

// gemma4Lacks refuses what some Gemma 4 have that is not done.
func (c *Config) gemma4Lacks() {
	if s := c.String("", "use_bidirectional_attention"); s != "" && s != "vision" { // the latter is about images
		c.lack("use_bidirectional_attention", "%q: attention to later tokens is not supported", s)
	}
	if c.Int(0, "hidden_size_per_layer_input") > 0 && c.Int(0, "vocab_size_per_layer_input") != c.Int(0, "vocab_size") {
		c.lack("vocab_size_per_layer_input", "is not vocab_size; a table of the layers' own inputs for some tokens alone is not supported")
	}
}

// wideHeads reads the size and the number of key heads in layers that see
// everything, of a model whose others are like a.
func (c *Config) wideHeads(local []bool, a *Attention) (d, k int) {
	d, k = c.Int(a.D, "global_head_dim"), a.K
	if c.Bool(false, "attention_k_eq_v") {
		k = c.Int(a.K, "num_global_key_value_heads")
	}
	layers, ok := get[map[string]map[string]int](c, "per_layer_config")
	if !ok {
		return d, k
	}
	for i, near := range local {
		own := layers[strconv.Itoa(i)]
		for key := range own {
			if key != "head_dim" && key != "num_key_value_heads" {
				c.lack("per_layer_config", "%s of layer %d is not supported; known: head_dim, num_key_value_heads", key, i)
			}
		}
		size, heads := cmp.Or(own["head_dim"], a.D), cmp.Or(own["num_key_value_heads"], a.K)
		switch {
		case near && (size != a.D || heads != a.K):
			c.lack("per_layer_config", "layer %d with a window has heads of its own, which is not supported", i)
		case !near:
			d, k = size, heads
		}
	}
	for i, near := range local {
		own := layers[strconv.Itoa(i)]
		if !near && (cmp.Or(own["head_dim"], a.D) != d || cmp.Or(own["num_key_value_heads"], a.K) != k) {
			c.lack("per_layer_config", "layers that see everything have different heads, which is not supported")
		}
	}
	return d, k
}

// gemma4Ropes reads the tables of layers that see everything, whose heads have d
// elements, and of the others.
func (c *Config) gemma4Ropes(d, near, maxPos int) []RopeSpec {
	c.assume(map[string]string{"rope_parameters": `{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
		"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}`})
	kinds, _ := get[map[string]map[string]json.RawMessage](c, "rope_parameters")
	read := func(kind string, d int, base float64) RopeSpec {
		rule := c.within(kinds[kind])
		r := RopeSpec{Dim: d, Base: rule.Float(base, "rope_theta"), MaxPos: maxPos}
		share := rule.Float(1, "partial_rotary_factor")
		switch name := rule.String("default", "rope_type"); {
		case name == "proportional" && share >= 0 && share <= 1:
			r.Factors = proportional(d, share, rule.Float(1, "factor"))
		case name != "default" || share != 1:
			rule.lack("rope_parameters", "%s of %g of a head is not supported in Gemma 4; known: default, proportional", name, share)
		}
		return r
	}
	return []RopeSpec{read("full_attention", d, 1e6), read("sliding_attention", near, 1e4)}
}

// proportional are divisors of the frequencies of heads of d elements of which a
// share rotates, the others so slowly that they stand still: as GGUF has them.
func proportional(d int, share, factor float64) []float64 {
	out := make([]float64, d/2)
	for i := range out {
		if out[i] = 1e30; i < int(share*float64(d)/2) {
			out[i] = factor
		}
	}
	return out
}

// gemma4 makes layers of equal ones: those that local names have a window and
// heads as they are, the others heads of d elements, k of keys, whose values are
// the keys where same is set. Every layer has part inputs of its own.
func (s *Spec) gemma4(local []bool, window, d, k int, same bool, part int) {
	s.EmbedScale, s.Part = float32(math.Sqrt(float64(s.C))), part
	s.normsAround()
	for _, l := range s.Layers {
		if l.Scaled { // one for all
			break
		}
		l.Scaled = true
		if part > 0 {
			l.Sublayers = append(l.Sublayers, Sublayer{Body: &Part{part, s.mlp().Act}, Post: PostPartNorm})
		}
	}
	a := s.Attention()
	a.QKNorm, a.VNorm, a.Scale = PerHead, true, 1
	far := make([]bool, len(local))
	for i := range local {
		far[i] = !local[i]
	}
	s.vary(far, func(a *Attention) { a.D, a.K, a.KeyValue = d, k, same })
	s.vary(local, func(a *Attention) { a.Window, a.Rope = window, 1 })
}

// widen gives the feed-forward part of each layer the size that size makes of its
// own.
func (s *Spec) widen(size func(layer, f int) int) {
	for i := range s.Layers {
		s.rebuild(func(j int) bool { return i == j }, func(old Body) Body {
			m, ok := old.(*MLP)
			if !ok || size(i, m.F) == m.F {
				return old
			}
			own := *m
			own.F = size(i, m.F)
			return &own
		})
	}
}

// gemma4Experts puts experts beside the feed-forward part of every layer, which read
// the stream as it is before that part.
func (s *Spec) gemma4Experts(m MoE) {
	m.Route = kernels.RouteArgs{Renorm: true}
	m.Pre, m.RouterNorm, m.Scaled = ExpertNorm, true, true
	for i := range s.Layers {
		s.rebuild(func(j int) bool { return i == j }, func(old Body) Body {
			mlp, ok := old.(*MLP)
			if !ok {
				return old
			}
			own := m
			own.Act, own.Dense = mlp.Act, mlp.F
			return &Beside{[]Body{&Normed{MLPNorm, mlp, OwnMLPNorm}, &Normed{None, &own, ExpertsNorm}}}
		})
	}
	for _, l := range s.Layers {
		for j := range l.Sublayers {
			if _, ok := l.Sublayers[j].Body.(*Beside); ok {
				l.Sublayers[j].Pre = None
			}
		}
	}
}

// gemma4Experts are the names of the experts' parts.
var gemma4Experts = expertNames{router: "router.proj", routerLinear: true, routerNorm: "router.scale", scale: "router.per_expert_scale",
	experts: "experts", gate: "experts.gate_up_proj", down: "experts.down_proj", joined: true}

// gemma4Config is config.json of the half that reads text.
func gemma4Config(s *Spec) []formats.KV {
	near, wide := s.nearAndWide()
	_, act := s.feed()
	kv := []formats.KV{
		{Key: "architectures", Value: []string{"Gemma4ForCausalLM"}}, {Key: "model_type", Value: "gemma4_text"},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: s.feeds()[0]}, {Key: "num_hidden_layers", Value: len(s.Layers)},
		{Key: "num_attention_heads", Value: near.H}, {Key: "num_key_value_heads", Value: near.K}, {Key: "head_dim", Value: near.D}, {Key: "global_head_dim", Value: wide.D},
		{Key: "attention_k_eq_v", Value: wide.KeyValue}, {Key: "attention_bias", Value: near.Bias}, {Key: "hidden_activation", Value: actNames[act]},
		{Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
		{Key: "vocab_size_per_layer_input", Value: s.V}, {Key: "hidden_size_per_layer_input", Value: s.Part},
		{Key: "num_kv_shared_layers", Value: s.shared()}, {Key: "use_double_wide_mlp", Value: s.feeds()[len(s.Layers)-1] != s.feeds()[0]},
		{Key: "rope_parameters", Value: map[string]any{
			"sliding_attention": map[string]any{"rope_type": "default", "rope_theta": s.Ropes[1].Base},
			"full_attention":    map[string]any{"rope_type": "proportional", "rope_theta": s.rope().Base, "partial_rotary_factor": s.rope().share(), "factor": s.rope().factor()},
		}},
	}
	if s.LogitCap != 0 {
		kv = append(kv, formats.KV{Key: "final_logit_softcapping", Value: s.LogitCap})
	}
	switch {
	case near.K != wide.K && wide.KeyValue:
		kv = append(kv, formats.KV{Key: "num_global_key_value_heads", Value: wide.K})
	case near.K != wide.K:
		layers := map[string]any{}
		for i, a := range s.attentions() {
			if a.Window == 0 {
				layers[strconv.Itoa(i)] = map[string]int{"head_dim": a.D, "num_key_value_heads": a.K}
			}
		}
		kv = append(kv, formats.KV{Key: "per_layer_config", Value: layers})
	}
	if m := s.moe(); m != nil {
		kv = append(kv, formats.KV{Key: "enable_moe_block", Value: true}, formats.KV{Key: "num_experts", Value: m.E}, formats.KV{Key: "top_k_experts", Value: m.K},
			formats.KV{Key: "moe_intermediate_size", Value: m.F})
	}
	return append(kv, s.windowConfig()...)
}

// nearAndWide are the attentions of layers with a window and of those that see
// everything, both the same where there is one kind.
func (s *Spec) nearAndWide() (near, wide *Attention) {
	near, wide = s.Attention(), s.Attention()
	for _, a := range s.attentions() {
		if a.Window > 0 {
			near = a
		} else {
			wide = a
		}
	}
	return near, wide
}

// rotating is the number of pairs that proportional lets rotate.
func (r RopeSpec) rotating() int {
	n := slices.IndexFunc(r.Factors, func(f float64) bool { return f > 1e29 })
	if n < 0 {
		return r.Dim / 2
	}
	return n
}

// share is the part of a head that rotates, as proportional takes it.
func (r RopeSpec) share() float64 {
	d := float64(r.Dim)
	share := 2 * float64(r.rotating()) / d
	for int(share*d/2) < r.rotating() {
		share = math.Nextafter(share, 2)
	}
	return share
}

// proportional reports whether the divisors are those that proportional makes, as
// float32 holds them.
func (r RopeSpec) proportional() bool {
	for i, f := range proportional(r.Dim, r.share(), r.factor()) {
		if i >= len(r.Factors) || float32(r.Factors[i]) != float32(f) {
			return false
		}
	}
	return true
}

// factor is the divisor of the frequencies that rotate.
func (r RopeSpec) factor() float64 {
	if r.rotating() == 0 || len(r.Factors) == 0 {
		return 1
	}
	return r.Factors[0]
}

func gemma4KV(s *Spec) []formats.KV {
	local, window := s.windows()
	heads, same := make([]int32, len(local)), true
	near, wide := s.nearAndWide()
	for i, a := range s.attentions() {
		heads[i] = int32(a.K)
		same = same && heads[i] == heads[0]
	}
	var kv []formats.KV
	put := func(key string, v any) { kv = append(kv, formats.KV{Key: "gemma4." + key, Value: v}) }
	u := func(key string, v int) { put(key, uint32(v)) }
	u("block_count", len(s.Layers))
	u("context_length", s.MaxPos)
	u("embedding_length", s.C)
	if sizes := s.feeds(); len(slices.Compact(slices.Clone(sizes))) > 1 {
		put("feed_forward_length", sizes)
	} else {
		u("feed_forward_length", s.mlp().F)
	}
	u("attention.head_count", wide.H)
	if same {
		u("attention.head_count_kv", wide.K)
	} else {
		put("attention.head_count_kv", heads)
	}
	put("rope.freq_base", float32(s.rope().Base))
	put("rope.freq_base_swa", float32(s.Ropes[1].Base))
	put("attention.layer_norm_rms_epsilon", s.Norm.Eps)
	if m := s.moe(); m != nil {
		u("expert_count", m.E)
		u("expert_used_count", m.K)
		u("expert_feed_forward_length", m.F)
	}
	u("attention.key_length", wide.D)
	u("attention.value_length", wide.D)
	put("final_logit_softcapping", s.LogitCap) // where a file states none, llama.cpp takes 30
	u("attention.sliding_window", window)
	u("attention.shared_kv_layers", s.shared())
	u("embedding_length_per_layer_input", s.Part)
	put("attention.sliding_window_pattern", local)
	u("attention.key_length_swa", near.D)
	u("attention.value_length_swa", near.D)
	u("rope.dimension_count", wide.D)
	u("rope.dimension_count_swa", near.D)
	return kv
}
