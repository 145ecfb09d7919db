package cuda

import (
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

var _ kernels.Backend = (*CUDA)(nil)

// interpreted is a device whose kernels are interpreted.
func interpreted(t *testing.T) (*CUDA, *ptxsim.Sim) {
	t.Helper()
	sim := ptxsim.New(1 << 30)
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c, sim
}

// there is p without the types that the backend lacks.
func there(p kerneltest.Part) kerneltest.Part {
	read, made := Types()
	for _, k := range dtype.Kinds() {
		if !slices.Contains(read, k) {
			p.Kinds = append(p.Kinds, k)
		}
		if !slices.Contains(made, k) {
			p.Rounds = append(p.Rounds, k)
		}
	}
	return p
}

// TestBackend runs the conformance suite on interpreted kernels.
func TestBackend(t *testing.T) {
	c, sim := interpreted(t)
	kerneltest.RunPart(t, c, there(kerneltest.Part{Most: 12000, MostBF16: 1 << 20}))
	c.Close()
	if n := sim.Leaks(); n != 0 {
		t.Errorf("%d bytes are still allocated", n)
	}
}
