package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// changedModel copies a model's weights beside its config with a key set.
func changedModel(t *testing.T, from, key string, v any) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), testdir.ReadFile(t, filepath.Join(from, "model.safetensors")), 0o644); err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(from, "config.json")), &config)
	if err == nil {
		config[key] = v
		var b []byte
		if b, err = json.Marshal(config); err == nil {
			err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestVerifyLoads: verify refuses what a model is refused for when it is used.
func TestVerifyLoads(t *testing.T) {
	lora := testdir.Shared(t, "golden/train/lora")
	tied := filepath.Join(lora, "base-qwen2")
	for _, c := range []struct {
		path string
		code int
		text string
	}{
		{tied, 0, "ok"},
		{filepath.Join(lora, "lora", "adapter"), 0, "ok"},
		{changedModel(t, tied, "tie_word_embeddings", false), 3, "lm_head.weight"},
		{changedModel(t, tied, "num_key_value_heads", 4), 3, "k_proj"},
		{filepath.Join(lora, "..", "lora2", "corda_ipm", "adapter"), 3, "init_lora_weights"},
	} {
		var out bytes.Buffer
		if code := run(context.Background(), "tune", []string{"verify", c.path}, &out, &out); code != c.code || !strings.Contains(out.String(), c.text) {
			t.Errorf("%s: exit %d: %s; want %d and %s", c.path, code, &out, c.code, c.text)
		}
	}
}

// TestFailedOutput: a command that fails after it has written leaves nothing,
// and what was there before.
func TestFailedOutput(t *testing.T) {
	lora := testdir.Shared(t, "golden/train/lora")
	out := filepath.Join(t.TempDir(), "merged")
	merge := []string{"merge", "--model", filepath.Join(lora, "base-llama"), "--adapter", filepath.Join(lora, "lora", "adapter"), "--output", out, "--storage", "bf16", "--max-kl"}
	var text bytes.Buffer
	if code := run(context.Background(), "tune", append(merge, "1e-12"), &text, &text); code != 5 {
		t.Fatalf("exit %d: %s", code, &text)
	}
	if _, err := os.Lstat(out); err == nil {
		t.Error("the output of a failed merge was left there")
	}
	if code := run(context.Background(), "tune", append(merge, "1"), &text, &text); code != 0 {
		t.Fatalf("exit %d: %s", code, &text)
	}
	before := testdir.ReadFile(t, filepath.Join(out, "model.safetensors"))
	if code := run(context.Background(), "tune", append(merge, "1e-12", "--force"), &text, &text); code != 5 {
		t.Fatalf("exit %d: %s", code, &text)
	}
	if !bytes.Equal(before, testdir.ReadFile(t, filepath.Join(out, "model.safetensors"))) {
		t.Error("what was there is another file")
	}
}
