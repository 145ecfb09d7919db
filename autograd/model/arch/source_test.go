package arch

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
)

// fake is a folder without weights.
type fake struct {
	formats.Reader
	config string
}

func (f fake) Path() string   { return "fake" }
func (f fake) Format() string { return "hf" }
func (f fake) Config() []byte { return []byte(f.config) }

// TestUnknownArchitecture: the error lists what there is and names the nearest.
func TestUnknownArchitecture(t *testing.T) {
	_, err := FromReader(fake{config: `{"architectures":["LlamaForCausalLN"],"model_type":"lama"}`})
	for _, want := range []string{"LlamaForCausalLN", "did you mean LlamaForCausalLM?", "known: llama, qwen2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error says %v, want %s", err, want)
		}
	}
}
