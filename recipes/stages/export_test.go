package stages

import (
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestFloatType: a safetensors export is f32, f16 or bf16 and nothing else, for
// the plan as for the run.
func TestFloatType(t *testing.T) {
	for name, want := range map[string]dtype.Kind{"F32": dtype.F32, "f16": dtype.F16, "BF16": dtype.BF16} {
		if got, err := floatType(name); err != nil || got != dtype.Of(want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "auto", "Q4_K_M"} {
		if _, err := exportedTypes(&Export{Format: "safetensors"}, nil, name); fail.Code(err) != int(fail.Usage) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
