package train

import (
	"math"
	"os"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/cuda"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
)

// TestTrainCUDA: two steps of LoRA with dropout, clipping and AdamW on the kernels
// of the CUDA backend, interpreted, have the losses that the CPU computes. (With
// TUNEKIT_ALL=1: interpretation takes a while. No GPU has run them yet.)
func TestTrainCUDA(t *testing.T) {
	if os.Getenv("TUNEKIT_ALL") == "" {
		t.Skip("TUNEKIT_ALL=1 runs it")
	}
	gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer gpu.Close()
	var loss []float64
	for _, dev := range []kernels.Backend{cpu.New(cpu.Options{}), gpu} {
		j := smallJobOn(t, t.TempDir(), dev)
		j.Config.MaxSteps, j.Config.GradientAccumulationSteps, j.MaxLength = 2, 1, 48
		j.Config.SaveSteps, j.Config.EvalSteps, j.Val = Every{}, Every{}, data.Examples{}
		res, err := Run(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		loss = append(loss, res.Loss)
	}
	if math.Abs(loss[0]-loss[1]) > 1e-5*loss[0] || loss[0] == 0 {
		t.Errorf("the loss of the second step is %v on the CPU and %v on interpreted kernels", loss[0], loss[1])
	}
	t.Logf("losses %v", loss)
}
