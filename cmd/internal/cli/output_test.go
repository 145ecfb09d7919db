package cli

import (
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestLogitsTo: logits may be written over logits, whatever the file is called,
// and over no other tensors.
func TestLogitsTo(t *testing.T) {
	for _, name := range []string{"out.safetensors", "out"} {
		path := filepath.Join(t.TempDir(), name)
		for tensor, want := range map[string]int{"logits": 0, "input_ids": 2} {
			err := formats.WriteSafetensors(path, []formats.NamedTensor{{Name: tensor, DType: "F32", Shape: []int64{1, 1, 1}, Data: make([]byte, 4)}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := logitsTo(path); fail.Code(err) != want {
				t.Errorf("%s with %s: %v", name, tensor, err)
			}
		}
	}
}
