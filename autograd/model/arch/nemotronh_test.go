package arch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// A Nemotron-H that says attention_bias and has no biases is what Transformers 5.23 makes
// of it, whose class has none (its forward pass of the two configs is the same); with
// biases they are its own code's (TestVariants).
func TestNemotronBiases(t *testing.T) {
	from := testdir.Shared(t, "golden/arch/nemotron-h")
	config := string(testdir.ReadFile(t, filepath.Join(from, "config.json")))
	said := strings.Replace(config, `"attention_bias": false`, `"attention_bias": true`, 1)
	if said == config {
		t.Fatal("the case does not say attention_bias: false")
	}
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(said), 0o666)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "model.safetensors"), testdir.ReadFile(t, filepath.Join(from, "model.safetensors")), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	ids := []int32{1, 40, 3, 3, 100, 17}
	want, _ := logitsOf(t, from, ids)
	got, _ := logitsOf(t, dir, ids)
	near(t, "logits", got, want, 0)
}
