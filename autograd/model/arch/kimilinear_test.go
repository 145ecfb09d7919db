package arch

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
)

// TestKimiLayers: which layers have latent attention, by every key that says so, and
// what is refused.
func TestKimiLayers(t *testing.T) {
	const f, l = "full_attention", "linear_attention"
	lists := func(full, delta []int) map[string]any {
		return map[string]any{"linear_attn_config": map[string]any{"full_attn_layers": full, "kda_layers": delta, "head_dim": 8, "num_heads": 4, "short_conv_kernel_size": 3}}
	}
	for _, c := range []struct {
		change  map[string]any
		want    string // the layers, or what the error says
		refused bool
		unknown bool
	}{
		{nil, "---f", false, false},
		{map[string]any{"layer_types": []string{f, l, l, f}}, "f--f", false, false},
		{lists([]int{2}, []int{1, 3, 4}), "-f--", false, false},
		{lists([]int{}, []int{1, 2, 3, 4}), "----", false, false},
		{lists([]int{2}, []int{1, 3}), "layer 4 is neither", true, false},
		{lists([]int{2}, []int{1, 2, 3, 4}), "layer 2", true, false},
		{lists([]int{0}, []int{1, 2, 3, 4}), "layer 0", true, false},
		{lists([]int{5}, []int{1, 2, 3, 4}), "layer 5", true, false},
		{map[string]any{"linear_attn_config": map[string]any{"head_dim": "8"}}, "head_dim", true, false},
		{map[string]any{"layer_types": []string{f, l, l, "sliding_attention"}}, "sliding_attention", true, true},
		{map[string]any{"mla_use_nope": false}, "mla_use_nope", true, true},
		{map[string]any{"mla_use_output_gate": true}, "mla_use_output_gate", true, true},
		{map[string]any{"attn_res_block_size": 4}, "attn_res_block_size", true, true},
		{map[string]any{"forget_gate_lower_bound": -5}, "forget_gate_lower_bound", true, true},
		{map[string]any{"use_full_rank_output_gate": true}, "use_full_rank_output_gate", true, true},
		{map[string]any{"moe_router_activation_func": "softmax"}, "moe_router_activation_func", true, true},
		{map[string]any{"use_grouped_topk": false, "num_expert_group": 2}, "use_grouped_topk", true, true},
		{map[string]any{"dense_ffn_hidden": 64}, "dense_ffn_hidden", true, true},
		{map[string]any{"hidden_act": "situ"}, "situ", true, true},
	} {
		change := map[string]any{"num_key_value_heads": nil}
		maps.Copy(change, c.change)
		s, err := familySpec(t, &kimiLinear, change)
		if c.refused {
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrUnknown) != c.unknown {
				t.Errorf("%v: %v", c.change, err)
			}
			continue
		}
		got := ""
		for _, heads := range s.keyHeads() {
			got += "-f"[min(heads, 1):][:1]
		}
		if err != nil || got != c.want {
			t.Errorf("%v: layers are %s, want %s: %v", c.change, got, c.want, err)
		}
	}
}

// TestShortShapes: a tensor may lack the dimensions of 1 in front that ggml drops, and
// no others.
func TestShortShapes(t *testing.T) {
	s, err := familySpec(t, &kimiLinear, map[string]any{"num_key_value_heads": nil})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range kimiLinear.Rules(&s) {
		if r.Role != ALog && r.Role != Conv {
			continue
		}
		for i := range r.GGUF {
			p := &r.GGUF[i]
			whole := p.fileShape(&r)
			for cut, good := range []bool{true, true, whole[1] == 1, false} {
				x := formats.Tensor{Name: p.Name, Shape: whole[cut:]}
				if err := p.checkShape(&r, &x); (err == nil) != good {
					t.Errorf("%v for %v: %v", x.Shape, whole, err)
				}
			}
		}
	}
}
