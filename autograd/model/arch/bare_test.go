package arch_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// Folders as AutoModel saves them have no head, and names that begin with no model: with a
// tied head they are the model, written with its class; without one they are refused.
func TestBare(t *testing.T) {
	ids := []int32{1, 40, 3, 3, 200, 17, 99}
	for _, v := range []struct{ base, class, change, refused string }{
		{"qwen3", "Qwen3Model", `{"tie_word_embeddings": true}`, ""},
		{"gemma3", "Gemma3TextModel", `{}`, ""},
		{"gpt2", "GPT2Model", `{}`, ""},
		{"bloom", "BloomModel", `{}`, ""},
		{"llama", "LlamaModel", `{}`, "config.json says LlamaModel, a model without its head"},
	} {
		dir := made(t, v.base, v.change)
		want, _ := logitsOf(t, dir, ids)
		r, err := formats.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var list []formats.NamedTensor
		tensors := r.Tensors()
		for i := range tensors {
			x := &tensors[i]
			data, err := r.Read(x)
			if err != nil {
				t.Fatal(err)
			}
			if x.Name != headName {
				name := strings.TrimPrefix(strings.TrimPrefix(x.Name, "model."), "transformer.")
				list = append(list, formats.NamedTensor{Name: name, DType: "F32", Shape: x.Shape, Data: data})
			}
		}
		config := string(r.Config())
		_, after, _ := strings.Cut(config, `"architectures":["`)
		full, _, _ := strings.Cut(after, `"`)
		bare := t.TempDir()
		if err = os.WriteFile(filepath.Join(bare, "config.json"), []byte(strings.Replace(config, full, v.class, 1)), 0o666); err == nil {
			err = formats.WriteSafetensors(filepath.Join(bare, "model.safetensors"), list, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if v.refused != "" {
			if _, err := arch.Open(bare); err == nil || !strings.Contains(err.Error(), v.refused) {
				t.Errorf("%s: %v, want %q", v.class, err, v.refused)
			}
			continue
		}
		got, _ := logitsOf(t, bare, ids)
		near(t, v.class, got, want, 0)
		out := filepath.Join(t.TempDir(), "b")
		if err := (&arch.Dense{Path: out}).Write(context.Background(), cpu.New(cpu.Options{}), open(t, bare), nil); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(out, "config.json")); err != nil || !strings.Contains(string(raw), full) {
			t.Errorf("%s is written as %s (%v), want %s", v.class, raw, err, full)
		}
	}
}
