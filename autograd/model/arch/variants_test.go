package arch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// variants are configs of a reference checkpoint with other values of keys that the
// family's models use, and what the refusal to write a GGUF says; "": there is none.
var variants = []struct{ base, change, refused string }{
	{"granite-hybrid", `{"layer_types": null}`, ""},
	{"dbrx", `{"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}}`, ""},
	{"cohere2-moe", `{"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}}`, ""},
	{"cohere2-moe", `{"mlp_layer_types": ["dense", "dense", "dense", "dense"]}`, "without a layer of experts"},
	{"hy-v3", `{"mlp_layer_types": ["dense", "dense"]}`, "without a layer of experts"},
	{"cohere2", `{"head_dim": 20}`, ""},
	{"gemma2", `{"attn_logit_softcapping": null, "final_logit_softcapping": null}`, "attn_logit_softcapping: null"},
	{"gemma2", `{"final_logit_softcapping": null}`, "final_logit_softcapping: null"},
	{"gemma3n", `{"altup_num_inputs": 1}`, ""},
	{"starcoder2", `{"use_bias": false, "sliding_window": null, "tie_word_embeddings": false, "head_dim": 16}`, ""},
	{"starcoder2", `{"sliding_window": 3, "num_key_value_heads": 4, "hidden_act": "relu"}`, "layer 0: hidden_act gelu_pytorch_tanh instead of relu"},
	{"phi", `{"num_key_value_heads": 1, "qk_layernorm": true, "tie_word_embeddings": true, "rope_parameters": null, "rope_theta": 500, "partial_rotary_factor": 1.0}`, ""},
	{"stablelm", `{"use_parallel_residual": true, "qk_layernorm": true, "use_qkv_bias": false, "num_key_value_heads": 1, "tie_word_embeddings": true}`, ""},
	{"nemotron", `{"attention_bias": true, "mlp_bias": true, "head_dim": 20, "tie_word_embeddings": true, "rope_parameters": {"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.4, "rope_theta": 10000.0}}`, ""},
	{"arcee", `{"attention_bias": true, "mlp_bias": true, "rope_parameters": null, "rope_theta": 777.0, "tie_word_embeddings": true}`, ""},
	{"apertus", `{"attention_bias": true, "tie_word_embeddings": true, "num_key_value_heads": 4, "rope_parameters": {"rope_theta": 10000.0}}`, ""},
	{"gpt-neox", `{"attention_bias": false, "use_parallel_residual": false, "tie_word_embeddings": true, "rope_parameters": null, "rotary_pct": 0.5, "rotary_emb_base": 300}`, ""},
	{"falcon", `{"new_decoder_architecture": true, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 64}`, ""},
	{"falcon", `{"multi_query": false, "bias": true, "tie_word_embeddings": false}`, "attention_bias false instead of true"},
	{"falcon", `{"parallel_attn": false}`, "norm before a part"},
	{"falcon-alibi", `{"multi_query": true, "num_attention_heads": 6, "bias": false, "parallel_attn": true}`, "table of rotation (-1: none) 0 instead of -1"},
	{"gptj", `{"rotary_dim": 16, "tie_word_embeddings": true, "n_inner": 64, "activation_function": "relu"}`, "no conversion to it"},
	{"mpt", `{"n_heads": 6, "attn_config": {"alibi": true, "alibi_bias_max": 8, "softmax_scale": 0.2}, "tie_word_embeddings": true}`, "factor on scores 0 instead of 0.2"},
	{"mpt", `{"n_heads": 3, "attn_config": {"alibi": true, "alibi_bias_max": 8, "clip_qkv": 0.7}}`, ""},
	{"bloom", `{"n_head": 3, "seq_length": 100, "tie_word_embeddings": false}`, ""},
	{"gpt-bigcode", `{"multi_query": false, "scale_attn_weights": false, "n_inner": 64, "tie_word_embeddings": false}`, "num_key_value_heads 1 instead of 4"},
	{"gpt2", `{"scale_attn_by_inverse_layer_idx": true, "n_inner": 64, "tie_word_embeddings": false}`, "factor on scores 0 instead of"},
	{"gpt2", `{"n_head": 6, "n_layer": 3}`, ""},
	{"opt", `{"do_layer_norm_before": false, "word_embed_proj_dim": 32, "enable_bias": false}`, "no conversion to it"},
	{"opt", `{"_remove_final_layer_norm": true, "layer_norm_elementwise_affine": false, "tie_word_embeddings": false, "activation_function": "gelu"}`, "no conversion to it"},
	{"olmoe", `{"norm_topk_prob": true}`, "norm_topk_prob"},
	{"olmoe", `{"attention_bias": true, "num_key_value_heads": 2, "tie_word_embeddings": true}`, ""},
	{"granite-moe", `{"attention_bias": true, "tie_word_embeddings": false, "rope_parameters": null, "logits_scaling": 6, "num_experts_per_tok": 1}`, ""},
	{"gpt-oss", `{"attention_bias": false, "tie_word_embeddings": true, "num_experts_per_tok": 1}`, ""},
	{"gpt-oss", `{"rope_parameters": {"rope_theta": 10000.0}}`, ""},
	{"gpt-oss", `{"layer_types": ["full_attention", "sliding_attention"]}`, "sliding_window"},
	{"gpt-oss", `{"swiglu_limit": 5}`, "limit 7 instead of 5"},
	{"phimoe", `{"attention_bias": false, "lm_head_bias": false, "tie_word_embeddings": true}`, ""},
	{"phimoe", `{"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, "short_mscale": 1.24, "long_mscale": 1.24, "short_factor": [1, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2, 3, 4, 5, 6, 7]}}`, "longrope"},
	{"phimoe", `{"sliding_window": 5}`, "sliding_window"},
	{"dbrx", `{"attn_config": {"kv_n_heads": 4, "clip_qkv": null}, "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 1, "moe_normalize_expert_weights": null}}`, "moe_normalize_expert_weights"},
	{"deepseek2", `{"q_lora_rank": null, "n_shared_experts": null, "n_group": null, "first_k_dense_replace": 0, "routed_scaling_factor": 16.0, "tie_word_embeddings": true}`, ""},
	{"deepseek2", `{"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1, "rope_parameters": null}`, ""},
	{"deepseek3", `{"norm_topk_prob": false, "n_group": 1, "topk_group": 1, "q_lora_rank": null, "first_k_dense_replace": 0, "n_shared_experts": 2}`, ""},
	{"deepseek3", `{"rope_interleave": false, "tie_word_embeddings": true}`, "rope_interleave"},
	{"deepseek3", `{"rope_parameters": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 0.7}}`, "mscale"},
	{"deepseek32", `{"index_topk": 64, "index_head_dim": 32, "index_n_heads": 3, "layer_types": null, "norm_topk_prob": false, "rope_parameters": null, "tie_word_embeddings": true}`, ""},
	{"deepseek4", `{"num_hidden_layers": 4, "layer_types": null, "mlp_layer_types": null, "num_hash_layers": 0, "hc_mult": 3, "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 3}, "sliding_window": 3, "index_topk": 2, "o_groups": 4, "scoring_func": "sigmoid", "tie_word_embeddings": true}`, "no conversion to it"},
	{"deepseek4", `{"layer_types": null, "compress_ratios": [4, 0, 128], "compress_rates": null, "compress_rate_csa": 3, "compress_rate_hca": 5, "mlp_layer_types": null, "num_hash_layers": 0, "rope_parameters": null, "index_topk": 64, "hc_mult": 1, "hc_sinkhorn_iters": 1}`, "no conversion to it"},
	{"glm-moe-dsa", `{"index_topk": 3, "indexer_types": null, "index_topk_pattern": "FSS", "first_k_dense_replace": null, "mlp_layer_types": ["sparse", "sparse", "sparse"], "layer_types": null, "n_group": 2}`, ""},
	{"glm-moe-dsa", `{"index_topk": 4, "num_hidden_layers": 6, "indexer_types": null, "index_topk_freq": 3, "mlp_layer_types": null, "layer_types": null, "rope_parameters": null, "tie_word_embeddings": true}`, ""},
	{"glm-moe-dsa", `{"index_topk": 64, "indexer_types": ["full", "shared", "full"]}`, ""},
	{"glm4-moe-lite", `{"mlp_layer_types": ["sparse", "sparse"], "n_group": 3, "topk_group": 2, "norm_topk_prob": false}`, ""},
	{"minicpm3", `{"q_lora_rank": null, "rope_parameters": null, "tie_word_embeddings": false, "v_head_dim": 10}`, ""},
	{"minicpm3", `{"scale_emb": 1, "scale_depth": null, "dim_model_base": null}`, "scale_emb"},
	{"mistral4", `{"q_lora_rank": null, "first_k_dense_replace": 1, "norm_topk_prob": false, "n_group": 2, "rope_interleave": false, "n_shared_experts": 0}`, "no conversion to it"},
	{"glm4-moe", `{"use_qk_norm": true, "attention_bias": false, "n_shared_experts": 0, "first_k_dense_replace": 0, "norm_topk_prob": false, "tie_word_embeddings": true, "n_group": 2}`, ""},
	{"solar-open", `{"attention_bias": true, "rope_parameters": null, "n_shared_experts": 2}`, ""},
	{"dots1", `{"norm_topk_prob": false, "attention_bias": true, "first_k_dense_replace": 0, "num_key_value_heads": 2, "n_group": 2}`, ""},
	{"dots1", `{"sliding_window": 7, "layer_types": null, "max_window_layers": 1}`, "sliding_window"},
	{"exaone-moe", `{"sliding_window_pattern": "LLG", "layer_types": null, "norm_topk_prob": false, "tie_word_embeddings": true}`, ""},
	{"exaone-moe", `{"sliding_window": null, "layer_types": null, "mlp_layer_types": ["sparse", "sparse", "dense", "sparse"], "first_k_dense_replace": null}`, "layer 2 without experts"},
	{"exaone-moe", `{"sliding_window": null, "layer_types": null, "mlp_layer_types": ["dense", "dense", "sparse", "sparse"], "first_k_dense_replace": null}`, ""},
	{"ernie4-5-moe", `{"moe_layer_interval": 2, "moe_layer_start_index": 0, "moe_layer_end_index": -1, "moe_num_shared_experts": 0, "tie_word_embeddings": false}`, ""},
	{"hunyuan-moe", `{"moe_topk": 1, "attention_bias": true, "tie_word_embeddings": true, "rope_parameters": {"rope_type": "dynamic", "alpha": 1000, "factor": 1, "rope_theta": 10000.0}}`, ""},
	{"minimax-m2", `{"rope_parameters": null, "rotary_dim": 16, "rope_theta": 1000, "tie_word_embeddings": true}`, ""},
	{"hunyuan-moe", `{"moe_topk": 1}`, ""},
	{"hy-v3", `{"attention_bias": true, "num_shared_experts": 2, "mlp_layer_types": ["sparse", "dense"], "tie_word_embeddings": true}`, ""},
	{"cohere2-moe", `{"expert_selection_fn": "softmax", "num_shared_experts": 2, "prefix_dense_sliding_window_pattern": 2, "mlp_layer_types": null, "layer_types": null, "first_k_dense_replace": 2}`, "table of rotation (-1: none) 0 instead of -1"},
	{"cohere2-moe", `{"expert_selection_fn": "softmax", "num_shared_experts": 2, "mlp_layer_types": null, "layer_types": null, "first_k_dense_replace": 2}`, ""},
	{"cohere2-moe", `{"shared_expert_combination_strategy": "sum", "norm_topk_prob": false}`, "shared_expert_combination_strategy"},
	{"cohere2-moe", `{"rms_norm_eps": 1e-5, "num_shared_experts": 0}`, "norms"},
	{"afmoe", `{"mup_enabled": false, "num_dense_layers": 0}`, "mup_enabled"},
	{"afmoe", `{"num_shared_experts": 2, "tie_word_embeddings": true, "layer_types": null, "global_attn_every_n_layers": 2}`, ""},
	{"gemma3n", `{"altup_num_inputs": 3, "altup_active_idx": 1, "laurel_rank": 4, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.5, 0.3, 0.95], "intermediate_size": [24, 32, 40, 16], "final_logit_softcapping": null, "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"], "tie_word_embeddings": false}`, "final_logit_softcapping"},
	{"gemma3n", `{"num_kv_shared_layers": 1, "activation_sparsity_pattern": null, "intermediate_size": 24, "rope_parameters": null, "rope_theta": 500000.0, "rope_local_base_freq": 5000.0}`, ""},
	{"gemma3n", `{"vocab_size_per_layer_input": 100}`, "own inputs for 100 of 256 tokens"},
	{"gemma3n", `{"altup_correct_scale": false}`, "altup_correct_scale"},
	{"gemma4", `{"num_hidden_layers": 3, "num_kv_shared_layers": 1, "use_double_wide_mlp": false, "final_logit_softcapping": null, "layer_types": ["sliding_attention", "full_attention", "full_attention"], "per_layer_config": {"1": {"head_dim": 20, "num_key_value_heads": 1}, "2": {"head_dim": 20, "num_key_value_heads": 1}}}`, ""},
	{"gemma4", `{"num_kv_shared_layers": 1, "hidden_size_per_layer_input": 0, "attention_k_eq_v": true, "enable_moe_block": true, "num_experts": 3, "top_k_experts": 1, "moe_intermediate_size": 8, "tie_word_embeddings": false}`, ""},
	{"gemma4", `{"final_logit_softcapping": null}`, ""},
	{"qwen3-5", `{"vocab_size": 256, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}`, ""},
	{"lfm2", `{"layer_types": ["conv", "conv", "conv", "conv"]}`, "no layer has attention"},
	{"lfm2-moe", `{"layer_types": null, "full_attn_idxs": [], "num_hidden_layers": 4}`, "no layer has attention"},
	{"gemma4-moe", `{"enable_moe_block": false, "num_kv_shared_layers": 1, "use_double_wide_mlp": true, "layer_types": ["full_attention", "sliding_attention", "full_attention"], "per_layer_config": {"0": {"head_dim": 24}, "2": {"head_dim": 24}}}`, ""},
	{"llama4", `{"use_qk_norm": false, "moe_layers": null, "interleave_moe_layer_step": 1, "attention_bias": true, "tie_word_embeddings": true, "attention_chunk_size": 8192}`, ""},
	{"llama4", `{"attn_temperature_tuning": false}`, "temperature"},
	{"qwen3-moe", `{"norm_topk_prob": false}`, "norm_topk_prob"},
	{"qwen2-moe", `{"mlp_only_layers": [0], "qkv_bias": false}`, "layer 0 experts instead of a feed-forward part"},
	{"kimi-linear", `{"q_lora_rank": 24, "num_expert_group": 2, "topk_group": 1, "tie_word_embeddings": true, "mlp_layer_types": null, "first_k_dense_replace": 2, "num_shared_experts": 2}`, ""},
	{"kimi-linear", `{"layer_types": null, "linear_attn_config": {"full_attn_layers": [1, 3], "kda_layers": [2, 4], "head_dim": 12, "num_heads": 4, "short_conv_kernel_size": 3}, "num_shared_experts": 0}`, ""},
	{"kimi-linear", `{"linear_num_heads": 2, "linear_head_dim": 16, "first_k_dense_replace": 0, "mlp_layer_types": null}`, "2 heads in one kind of attention"},
	{"t5", `{"relative_attention_max_distance": 128}`, ""},
	{"t5", `{"relative_attention_max_distance": 20, "num_decoder_layers": 1}`, "max_distance 20"},
	{"t5", `{"relative_attention_max_distance": 128, "feed_forward_proj": "gelu", "dense_act_fn": null}`, "hidden_act relu instead of gelu"},
	{"t5", `{"relative_attention_max_distance": 128, "scale_decoder_outputs": false}`, "scale_decoder_outputs"},
	{"flan-t5", `{"tie_word_embeddings": false, "scale_decoder_outputs": null, "num_layers": 1, "num_decoder_layers": 3, "decoder_start_token_id": 7, "n_positions": 40}`, ""},
	{"flan-t5", `{"tie_word_embeddings": false, "scale_decoder_outputs": null, "feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}`, "hidden_act"},
	{"nemotron-h-moe", `{"moe_latent_size": 24}`, ""},
	{"nemotron-h", `{"attention_bias": true}`, ""},
	{"olmoe", `{"clip_qkv": 0.5}`, "clip_qkv 0 instead of 0.5"},
	{"afmoe", `{"attention_bias": true}`, ""},
	{"cohere2-moe", `{"attention_bias": true}`, ""},
	{"bloom", `{"apply_residual_connection_post_layernorm": true}`, "apply_residual_connection_post_layernorm false instead of true"},
	{"llama4", `{"num_experts_per_tok": 2}`, ""},
	{"kimi-linear", `{"v_head_dim": 10}`, ""},
	{"kimi-linear", `{"moe_renormalize": false, "num_experts_per_token": 1}`, "moe_renormalize"},
}

// made writes a checkpoint of a variant with random weights.
func made(t *testing.T, base, change string) string {
	t.Helper()
	var config, other map[string]any
	for data, to := range map[string]*map[string]any{string(testdir.ReadFile(t, testdir.Shared(t, "golden/arch/"+base)+"/config.json")): &config, change: &other} {
		if err := json.Unmarshal([]byte(data), to); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range other {
		config[k] = v
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return filled(t, raw, func(r *arch.Rule, name string, n int64) []float32 {
		seed := fnv.New64a()
		seed.Write([]byte(name))
		rng := rand.New(rand.NewPCG(1, seed.Sum64()))
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(0.3 * rng.NormFloat64())
			if r.Role.IsNorm() && !r.Bias {
				v[i]++
			}
		}
		return v
	})
}

// logitsOf are the logits of ids in one pass, and token by token with a cache.
func logitsOf(t *testing.T, path string, ids []int32) (whole, cached []float32) {
	t.Helper()
	m, err := model.Load(cpu.New(cpu.Options{}), open(t, path), model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	if whole, err = tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids)))); err != nil {
		t.Fatal(err)
	}
	c, err := m.NewCache(1, len(ids))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if m.Spec.Encoder > 0 { // the second half answers the first, of whose rows one is repeated
		half := len(ids) / 2
		c.Source(0, ids[:half])
		ids = append([]int32{m.Spec.Start}, ids[half:len(ids)-1]...)
		defer func() {
			one := cached[:m.Spec.V]
			cached = slices.Concat(slices.Repeat(one, half-1), cached, one)
		}()
	}
	for _, id := range ids {
		z, err := m.Step(c, []model.Piece{{Slot: 0, Tokens: []int32{id}}})
		if err != nil {
			t.Fatal(err)
		}
		cached = append(cached, z[0]...)
	}
	return whole, cached
}

func near(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tol) {
			t.Errorf("%s: [%d] is %g, want %g", what, i, got[i], want[i])
			return
		}
	}
}

// Variants of the families' models compute with a cache what they compute without,
// and the same after a way through a GGUF and back into a folder, where a GGUF can
// state them; where not, it is refused.
func TestVariants(t *testing.T) {
	ids := []int32{1, 40, 3, 3, 200, 17, 99, 5, 60, 61, 62}
	for i, v := range variants {
		t.Run(fmt.Sprint(v.base, i), func(t *testing.T) {
			dir := made(t, v.base, v.change)
			want, cached := logitsOf(t, dir, ids)
			near(t, "with a cache", cached, want, 1e-4)
			src := open(t, dir)
			for _, name := range []string{"a.gguf", "b"} {
				out := filepath.Join(t.TempDir(), name)
				d := arch.Dense{Path: out, Name: "m"}
				err := d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil)
				if v.refused != "" && err != nil && strings.Contains(err.Error(), v.refused) {
					return
				}
				if err != nil || v.refused != "" {
					t.Fatalf("%v, want refusal %q", err, v.refused)
				}
				got, _ := logitsOf(t, out, ids)
				near(t, name, got, want, 1e-5)
				src = open(t, out)
			}
		})
	}
}
