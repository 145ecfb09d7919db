package arch

import (
	"testing"

	"github.com/tunekit/tunekit/kernels"
)

// TestLlamaCppSizes: what llama.cpp tells by the number of layers, windows that hide nothing,
// tables of frequencies, and parts that it does not load or does not do without (asked of b11549 with a variant of every case).
func TestLlamaCppSizes(t *testing.T) {
	layers := func(n int, b Body) (out []*LayerSpec) {
		for range n {
			out = append(out, &LayerSpec{Sublayers: []Sublayer{{Body: b}}})
		}
		return out
	}
	llama3 := []RopeSpec{{Dim: 4, Base: 1e4, Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, OrigMax: 16}}
	long := []RopeSpec{{Dim: 4, Base: 1e4, Type: "longrope", Factor: 2, OrigMax: 16, Short: []float64{1, 2}, Long: []float64{2, 3}}}
	for _, c := range []struct {
		name string
		spec Spec
		note bool
	}{
		{"deepseek2", Spec{V: 128256, Layers: layers(48, &MLA{})}, false},
		{"deepseek2", Spec{V: 1000, Layers: layers(48, &MLA{})}, true},
		{"deepseek2", Spec{V: 1000, Layers: layers(27, &MLA{})}, false},
		{"deepseek2", Spec{V: 1000, Layers: layers(27, &MLA{QRank: 8})}, true},
		{"deepseek2", Spec{V: 1000, Layers: layers(61, &MLA{QRank: 8})}, false},
		{"phi3", Spec{MaxPos: 4096, Layers: layers(2, &Attention{Window: 2047})}, true},
		{"phi3", Spec{MaxPos: 4096, Layers: layers(2, &Attention{Window: 4096})}, false},
		{"exaone4", Spec{MaxPos: 4096, Layers: layers(2, &Attention{Window: 8192})}, false},
		{"qwen3", Spec{Ropes: llama3, Layers: layers(2, &Attention{})}, true},
		{"llama", Spec{Ropes: llama3, Layers: layers(2, &Attention{})}, false},
		{"phi3", Spec{Ropes: llama3, Layers: layers(2, &Attention{})}, true},
		{"llama", Spec{Ropes: long, Layers: layers(2, &Attention{})}, true},
		{"phi3", Spec{Ropes: long, Layers: layers(2, &Attention{})}, true}, // whose context may be longer than the text
		{"dots1", Spec{Layers: layers(2, &Attention{H: 4, K: 2})}, true},
		{"dots1", Spec{Layers: layers(2, &Attention{H: 4, K: 4})}, false},
		{"deepseek2", Spec{Layers: append(layers(2, &MLA{QRank: 8}), layers(1, &MoE{Route: kernels.RouteArgs{Groups: 2, TopGroups: 1}})...)}, true},
		{"deepseek2", Spec{Layers: append(layers(2, &MLA{QRank: 8}), layers(1, &MoE{Route: kernels.RouteArgs{Groups: 2, TopGroups: 1, Best2: true}})...)}, false},
		{"olmo2", Spec{Tied: true, Layers: layers(2, &Attention{})}, true},
		{"olmo2", Spec{Layers: layers(2, &Attention{})}, false},
		{"qwen3", Spec{Layers: layers(2, &Attention{Bias: true})}, false},
		{"qwen3", Spec{Layers: layers(2, &Attention{Bias: true, OutBias: true})}, true},
		{"qwen35", Spec{Layers: append(layers(2, &DeltaNet{Dk: 8, Dv: 8}), layers(1, &Attention{OutBias: true})...)}, true},
		{"qwen35", Spec{Layers: append(layers(2, &DeltaNet{Dk: 8, Dv: 6}), layers(1, &Attention{})...)}, true},
		{"qwen35", Spec{Layers: append(layers(2, &DeltaNet{Dk: 8, Dv: 8}), layers(1, &Attention{})...)}, false},
		{"arcee", Spec{Layers: append(layers(2, &Attention{}), layers(1, &MLP{Bias: true})...)}, true},
		{"arcee", Spec{Layers: append(layers(2, &Attention{}), layers(1, &MLP{})...)}, false},
		{"gptneox", Spec{Layers: layers(2, &Attention{})}, true},
		{"gptneox", Spec{Layers: layers(2, &Attention{Bias: true, OutBias: true})}, false},
		{"phi2", Spec{Layers: layers(2, &Attention{QKNorm: PerHead})}, true},
		{"phi2", Spec{Layers: layers(2, &Attention{})}, false},
		{"olmoe", Spec{Layers: layers(2, &Attention{H: 4, K: 2})}, true},
		{"lfm2", Spec{Layers: layers(2, &ShortConv{Bias: true})}, true},
		{"lfm2", Spec{Layers: layers(2, &ShortConv{})}, false},
		{"lfm2moe", Spec{Layers: append(layers(2, &ShortConv{}), layers(1, &MoE{})...)}, true},
		{"lfm2moe", Spec{Layers: append(layers(2, &ShortConv{}), layers(1, &MoE{Select: true})...)}, false},
		{"chatglm", Spec{C: 48, Layers: layers(2, &Attention{H: 4, K: 2, D: 16})}, true},
		{"chatglm", Spec{C: 48, Layers: layers(2, &Attention{H: 4, K: 2, D: 12})}, false},
		{"afmoe", Spec{Layers: layers(2, &Attention{Bias: true, OutBias: true})}, true},
		{"afmoe", Spec{Layers: layers(2, &Attention{})}, false},
		{"cohere2moe", Spec{Layers: layers(2, &Attention{Bias: true, OutBias: true})}, true},
		{"cohere2moe", Spec{Layers: layers(2, &Attention{})}, false},
		{"llama4", Spec{Layers: layers(2, &Attention{})}, true},
		{"llama4", Spec{Layers: append(layers(3, &Attention{}), layers(1, &Attention{Rope: NoRope})...)}, false},
		{"t5", Spec{Tied: true, LogitScale: 0.125, Layers: layers(2, &Attention{})}, true},
		{"t5", Spec{Layers: layers(2, &Attention{})}, false},
		{"gemma2", Spec{Layers: layers(2, &Attention{})}, true},
		{"gemma2", Spec{Tied: true, Layers: layers(2, &Attention{})}, false},
		{"qwen35", Spec{Ropes: []RopeSpec{{Dim: 12, Base: 1e4, Sections: []int{2, 3, 1}}}, Layers: layers(2, &Attention{})}, true},
		{"qwen35", Spec{Ropes: []RopeSpec{{Dim: 16, Base: 1e4, Sections: []int{3, 3, 2}}}, Layers: layers(2, &Attention{})}, false},
		{"qwen35", Spec{Ropes: []RopeSpec{{Dim: 16, Base: 1e4}}, Layers: layers(2, &Attention{})}, false},
	} {
		s := &Source{Spec: c.spec, arch: &Arch{GGUF: c.name}}
		if note := s.LlamaCppNote(); (note != "") != c.note {
			t.Errorf("%s of %d layers and %d tokens: %q", c.name, len(c.spec.Layers), c.spec.V, note)
		}
	}
}

// TestConfigNote: whoever opens a DBRX whose base of rotation Transformers does not read is told.
func TestConfigNote(t *testing.T) {
	for config, noted := range map[string]bool{
		`{"attn_config": {"rope_theta": 500000}}`: true,
		`{"attn_config": {"rope_theta": 10000}}`:  false,
		`{"attn_config": {}}`:                     false,
		`{"attn_config": {"rope_theta": 500000}, "rope_parameters": {"rope_theta": 1000}}`: false,
	} {
		c, err := parseConfig([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		s, err := dbrx.Spec(c)
		if err != nil {
			t.Fatal(err)
		}
		if (len(c.notes) > 0) != noted || noted && s.rope().Base != 500000 {
			t.Errorf("%s: base %g, notes %q", config, s.rope().Base, c.notes)
		}
	}
}
