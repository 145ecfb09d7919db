package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
)

// plainKeys are the keys that every config of these tests has.
var plainKeys = map[string]any{"hidden_size": 32, "vocab_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
	"intermediate_size": 48, "max_position_embeddings": 128}

// familySpec reads plainKeys with changes as config.json of an architecture; a nil value
// is null.
func familySpec(t *testing.T, a *Arch, change map[string]any) (Spec, error) {
	t.Helper()
	all := maps.Clone(plainKeys)
	maps.Copy(all, change)
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Spec(c)
	if err == nil {
		err = s.check()
	}
	return s, err
}

// layout is how the layers of a model attend: w a window, f everything, each with
// the number of its table of angles, or - for none.
func layout(s *Spec) string {
	var b strings.Builder
	for _, a := range s.attentions() {
		b.WriteByte("fw"[min(a.Window, 1)])
		if a.Rope == NoRope {
			b.WriteByte('-')
		} else {
			fmt.Fprint(&b, a.Rope)
		}
	}
	return b.String()
}

// TestLayouts: which layers have a window and know positions, by every key that
// says so. The classes of Transformers decide alike.
func TestLayouts(t *testing.T) {
	types := func(list ...string) []string { return list }
	const f, w = "full_attention", "sliding_attention"
	for _, c := range []struct {
		arch   *Arch
		change map[string]any
		want   string
	}{
		{&mistral, nil, "w0w0w0w0"},
		{&mistral, map[string]any{"sliding_window": nil}, "f0f0f0f0"},
		{&ministral, nil, "w0w0w0w0"},
		{&ministral, map[string]any{"sliding_window": nil}, "f0f0f0f0"},
		{&ministral, map[string]any{"layer_types": types(f, w, w, f)}, "f0w0w0f0"},
		{&smollm3, nil, "f0f0f0f-"},
		{&smollm3, map[string]any{"no_rope_layer_interval": 2}, "f0f-f0f-"},
		{&smollm3, map[string]any{"no_rope_layers": []int{0, 1, 1, 0, 1}}, "f-f0f0f-"},
		{&smollm3, map[string]any{"use_sliding_window": true, "sliding_window": 8}, "f0f0f0w-"},
		{&smollm3, map[string]any{"use_sliding_window": true, "sliding_window": 8, "layer_types": types(w, f, f, f)}, "w0f0f0f-"},
		{&gemma2, nil, "w0f0w0f0"},
		{&gemma2, map[string]any{"layer_types": types(f, f, w, w)}, "f0f0w0w0"},
		{&gemma3, nil, "w1w1w1w1"},
		{&gemma3, map[string]any{"sliding_window_pattern": 2}, "w1f0w1f0"},
		{&gemma3, map[string]any{"layer_types": types(f, w, w, f)}, "f0w1w1f0"},
		{&cohere2, nil, "w0w0w0f-"},
		{&cohere2, map[string]any{"sliding_window_pattern": 2}, "w0f-w0f-"},
		{&exaone4, nil, "w0w0w0f-"},
		{&exaone4, map[string]any{"sliding_window_pattern": "LG"}, "w0f-w0f-"},
		{&exaone4, map[string]any{"sliding_window_pattern": "GLL"}, "f-w0w0f-"},
		{&exaone4, map[string]any{"sliding_window": nil, "sliding_window_pattern": nil}, "f0f0f0f0"},
		{&exaone4, map[string]any{"sliding_window": nil, "layer_types": types(f, f, f, f)}, "f0f0f0f0"},
		{&olmo3, nil, "w1w1w1f0"},
		{&olmo3, map[string]any{"layer_types": types(f, w, f, w)}, "f0w1f0w1"},
		{&phi3, map[string]any{"sliding_window": 8}, "w0w0w0w0"},
		{&qwen2, map[string]any{"sliding_window": 8, "max_window_layers": 2}, "f0f0f0f0"},
		{&qwen2, map[string]any{"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2}, "f0f0w0w0"},
		{&qwen3, map[string]any{"use_sliding_window": true}, "f0f0f0f0"},
		{&qwen3, map[string]any{"use_sliding_window": true, "layer_types": types(w, f, f, f)}, "w0f0f0f0"},
	} {
		s, err := familySpec(t, c.arch, c.change)
		if err != nil {
			t.Errorf("%s %v: %v", c.arch.Name, c.change, err)
		} else if got := layout(&s); got != c.want {
			t.Errorf("%s %v: layers are %s, want %s", c.arch.Name, c.change, got, c.want)
		}
	}
}

// TestRefused: what contradicts itself is an error, what is not done is said to be
// unsupported.
func TestRefused(t *testing.T) {
	rule := map[string]any{"rope_theta": 1e4, "rope_type": "default"}
	for _, c := range []struct {
		arch    *Arch
		change  map[string]any
		what    string
		unknown bool
	}{
		{&ministral, map[string]any{"sliding_window": nil, "layer_types": []string{"sliding_attention", "full_attention", "full_attention", "full_attention"}}, "sliding_window", false},
		{&ministral, map[string]any{"layer_types": []string{"full_attention"}}, "layer_types", false},
		{&gemma3, map[string]any{"layer_types": []string{"full_attention", "full_attention", "full_attention", "chunked_attention"}}, "chunked_attention", true},
		{&gemma3, map[string]any{"use_bidirectional_attention": true}, "use_bidirectional_attention", true},
		{&gemma3, map[string]any{"rope_local_base_freq": 1e4, "rope_parameters": map[string]any{"full_attention": rule, "sliding_attention": rule}}, "rope_local_base_freq", false},
		{&glm4, map[string]any{"partial_rotary_factor": 0}, "partial_rotary_factor", false},
		{&glm4, map[string]any{"partial_rotary_factor": 0.5, "rope_parameters": map[string]any{"partial_rotary_factor": 0.25}}, "partial_rotary_factor", false},
		{&granite, map[string]any{"partial_rotary_factor": 0.5}, "partial_rotary_factor", true},
		{&granite, map[string]any{"logits_scaling": 0}, "logits_scaling", false},
		{&phi3, map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}}, "linear", true},
		{&phi3, map[string]any{"rope_scaling": map[string]any{"type": "longrope", "long_factor": []int{1, 2}, "short_factor": []int{1, 1, 1, 1}}}, "long_factor", false},
		{&smollm3, map[string]any{"no_rope_layers": []int{1}}, "no_rope_layers", false},
		{&mistral3, map[string]any{"text_config": map[string]any{"model_type": "mistral4"}}, "mistral4", true},
		{&qwen2VL, map[string]any{"rope_scaling": map[string]any{"type": "mrope", "mrope_section": []int{1, 1, 1}}}, "mrope_section", false},
	} {
		_, err := familySpec(t, c.arch, c.change)
		if err == nil || !strings.Contains(err.Error(), c.what) || errors.Is(err, ErrUnknown) != c.unknown {
			t.Errorf("%s %v: %v", c.arch.Name, c.change, err)
		}
	}
}

// TestAngles of the families: the two generations of config.json say the same,
// and absent keys are what the classes of Transformers have.
func TestAngles(t *testing.T) {
	base := func(a *Arch, table int, change map[string]any) (float64, RopeSpec) {
		s, err := familySpec(t, a, change)
		if err != nil {
			t.Fatalf("%s %v: %v", a.Name, change, err)
		}
		return s.Ropes[table].Base, s.Ropes[table]
	}
	nested := map[string]any{"rope_parameters": map[string]any{
		"full_attention": map[string]any{"rope_type": "linear", "factor": 8, "rope_theta": 5e5}, "sliding_attention": map[string]any{"rope_type": "default", "rope_theta": 2e4}}}
	flat := map[string]any{"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": map[string]any{"rope_type": "linear", "factor": 8}}
	for table, want := range []float64{5e5, 2e4} {
		a, x := base(&gemma3, table, nested)
		b, y := base(&gemma3, table, flat)
		if a != want || b != want || x.Type != y.Type || x.Factor != y.Factor {
			t.Errorf("table %d: %+v nested, %+v flat", table, x, y)
		}
	}
	for a, want := range map[*Arch][]float64{&gemma3: {1e6, 1e4}, &olmo3: {5e5, 5e5}, &ernie45: {5e5}, &smollm3: {2e6}, &mistral: {1e4}} {
		for table, w := range want {
			if got, _ := base(a, table, nil); got != w {
				t.Errorf("%s: base %d is %g where the config has none, want %g", a.Name, table, got, w)
			}
		}
	}
	if _, err := familySpec(t, &olmo3, map[string]any{"rope_theta": 3e4}); !errors.Is(err, ErrUnknown) {
		t.Errorf("olmo3 with one base for all layers: %v", err)
	}
	alpha := map[string]any{"rope_theta": 1e4, "rope_scaling": map[string]any{"type": "dynamic", "alpha": 1000, "factor": 1}}
	got, r := base(&hunyuanDense, 0, alpha)
	if want := 1e4 * math.Pow(1000, 8.0/6); math.Abs(got/want-1) > 1e-12 || r.Type != "" {
		t.Errorf("hunyuan: %+v, want base %g", r, want)
	}
	long := []float64{1, 2, 3, 4}
	for _, name := range []string{"longrope", "su", "yarn"} {
		_, r := base(&phi3, 0, map[string]any{"original_max_position_embeddings": 32, "rope_scaling": map[string]any{"type": name, "long_factor": long, "short_factor": long}})
		if _, scale := r.Angles(33); r.Type != "longrope" || math.Abs(scale-math.Sqrt(1+math.Log(4)/math.Log(32))) > 1e-12 {
			t.Errorf("phi3 %s: %+v, factor %g", name, r, scale)
		}
	}
	if _, r := base(&phi3, 0, map[string]any{"partial_rotary_factor": 0.75}); r.Dim != 6 {
		t.Errorf("phi3: %d elements of 8 rotate, want 6", r.Dim)
	}
}
