package arch_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// What this program does not do is said as that: nothing is wrong with the file. What
// is wrong is corrupt, still.
func TestUnsupportedIsNotCorrupt(t *testing.T) {
	pocket := filepath.Join("..", "..", "..", "recipes", "pocket", "model")
	weights := testdir.ReadFile(t, filepath.Join(pocket, "model.safetensors"))
	open := func(change map[string]any) (*arch.Source, error) {
		dir := t.TempDir()
		var config map[string]any
		if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(pocket, "config.json")), &config); err != nil {
			t.Fatal(err)
		}
		for k, v := range change {
			config[k] = v
		}
		raw, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"config.json": raw, "model.safetensors": weights} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return arch.Open(dir)
	}
	for name, c := range map[string]struct {
		change  map[string]any
		unknown bool
	}{
		"architecture": {map[string]any{"architectures": []string{"MambaForCausalLM"}, "model_type": "mamba"}, true},
		"rope":         {map[string]any{"rope_scaling": map[string]any{"rope_type": "su", "factor": 2}}, true},
		"activation":   {map[string]any{"hidden_act": "mish"}, true},
		"clip":         {map[string]any{"architectures": []string{"OlmoForCausalLM"}, "model_type": "olmo", "clip_qkv": 0}, true},
		"partial":      {map[string]any{"partial_rotary_factor": 0.5}, true},
		"two kinds":    {map[string]any{"model_type": "gpt2"}, false},
		"of none":      {map[string]any{"model_type": "x"}, false},
		"two of ours":  {map[string]any{"model_type": "qwen2"}, false},
		"heads":        {map[string]any{"num_attention_heads": 0}, false},
		"factor":       {map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": 0.5}}, false},
		"text":         {map[string]any{"hidden_size": "wide"}, false},
	} {
		_, err := open(c.change)
		if err == nil || errors.Is(err, arch.ErrUnknown) != c.unknown || errors.Is(err, formats.ErrCorrupt) == c.unknown {
			t.Errorf("%s: %v", name, err)
		}
	}
	src, err := open(map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn", "factor": 4}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if n := src.Spec.Context(); n != 4*src.Spec.MaxPos {
		t.Errorf("a scaled model has a context of %d, without scaling %d", n, src.Spec.MaxPos)
	}
}
