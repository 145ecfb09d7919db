package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestVerifyModel: a folder whose tensors are sound and whose config describes
// another model is refused, as loading it is, and an adapter that cannot be read;
// what is no model or of an unknown architecture passes.
func TestVerifyModel(t *testing.T) {
	folder := func(name, config string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(config), 0o666); err != nil {
			t.Fatal(err)
		}
		err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), []formats.NamedTensor{{Name: "x", DType: "F32", Shape: []int64{1}, Data: make([]byte, 4)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	llama := `{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 8, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}`
	if _, err := VerifyModel(folder("config.json", llama)); fail.Code(err) != 3 || !strings.Contains(err.Error(), "model.embed_tokens.weight") {
		t.Errorf("error %v", err)
	}
	note, err := VerifyModel(folder("config.json", `{"architectures": ["BertModel"]}`))
	if err != nil || !strings.Contains(note, "BertModel") || strings.Contains(note, "corrupt") {
		t.Errorf("an unknown architecture: note %q, error %v", note, err)
	}
	if _, err = VerifyModel(folder("adapter_config.json", `{}`)); fail.Code(err) != 3 || !strings.Contains(err.Error(), "adapter_model.safetensors") {
		t.Errorf("an adapter without its weights: error %v", err)
	}
	if note, err = VerifyModel(folder("notes.json", `{}`)); err != nil || note != "" {
		t.Errorf("no model: note %q, error %v", note, err)
	}
}
