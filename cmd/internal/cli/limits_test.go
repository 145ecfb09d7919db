package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// TestLimitHints: a refusal of memory names the option that limits it, and the least value
// of what counts there.
func TestLimitHints(t *testing.T) {
	var in [kernels.NumPurposes]int64
	in[kernels.Weights], in[kernels.Host], in[kernels.Mapped] = 10<<20, 100<<20, 1000<<20
	for _, c := range []struct {
		e              kernels.MemoryError
		hint, no, says string
	}{
		{kernels.MemoryError{Purpose: kernels.Scratch, Asked: 1 << 20, Process: kernels.ProcessLimit{Bytes: 64 << 20, Program: 8 << 20}, InUse: in}, "--memory-limit 119MiB at least", "device_memory_limit", "host 100 MiB"},
		{kernels.MemoryError{Purpose: kernels.Scratch, Asked: 1 << 20, Limit: 10 << 20, Copies: true, InUse: in}, "device_memory_limit: 11MiB at least", "--memory-limit", "in use are weights 10 MiB"},
		{kernels.MemoryError{Purpose: kernels.Host, Asked: 1 << 20, Limit: 100 << 20, Copies: true, InUse: in}, "a larger --memory-limit, of which a GPU may pin half", "MiB", "over the 100 MiB that may be pinned, in use are 100 MiB"},
	} {
		err := limits(fmt.Errorf("step: %w", &c.e))
		if h := fail.Hint(err); fail.Code(err) != int(fail.Limit) || !strings.Contains(h, c.hint) || strings.Contains(h, c.no) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "host 100 MiB") == c.e.Copies {
			t.Errorf("%v: hint %q, want %q", err, h, c.hint)
		}
	}
}
