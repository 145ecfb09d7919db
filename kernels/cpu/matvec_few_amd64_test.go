package cpu

import (
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// TestMatVecGathered: types whose points are looked up in registers have kernels for
// processors that cannot, too.
func TestMatVecGathered(t *testing.T) {
	if !mvTurns || level.Current() < level.AVX512 || !level.HasVNNI() {
		t.Skip("TestMatVec runs these kernels on this processor, or none")
	}
	mvTurns = false
	defer func() { mvTurns = true }()
	c := New(Options{})
	for k := range mvTurned {
		t.Run(k.String(), func(t *testing.T) { testMatVec(t, c, dtype.Of(k), 1792) })
	}
}
