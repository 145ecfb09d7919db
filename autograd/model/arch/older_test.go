package arch

import (
	"errors"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// The slopes of linear biases are those of Transformers (build_alibi_tensor of
// Bloom) for numbers of heads that are powers of two and others.
func TestALiBiSlopes(t *testing.T) {
	for _, c := range []struct {
		h    int
		want []float32
	}{
		{4, []float32{1. / 4, 1. / 16, 1. / 64, 1. / 256}},
		{3, []float32{1. / 16, 1. / 256, 1. / 4}},
		{6, []float32{1. / 4, 1. / 16, 1. / 64, 1. / 256, 1. / 2, 1. / 8}},
		{2, []float32{1. / 16, 1. / 256}},
	} {
		if got := alibiSlopes(c.h); !slices.Equal(got, c.want) {
			t.Errorf("%d heads: %v, want %v", c.h, got, c.want)
		}
	}
}

// What a config.json says and the program does not do is refused by name.
func TestOlderLacks(t *testing.T) {
	for _, c := range []struct{ a, key, value string }{
		{"mpt", "expansion_ratio", "2"}, {"mpt", "no_bias", "false"}, {"mpt", "logit_scale", "0.5"}, {"mpt", "attn_config", `{"alibi": false}`},
		{"mpt", "attn_config", `{"qk_ln": true}`}, {"mpt", "attn_config", `{"alibi_bias_max": 4}`}, {"mpt", "attn_config", `{"attn_type": "multiquery_attention"}`}, {"mpt", "norm_type", `"rmsnorm"`},
		{"falcon", "num_ln_in_parallel_attn", "2"}, {"falcon", "apply_residual_connection_post_layernorm", "true"}, {"falcon-new", "parallel_attn", "false"},
		{"gpt2", "add_cross_attention", "true"}, {"gptj", "rotary_dim", "null"},
		{"apertus", "hidden_act", `"silu"`}, {"apertus", "qk_norm", "false"}, {"apertus", "post_norm", "true"}, {"apertus", "mlp_bias", "true"},
	} {
		config, err := parseConfig(testdir.ReadFile(t, testdir.Shared(t, "golden/arch/"+c.a)+"/config.json"))
		if err != nil {
			t.Fatal(err)
		}
		config.raw[c.key] = []byte(c.value)
		a := byHF("", config.String("", "model_type"))
		if _, err := a.Spec(config); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s with %s %s: %v", c.a, c.key, c.value, err)
		}
	}
}
