package arch

import (
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// llama4 is Llama 4: rotation of neighbouring elements and attention within chunks
// in most layers, neither in the others, whose queries grow with their position,
// and one expert a token beside a shared one, whose weight multiplies what it reads.
var llama4 = Arch{
	Name: "llama4_text", HF: []string{"Llama4ForCausalLM"}, GGUF: "llama4",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "rms_norm_eps": "1e-5", "num_key_value_heads": "8", "head_dim": "128", "default_theta": "500000",
			"num_local_experts": "16", "num_experts_per_tok": "1", "intermediate_size_mlp": "16384", "attention_chunk_size": "8192"})
		bias := c.Bool(false, "attention_bias")
		s, err := decoderSpec(c, "llama4_text", func(a *Attention, m *MLP) {
			a.Pairs, a.Bias, a.OutBias, m.F = kernels.Adjacent, bias, bias, c.Int(-1, "intermediate_size_mlp")
		})
		if err != nil {
			return s, err
		}
		step := c.Int(1, "interleave_moe_layer_step")
		if step < 1 {
			c.fail("interleave_moe_layer_step", "is %d, want 1 or more", step)
			return s, c.err
		}
		moe, listed := get[[]int](c, "moe_layers")
		s.withExperts(llama4Experts(c.Int(-1, "num_local_experts"), c.Int(-1, "num_experts_per_tok"), c.Int(-1, "intermediate_size")), func(i int) bool {
			return listed && slices.Contains(moe, i) || !listed && (i+1)%step == 0
		})
		rotates := c.rotatingLayers()
		chunked := rotates
		if types := c.layerTypes("layer_types", "chunked_attention", "full_attention"); types != nil {
			chunked = func(i int) bool { return i < len(types) && types[i] == "chunked_attention" }
		}
		s.llama4Layers(rotates, chunked, c.Int(0, "attention_chunk_size"), c.Bool(true, "use_qk_norm"), c.Bool(true, "attn_temperature_tuning"))
		s.Temperature = Temperature{Beta: float32(c.Float(0.1, "attn_scale")), Every: c.Int(8192, "floor_scale"), Shift: 1}
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		if err != nil {
			return s, err
		}
		s.Arch, s.Attention().Pairs = "llama4_text", kernels.Adjacent
		e := m.experts()
		m.Int(0, "interleave_moe_layer_step") // the tensors say it, too
		s.withExperts(llama4Experts(e.E, e.K, e.F), m.sparse)
		rotates := func(i int) bool { return (i+1)%4 != 0 }
		s.llama4Layers(rotates, rotates, m.Int(8192, "attention.chunk_size"), m.Bool(e.E != 128, "attention.use_kq_norm"), true)
		s.Temperature = Temperature{Beta: float32(m.Float(0.1, "attention.temperature_scale")), Every: m.Int(8192, "attention.temperature_length"), Shift: 1}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.modules = map[Role][2]string{Gate: {"feed_forward.gate_proj", "ffn_gate"}, Up: {"feed_forward.up_proj", "ffn_up"}, Down: {"feed_forward.down_proj", "ffn_down"}}
		names.experts = expertNames{router: "feed_forward.router", experts: "feed_forward.experts", shared: "feed_forward.shared_expert",
			gate: "feed_forward.experts.gate_up_proj", down: "feed_forward.experts.down_proj", transposed: true, turned: true}
		return namedRules(s, false, names)
	},
	// llama.cpp has 8192, 8192 and 0.1 for the numbers of attention, which stand there
	// for who reads the file as the model it is.
	KV: func(s *Spec) []formats.KV {
		u := func(k string, v int) formats.KV { return formats.KV{Key: "llama4." + k, Value: uint32(v)} }
		kv := append(decoderKV(s, "llama4"), u("interleave_moe_layer_step", s.denseLayers()+1))
		chunk, norms, grows := 0, false, false
		for _, a := range s.attentions() {
			chunk, norms, grows = max(chunk, a.Chunk), norms || a.QKNorm == Bare, grows || a.Temperature
		}
		kv = append(kv, u("attention.chunk_size", chunk), formats.KV{Key: "llama4.attention.use_kq_norm", Value: norms})
		if grows {
			kv = append(kv, u("attention.temperature_length", s.Temperature.Every), formats.KV{Key: "llama4.attention.temperature_scale", Value: s.Temperature.Beta})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		m := s.moe()
		moe, rotates := []int{}, []int{}
		chunk, norms, grows := 0, false, false
		for i, a := range s.attentions() {
			chunk, norms, grows = max(chunk, a.Chunk), norms || a.QKNorm == Bare, grows || a.Temperature
			rotates = append(rotates, map[bool]int{true: 1}[a.Rope != NoRope])
			if _, ok := s.Layers[i].Sublayers[1].Body.(*MoE); ok {
				moe = append(moe, i)
			}
		}
		return append(decoderConfig(s, "Llama4ForCausalLM", "llama4_text"), formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "intermediate_size", Value: m.F}, formats.KV{Key: "intermediate_size_mlp", Value: m.Dense}, formats.KV{Key: "num_local_experts", Value: m.E}, formats.KV{Key: "num_experts_per_tok", Value: m.K},
			formats.KV{Key: "moe_layers", Value: moe}, formats.KV{Key: "no_rope_layers", Value: rotates}, formats.KV{Key: "attention_chunk_size", Value: chunk}, formats.KV{Key: "use_qk_norm", Value: norms},
			formats.KV{Key: "attn_temperature_tuning", Value: grows}, formats.KV{Key: "floor_scale", Value: s.Temperature.Every}, formats.KV{Key: "attn_scale", Value: shortFloat(s.Temperature.Beta)})
	},
}

func llama4Experts(experts, k, f int) MoE {
	return MoE{E: experts, K: k, F: f, Shared: f, Route: kernels.RouteArgs{Kind: kernels.RouteSigmoid}, WeighInput: true}
}

// rotatingLayers reads which layers rotate: no_rope_layers has a 1 for those, or
// every so manyth does not.
func (c *Config) rotatingLayers() func(layer int) bool {
	list, _ := get[[]int](c, "no_rope_layers")
	if n := c.Int(0, "num_hidden_layers"); len(list) > 0 && len(list) < n {
		c.fail("no_rope_layers", "has %d entries for %d layers", len(list), n)
	} else if len(list) > 0 {
		return func(i int) bool { return list[i] != 0 }
	}
	n := c.Int(4, "no_rope_layer_interval")
	if n < 1 {
		c.fail("no_rope_layer_interval", "is %d, want 1 or more", n)
		n = 1
	}
	return func(i int) bool { return (i+1)%n != 0 }
}

// llama4Layers gives the layers their kinds of attention.
func (s *Spec) llama4Layers(rotates, chunked func(layer int) bool, chunk int, norms, grows bool) {
	near, far, with := make([]bool, len(s.Layers)), make([]bool, len(s.Layers)), make([]bool, len(s.Layers))
	for i := range s.Layers {
		near[i], with[i], far[i] = chunked(i), rotates(i) && norms, !rotates(i)
	}
	s.vary(near, func(a *Attention) { a.Chunk = chunk })
	s.vary(with, func(a *Attention) { a.QKNorm, a.NormLast = Bare, true })
	s.vary(far, func(a *Attention) { a.Rope, a.Temperature = NoRope, grows })
}
