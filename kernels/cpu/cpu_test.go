package cpu_test

import (
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

var _ kernels.Backend = (*cpu.CPU)(nil)

// TestBackend runs the conformance suite at every level this processor has; with -short its smaller cases.
func TestBackend(t *testing.T) {
	var part kerneltest.Part
	if testing.Short() {
		part.Most = 1 << 16
	}
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			kerneltest.RunPart(t, cpu.New(cpu.Options{}), part)
		})
	}
}
