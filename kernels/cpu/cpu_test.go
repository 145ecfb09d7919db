package cpu_test

import (
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

var _ kernels.Backend = (*cpu.CPU)(nil)

// TestBackend runs the conformance suite at every level this processor has.
func TestBackend(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			kerneltest.Run(t, cpu.New(cpu.Options{}))
		})
	}
}
