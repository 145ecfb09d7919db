package arch

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// What Transformers 5.23.0 computes of a changed config.json of a reference case: the same
// as of another change, or nothing sensible, and is refused here. cmd/tune/interop/check_variants.py
// compares the logits.
func TestConfigsOfOneModel(t *testing.T) {
	for _, v := range []struct{ base, change, other, refused string }{
		{"llama-llama3", `{"original_max_position_embeddings": 9}`, `{"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 9}}`, ""},
		{"qwen2-yarn", `{"original_max_position_embeddings": 16, "rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 8}}`,
			`{"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}}`, ""},
		{"phi3-longrope", `{"original_max_position_embeddings": "absent"}`, `{"original_max_position_embeddings": 4096}`, ""},
		{"cohere", `{"rope_parameters": null}`, `{"rope_parameters": null, "rope_theta": 500000.0}`, ""},
		{"olmo3", `{"rope_parameters": null, "rope_theta": 777.0}`, "", "rope_theta: is 777"},
		{"olmo3", `{"rope_parameters": {"rope_theta": 777.0}}`, "", "has no rule for full_attention"},
		{"olmo3", `{"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0, "truncate": false}, "sliding_attention": {"rope_type": "default"}}}`, "", "truncate"},
		{"gemma3", `{"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}}`, "", "has no rule for full_attention"},
		{"apertus", `{"rope_parameters": null}`, `{"rope_parameters": {"rope_type": "llama3", "rope_theta": 12000000, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}}`, ""},
		{"gpt-oss", `{"rope_parameters": null, "rope_scaling": null}`, `{"rope_parameters": {"rope_type": "yarn", "rope_theta": 150000, "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}}`, ""},
		{"apertus", `{"rope_parameters": null, "rope_theta": 777.0}`, "", "remove one"},
		{"olmo-hybrid", `{"rope_parameters": null}`, `{"rope_parameters": null, "rope_theta": 10000.0}`, ""},
		{"olmo-hybrid", `{"rope_parameters": {"rope_type": "default", "rope_theta": null}}`, `{"rope_parameters": null, "rope_theta": null}`, ""},
		{"deepseek3", `{"norm_topk_prob": null}`, `{"norm_topk_prob": false}`, ""},
		{"deepseek3", `{"rope_interleave": null}`, `{"rope_interleave": false}`, ""},
		{"t5", `{"scale_decoder_outputs": null}`, `{"scale_decoder_outputs": false}`, ""},
		{"hunyuan-moe", `{"moe_topk": "absent", "num_experts_per_tok": 1}`, `{"moe_topk": 1}`, ""},
		{"hunyuan-moe", `{"num_experts_per_tok": 1}`, "", "moe_topk, which it is another name of, is 2"},
		{"gemma2", `{"final_logit_softcapping": 0.0}`, "", "final_logit_softcapping: is 0"},
		{"internlm3", `{"attention_bias": "absent", "mlp_bias": "absent", "qkv_bias": true, "bias": true}`, `{"attention_bias": true, "mlp_bias": true}`, ""},
		{"minicpm3", `{"scale_depth": 0.0}`, "", "scale_depth: is 0"},
		{"cohere", `{"logit_scale": 0.0}`, "", "logit_scale: is 0"},
		{"afmoe", `{"route_scale": 0}`, "", "route_scale: is 0"},
		{"deepseek3", `{"routed_scaling_factor": 0.0}`, "", "routed_scaling_factor: is 0"},
		{"gemma", `{"hidden_act": "gelu", "attention_bias": true}`, `{"attention_bias": true}`, ""},
		{"deepseek3", `{"head_dim": 2}`, "", "head_dim: is 2, but qk_rope_head_dim"},
		{"gpt-neox", `{"rope_parameters": null, "rope_theta": 777}`, "", "rope_theta: is 777, which this class does not read"},
		{"gpt-neox", `{"rope_parameters": null, "rope_theta": 777, "rope_scaling": {"type": "linear", "factor": 3.0}}`, "", "rope_theta: is 777, which this class does not read"},
		{"gpt-neox", `{"rope_parameters": null, "rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 3.0}}`, `{"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0, "partial_rotary_factor": 0.25}}`, ""},
		{"deepseek3", `{"mlp_bias": true, "attention_bias": true}`, `{"attention_bias": true}`, ""},
		{"gpt-neox", `{"rope_parameters": null, "rope_theta": 500, "rotary_emb_base": 777}`, "", "rope_theta: is 500, which this class does not read; call it rotary_emb_base"},
		{"gpt-neox", `{"rope_parameters": null, "partial_rotary_factor": 0.5, "rotary_pct": 0.25}`, "", "partial_rotary_factor: is 0.5, which this class does not read; call it rotary_pct"},
		{"gpt-neox", `{"rope_parameters": {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0}, "rotary_emb_base": 500}`, `{"rope_parameters": {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0}}`, ""},
		{"gpt-neox", `{"head_dim": 20}`, "", "head_dim: is 20"},
		{"gpt-oss", `{"swiglu_limit": 0}`, "", "swiglu_limit: is 0"},
		{"dbrx", `{"attn_config": {"kv_n_heads": 2, "clip_qkv": 0.0}}`, "", "clip_qkv: is 0"},
		{"dbrx", `{"ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "ffn_act_fn": {"name": 5}}}`, "", "name"},
		{"mpt", `{"attn_config": {"clip_qkv": -1.0}}`, "", "clip_qkv: is -1"},
		{"mistral", `{"sliding_window": 0}`, "", "sliding_window: is 0"},
		{"phi3", `{"sliding_window": 0}`, "", "sliding_window: is 0"},
		{"starcoder2", `{"sliding_window": 0}`, "", "sliding_window: is 0"},
		{"mixtral", `{"sliding_window": 0}`, "", "sliding_window: is 0"},
		{"qwen2", `{"use_sliding_window": true, "sliding_window": 0}`, "", "sliding_window: is 0"},
		{"phimoe", `{"num_experts_per_tok": 4}`, "", "num_experts_per_tok: is 4"},
		{"olmo", `{"clip_qkv": 0}`, "", "clip_qkv: is 0"},
		{"cohere2-moe", `{"sliding_window": 0}`, "", "sliding_window: is 0"},
		{"cohere2-moe", `{"rope_parameters": null, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}`, "", "rope_scaling"},
	} {
		read := func(change string) (Spec, error) {
			var all, other map[string]json.RawMessage
			for data, to := range map[string]*map[string]json.RawMessage{string(testdir.ReadFile(t, filepath.Join(testdir.Shared(t, "golden/arch"), v.base, "config.json"))): &all, change: &other} {
				if err := json.Unmarshal([]byte(data), to); err != nil {
					t.Fatal(err)
				}
			}
			for key, value := range other {
				if all[key] = value; string(value) == `"absent"` {
					delete(all, key)
				}
			}
			raw, err := json.Marshal(all)
			if err != nil {
				t.Fatal(err)
			}
			s := &Source{Reader: &described{config: raw}}
			if err = s.readConfig(); err == nil {
				err = s.Spec.check()
			}
			return s.Spec, err
		}
		got, err := read(v.change)
		if v.refused != "" {
			if err == nil || !strings.Contains(err.Error(), v.refused) {
				t.Errorf("%s with %s: %v, want a refusal with %q", v.base, v.change, err, v.refused)
			}
			continue
		}
		want, second := read(v.other)
		if plain, _ := read("{}"); err != nil || second != nil || !reflect.DeepEqual(got, want) || reflect.DeepEqual(got, plain) {
			t.Errorf("%s with %s (%v) is not what it is with %s (%v), or what it is without", v.base, v.change, err, v.other, second)
		}
	}
}
