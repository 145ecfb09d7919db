package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestVLLMAdapter: a line only where vLLM takes the adapter as it is, by its
// PEFTHelper and the ranks of its --max-lora-rank.
func TestVLLMAdapter(t *testing.T) {
	golden := testdir.Shared(t, "golden/train/lora")
	from := filepath.Join(golden, "lora", "adapter")
	plain := t.TempDir()
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		if err := os.WriteFile(filepath.Join(plain, name), testdir.ReadFile(t, filepath.Join(from, name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for base, want := range map[string]string{
		"models/M":        "vllm serve models/M --enable-lora --max-lora-rank 8 --lora-modules n=" + plain,
		"hf://org/M@v1":   "vllm serve org/M --revision v1 --enable-lora --max-lora-rank 8 --lora-modules n=" + plain,
		"models/M.gguf":   "",
		"":                "",
		"embedded:a/base": "",
	} {
		if got := vllmAdapter(base, "n", plain); got != want {
			t.Errorf("%s: %q, want %q", base, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(plain, templateFile), []byte("{{ messages }}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := vllmAdapter("m", "n", plain); !strings.HasSuffix(got, " --chat-template "+filepath.Join(plain, templateFile)) {
		t.Errorf("the template is not served: %q", got)
	}
	for _, set := range []string{"dora", "modules_to_save", "patterns", "moe_experts"} {
		dir := filepath.Join(golden, set, "adapter")
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		if got := vllmAdapter("m", "n", dir); got != "" {
			t.Errorf("%s: %q", set, got)
		}
	}
	for r, want := range map[int]int{1: 8, 8: 8, 12: 16, 512: 512, 513: 0} {
		if got := vllmRank(r); got != want {
			t.Errorf("rank %d: %d, want %d", r, got, want)
		}
	}
}
