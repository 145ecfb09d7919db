package arch

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// gemma4 has norms of queries, keys and values, larger heads of which few elements
// rotate in layers that see everything, inputs of its own for every layer, and a
// factor on what leaves one; alone, or as the half of a larger model that reads
// text.
var gemma4 = Arch{
	Name: "gemma4_text", HF: []string{"Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"}, GGUF: "gemma4",
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
		d, k := c.wideHeads(local, s.Attention())
		if half {
			s.Stand = []int32{int32(whole.Int(258880, "image_token_id")), int32(whole.Int(258884, "video_token_id")), int32(whole.Int(258881, "audio_token_id"))}
			if s.StandAs = int32(c.Int(0, "pad_token_id")); s.StandAs < 0 || int(s.StandAs) >= s.V {
				c.fail("pad_token_id", "is %d, the vocabulary has %d", s.StandAs, s.V)
			}
			c.err = cmp.Or(c.err, whole.err)
		}
		s.Half, s.LogitCap = half, float32(c.Float(0, "final_logit_softcapping"))
		s.gemma4(local, c.window(local), d, k, c.Bool(false, "attention_k_eq_v"), c.Int(0, "hidden_size_per_layer_input"))
		s.Ropes = c.gemma4Ropes(d, s.Attention().D, s.MaxPos)
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		if m.Int(0, "attention.shared_kv_layers") > 0 || m.Int(0, "expert_count") > 0 {
			m.lack("attention.shared_kv_layers, gemma4.expert_count", "shared keys and values, and experts, of Gemma 4 are not supported")
		}
		const heads = "gemma4.attention.head_count_kv"
		list, _ := m.kv[heads].([]int32)
		if len(list) > 0 { // the last layer sees everything
			m.kv[heads] = list[len(list)-1]
		}
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
				near.K = int(n)
			}
		}
		if f := s.mlp(); f != nil {
			f.Act = kernels.GELUTanh
		}
		s.LogitCap = float32(m.Float(0, "final_logit_softcapping"))
		last := strconv.Itoa(len(s.Layers) - 1)
		s.gemma4(local, m.Int(0, "attention.sliding_window"), wide.D, wide.K, !m.Has("blk."+last+".attn_v.weight"), m.Int(0, "embedding_length_per_layer_input"))
		s.Ropes = append(s.Ropes, RopeSpec{Dim: m.Int(near.D, "rope.dimension_count_swa"), Base: m.Float(10000, "rope.freq_base_swa"), MaxPos: s.MaxPos})
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := gemmaNames
		names.norms = map[Role][2]string{PostPartNorm: {"post_per_layer_input_norm", "post_norm"}}
		for role, name := range gemmaNames.norms {
			names.norms[role] = name
		}
		if s.Half {
			names = wrappedNames(names)
			for _, role := range []Role{PartEmbed, PartProject, PartNorm} {
				name := usualModules[role]
				name[0] = "model.language_model" + name[0][len("model"):]
				names.modules[role] = name
			}
		}
		return namedRules(s, false, names)
	},
	KV: gemma4KV,
}

// gemma4Lacks refuses what some Gemma 4 have that is not done.
func (c *Config) gemma4Lacks() {
	if n := c.Int(0, "num_kv_shared_layers"); n > 0 {
		c.lack("num_kv_shared_layers", "is %d: layers that use keys and values of earlier ones are not supported", n)
	}
	if c.Bool(false, "enable_moe_block") {
		c.lack("enable_moe_block", "experts of Gemma 4 are not supported")
	}
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
		rule := &Config{raw: kinds[kind]}
		r := RopeSpec{Dim: d, Base: rule.Float(base, "rope_theta"), MaxPos: maxPos}
		share := rule.Float(1, "partial_rotary_factor")
		switch name := rule.String("default", "rope_type"); {
		case name == "proportional" && share >= 0 && share <= 1:
			r.Factors = proportional(d, share, rule.Float(1, "factor"))
		case name != "default" || share != 1:
			rule.lack("rope_parameters", "%s of %g of a head is not supported in Gemma 4; known: default, proportional", name, share)
		}
		c.err = cmp.Or(c.err, rule.err)
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

func gemma4KV(s *Spec) []formats.KV {
	local, window := s.windows()
	heads, same := make([]int32, len(local)), true
	near, wide := s.Attention(), s.Attention()
	for i, a := range s.attentions() {
		if heads[i] = int32(a.K); local[i] {
			near = a
		} else {
			wide = a
		}
		same = same && heads[i] == heads[0]
	}
	var kv []formats.KV
	put := func(key string, v any) { kv = append(kv, formats.KV{Key: "gemma4." + key, Value: v}) }
	u := func(key string, v int) { put(key, uint32(v)) }
	u("block_count", len(s.Layers))
	u("context_length", s.MaxPos)
	u("embedding_length", s.C)
	u("feed_forward_length", s.mlp().F)
	u("attention.head_count", wide.H)
	if same {
		u("attention.head_count_kv", wide.K)
	} else {
		put("attention.head_count_kv", heads)
	}
	put("rope.freq_base", float32(s.rope().Base))
	put("rope.freq_base_swa", float32(s.Ropes[1].Base))
	put("attention.layer_norm_rms_epsilon", s.Norm.Eps)
	u("attention.key_length", wide.D)
	u("attention.value_length", wide.D)
	if s.LogitCap != 0 {
		put("final_logit_softcapping", s.LogitCap)
	}
	u("attention.sliding_window", window)
	u("attention.shared_kv_layers", 0)
	u("embedding_length_per_layer_input", s.Part)
	put("attention.sliding_window_pattern", local)
	u("attention.key_length_swa", near.D)
	u("attention.value_length_swa", near.D)
	u("rope.dimension_count", wide.D)
	u("rope.dimension_count_swa", near.D)
	return kv
}
