package arch

import (
	"math"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
)

// small is a Llama without tensors, as config.json states it.
const small = `{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 8, "intermediate_size": 32, "num_attention_heads": 2,
"num_hidden_layers": 1, "max_position_embeddings": 1024, "tie_word_embeddings": true`

func specOf(t *testing.T, a *Arch, more string) (Spec, error) {
	t.Helper()
	c, err := parseConfig([]byte(small + more + "}"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Spec(c)
	if err == nil {
		err = s.check()
	}
	return s, err
}

// sameAngles compares two rules by what they compute.
func sameAngles(t *testing.T, what string, a, b RopeSpec) {
	t.Helper()
	fa, sa := a.Angles(100)
	fb, sb := b.Angles(100)
	for i := range fa {
		if math.Abs(fa[i]-fb[i]) > 1e-6*fa[i] {
			t.Fatalf("%s: frequency %d is %g and %g", what, i, fa[i], fb[i])
		}
	}
	if math.Abs(sa-sb) > 1e-6*sa {
		t.Errorf("%s: scales %g and %g", what, sa, sb)
	}
}

// TestRopePlaces: the rule stands in one place, in either, or in both and equal;
// two that differ are refused by both names.
func TestRopePlaces(t *testing.T) {
	one, err := specOf(t, &llama, `, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5000`)
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{
		`, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {}, "rope_theta": 5000`,
		`, "rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5000}`,
		`, "rope_scaling": null, "rope_parameters": {"rope_type": "linear", "factor": 2}, "rope_theta": 5000`,
		`, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000}`,
	} {
		s, err := specOf(t, &llama, same)
		if err != nil {
			t.Fatalf("%s: %v", same, err)
		}
		sameAngles(t, same, s.rope(), one.rope())
	}
	for text, words := range map[string]string{
		`, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "default"}`:     "rope_scaling rope_parameters",
		`, "rope_theta": 5000, "rope_parameters": {"rope_type": "default", "rope_theta": 6000}`:              "rope_theta 5000 6000",
		`, "rope_parameters": {"rope_type": "linear", "type": "dynamic", "factor": 2}`:                       "rope_type linear dynamic",
		`, "rope_parameters": {"full_attention": {"rope_type": "default"}}`:                                  "full_attention",
		`, "rope_scaling": {"type": "linear"}`:                                                               "linear factor",
		`, "rope_scaling": {"type": "yarn", "factor": 0, "original_max_position_embeddings": 64}`:            "yarn factor 0",
		`, "partial_rotary_factor": 0.5`:                                                                     "partial_rotary_factor",
		`, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 10000.0}`: "partial_rotary_factor",
	} {
		_, err := specOf(t, &llama, text)
		for _, w := range strings.Fields(words) {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v does not say %s", text, err, w)
			}
		}
	}
}

// TestAbsentKeys: a key that is absent has the value of the family's class in
// Transformers.
func TestAbsentKeys(t *testing.T) {
	s, err := specOf(t, &qwen3, `, "num_key_value_heads": 2`)
	if err != nil || s.Attention().D != 128 {
		t.Errorf("head size %d of a Qwen3 that states none (%v), want 128", s.Attention().D, err)
	}
	if s, err = specOf(t, &qwen3, `, "num_key_value_heads": 2, "head_dim": null`); err != nil || s.Attention().D != 32 {
		t.Errorf("head size %d of a Qwen3 with null (%v), want 64/2", s.Attention().D, err)
	}
	if s, err = specOf(t, &mixtral, `, "num_key_value_heads": 2`); err != nil || s.rope().Base != 1e6 || s.moe().E != 8 {
		t.Errorf("base %g of a Mixtral that states none (%v), want 1e6", s.rope().Base, err)
	}
}

func metadata(pairs ...any) *Metadata {
	var kv []formats.KV
	for i := 0; i < len(pairs); i += 2 {
		kv = append(kv, formats.KV{Key: "llama." + pairs[i].(string), Value: pairs[i+1]})
	}
	return newMetadata("llama", kv)
}

// TestRopeGGUF: what a folder states is what its GGUF states, or is refused by
// name.
func TestRopeGGUF(t *testing.T) {
	for _, rule := range []string{
		`{"rope_type": "linear", "factor": 2}`,
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256}`,
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256, "attention_factor": 2}`,
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256, "mscale": 0.7, "mscale_all_dim": 1.1}`,
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256, "beta_fast": 32, "beta_slow": 1}`,
		`{"rope_type": "longrope", "factor": 2, "original_max_position_embeddings": 64, "short_factor": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1], "long_factor": [2,2,2,2,2,2,2,2,3,3,3,3,3,3,3,3]}`,
	} {
		s, err := specOf(t, &llama, `, "rope_scaling": `+rule)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rope().checkGGUF("m"); err != nil {
			t.Fatal(err)
		}
		m := newMetadata("llama", decoderKV(&s, "llama"))
		m.short, m.long = s.rope().Short, s.rope().Long
		back := m.Rope(32, 1024)
		if m.err != nil {
			t.Fatal(m.err)
		}
		sameAngles(t, rule, s.rope(), back)
	}
	for rule, word := range map[string]string{
		`{"rope_type": "dynamic", "factor": 2}`:                                                          "dynamic",
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256, "beta_fast": 8}`:    "beta_fast",
		`{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256, "truncate": false}`: "truncate",
	} {
		s, err := specOf(t, &llama, `, "rope_scaling": `+rule)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rope().checkGGUF("m"); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: error %v does not say %s", rule, err, word)
		}
	}
}

// TestRopeKeys: the keys mean what llama.cpp takes them for.
func TestRopeKeys(t *testing.T) {
	linear := RopeSpec{Dim: 32, Base: 10000, Type: "linear", Factor: 2}
	for _, c := range []struct {
		m    *Metadata
		want RopeSpec
	}{
		{metadata("rope.scaling.factor", float32(2)), linear},
		{metadata("rope.scale_linear", float32(2)), linear},
		{metadata("rope.scaling.factor", float32(2), "rope.scaling.type", "none"), RopeSpec{Dim: 32, Base: 10000}},
		{metadata("rope.scaling.factor", float32(0)), RopeSpec{Dim: 32, Base: 10000}},
		{metadata("rope.scaling.attn_factor", float32(1.5)), RopeSpec{Dim: 32, Base: 10000, AttnFactor: 1.5}},
		{metadata("rope.scaling.type", "yarn", "rope.scaling.factor", float32(4), "rope.scaling.original_context_length", uint32(256), "rope.scaling.attn_factor", float32(1.5)),
			RopeSpec{Dim: 32, Base: 10000, Type: "yarn", Factor: 4, OrigMax: 256, AttnFactor: 1.5 * (1 + 0.1*math.Log(4))}},
	} {
		got := c.m.Rope(32, 1024)
		if err := c.m.refuse(&Attention{D: 32}); err != nil {
			t.Fatalf("%v: %v", c.m.kv, err)
		}
		sameAngles(t, "GGUF", got, c.want)
	}
	for _, bad := range [][]any{
		{"rope.dimension_count", uint32(16)}, {"rope.scaling.type", "longrope"}, {"rope.scaling.attn_factor", float32(0)},
		{"attention.value_length", uint32(16)}, {"attention.scale", float32(0.5)}, {"attention.causal", false}, {"rope.scaling.yarn_ext_factor", float32(0.5)},
	} {
		m := metadata(bad...)
		m.Rope(32, 1024)
		if err := m.refuse(&Attention{D: 32}); err == nil || !strings.Contains(err.Error(), bad[0].(string)) {
			t.Errorf("%v: error %v does not name the key", bad, err)
		}
	}
	m := metadata("attention.causal", true, "attention.scale", float32(0), "attention.value_length", uint32(32))
	if err := m.refuse(&Attention{D: 32}); err != nil {
		t.Errorf("values without effect are refused: %v", err)
	}
	m = metadata("attention.sliding_window", uint32(16))
	if m.Int(0, "attention.sliding_window"); m.refuse(&Attention{D: 32}) != nil {
		t.Error("a key that the family has read is refused")
	}
}

// TestEps: the epsilon of the norms has no default in a GGUF, and llama.cpp takes none without.
func TestEps(t *testing.T) {
	for key, want := range map[string]float32{"attention.layer_norm_rms_epsilon": 0.25, "attention.layer_norm_epsilon": 0.25} {
		if m := metadata(key, float32(0.25)); m.eps() != want || m.err != nil {
			t.Errorf("%s: %v", key, m.err)
		}
	}
	for _, bad := range []float32{float32(math.NaN()), -1, 1, float32(math.Inf(1))} {
		m := metadata("attention.layer_norm_epsilon", bad)
		if m.eps(); m.err == nil || !strings.Contains(m.err.Error(), "llama.attention.layer_norm_epsilon is ") {
			t.Errorf("%g: %v", bad, m.err)
		}
	}
	m := metadata("rope.freq_base", float32(1))
	if m.eps(); m.err == nil || !strings.Contains(m.err.Error(), "llama.attention.layer_norm_rms_epsilon (or attention.layer_norm_epsilon, of norms that take the mean away): missing") {
		t.Error(m.err)
	}
}
