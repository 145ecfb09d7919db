package arch

import "testing"

// TestLlamaCppSizes: what llama.cpp tells by the number of layers, and windows that hide nothing.
func TestLlamaCppSizes(t *testing.T) {
	layers := func(n int, b Body) (out []*LayerSpec) {
		for range n {
			out = append(out, &LayerSpec{Sublayers: []Sublayer{{Body: b}}})
		}
		return out
	}
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
	} {
		s := &Source{Spec: c.spec, arch: &Arch{GGUF: c.name}}
		if note := s.LlamaCppNote(); (note != "") != c.note {
			t.Errorf("%s of %d layers and %d tokens: %q", c.name, len(c.spec.Layers), c.spec.V, note)
		}
	}
}
