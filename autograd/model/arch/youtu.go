package arch

import "github.com/tunekit/tunekit/formats"

// youtu is DeepSeek V3 without experts.
var youtu = Arch{
	Name: "youtu", HF: []string{"YoutuForCausalLM"}, GGUF: "deepseek2",
	IsGGUF: func(m *Metadata) bool { return m.Int(0, "expert_count") == 0 },
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "kv_lora_rank": "512", "q_lora_rank": "1536", "qk_nope_head_dim": "128", "qk_rope_head_dim": "64", "v_head_dim": "128",
			"tie_word_embeddings": "true"})
		return latentSpec(c, "youtu", c.latentPairs())
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := latentGGUF(m)
		s.Arch = "youtu"
		for _, key := range []string{"leading_dense_block_count", "expert_feed_forward_length", "expert_shared_count"} { // which say it again
			m.Int(0, key)
		}
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, false) },
	KV: func(s *Spec) []formats.KV {
		u := func(k string, v int) formats.KV { return formats.KV{Key: "deepseek2." + k, Value: uint32(v)} }
		f, _ := s.feed()
		return append(latentKV(s, "deepseek2"), u("leading_dense_block_count", len(s.Layers)), u("expert_feed_forward_length", f), u("expert_shared_count", 0))
	},
	NoGGUF: latentNoGGUF,
	Config: func(s *Spec) []formats.KV { return latentConfig(s, "YoutuForCausalLM", "youtu") },
}
