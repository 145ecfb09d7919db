package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestNotFinite: answers and measurements of a model that computes NaN are
// errors, not tokens and not faults of the program.
func TestNotFinite(t *testing.T) {
	const from = "../../../recipes/pocket/model"
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "model.safetensors" {
			copy(b[len(b)-64:], bytes.Repeat([]byte{0xc0, 0x7f}, 32)) // NaN in BF16
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := filepath.Join(dir, "a.txt")
	if err := os.WriteFile(text, []byte("The capital of France is Paris, and so on.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"generate", "--model", dir, "--prompt", "a", "--max-new-tokens", "2"},
		{"generate", "--model", dir, "--prompt", "a", "--max-new-tokens", "2", "--temperature", "1"},
		{"eval", "--model", dir, "--data", text, "--tasks", "perplexity"},
		{"eval", "--model", from, "--reference", dir, "--data", text, "--tasks", "kl"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), "tune", argv, &out, &out); code != int(fail.Numeric) || !strings.Contains(out.String(), "NaN") && !strings.Contains(out.String(), "not finite") {
			t.Errorf("%v: exit %d: %s", argv, code, &out)
		}
	}
}

// TestCountNotFinite: NaN and both infinities are counted, the largest number is not.
func TestCountNotFinite(t *testing.T) {
	b := []byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0x7f, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f, 0x7f, 0, 0, 0, 0, 1, 0, 0x80, 0xff}
	if n := notFinite(b); n != 4 {
		t.Errorf("%d of the 6 numbers are not finite, want 4", n)
	}
}
