package arch

import "testing"

// FuzzConfig: any config.json gives every architecture a Spec within bounds, or
// an error.
func FuzzConfig(f *testing.F) {
	for _, more := range []string{"}", `, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}`,
		`, "rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}}`,
		`, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [0]}`,
		`, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"], "attn_logit_softcapping": 50, "final_logit_softcapping": 30, "query_pre_attn_scalar": 16}`} {
		f.Add([]byte(small + more))
	}
	for _, more := range []string{`, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 80, "rotary_dim": 8, "ffn_dim": 64, "alibi": true}`,
		`, "d_model": 48, "n_heads": 6, "n_layers": 2, "attn_config": {"clip_qkv": 1, "softmax_scale": 0.1}, "new_decoder_architecture": true, "num_kv_heads": 2}`,
		`, "partial_rotary_factor": 0.5, "word_embed_proj_dim": 16, "ffn_dim": 64, "hidden_act": "xielu", "do_layer_norm_before": false}`} {
		f.Add([]byte(small + more))
	}
	f.Add([]byte(`{"architectures":["LlamaForCausalLM"],"hidden_size":9223372036854775807,"num_hidden_layers":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range archs {
			c, err := parseConfig(b)
			if err != nil {
				return
			}
			s, err := a.Spec(c)
			if err != nil || s.check() != nil {
				continue
			}
			if s.C <= 0 || s.C > maxWidth || s.V <= 0 || s.V > maxVocab || s.MaxPos <= 0 {
				t.Errorf("%s accepts C %d, V %d, context %d", a.Name, s.C, s.V, s.MaxPos)
			}
		}
	})
}
