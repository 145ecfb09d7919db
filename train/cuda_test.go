package train

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/cuda"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
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

// TestFP16CUDA: two steps of LoRA with products in half precision, of which the second
// overflows, have the losses, gradients and scales on the interpreted kernels of the CUDA
// backend that the CPU computes.
func TestFP16CUDA(t *testing.T) {
	gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer gpu.Close()
	var steps [2][]Metrics
	for i, dev := range []kernels.Backend{cpu.New(cpu.Options{}), gpu} {
		j := smallJobOn(t, t.TempDir(), dev)
		j.Config.MaxSteps, j.Config.GradientAccumulationSteps, j.MaxLength, j.Val = 2, 1, 48, data.Examples{}
		j.Config.SaveSteps, j.Config.EvalSteps = Every{}, Every{}
		j.Config.DType, j.Config.GradScaler = fp16, GradScaler{InitScale: ptr(16384.0), GrowthFactor: ptr(1e6), GrowthInterval: ptr(1)}
		if _, err := Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		if steps[i], _, err = ReadMetrics(filepath.Join(j.Dir, MetricsFile)); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range steps[0] {
		got := steps[1][i]
		if got.Skipped != want.Skipped || want.Skipped != (i == 1) || got.LossScale != want.LossScale {
			t.Errorf("step %d: skipped %v at scale %v, on the CPU %v at %v", i, got.Skipped, got.LossScale, want.Skipped, want.LossScale)
		}
		if math.Abs(got.Loss-want.Loss) > 1e-4*want.Loss || math.Abs(got.GradNorm-want.GradNorm) > 2e-3*want.GradNorm || !want.Skipped && want.GradNorm == 0 {
			t.Errorf("step %d: loss %v, gradients %v, on the CPU %v, %v", i, got.Loss, got.GradNorm, want.Loss, want.GradNorm)
		}
	}
}

// starting counts what starts kernels.
type starting struct {
	*ptxsim.Sim
	launches, replays, waits int
}

func (s *starting) Launch(f driver.Function, grid, block driver.Dim, shared uint32, params []byte) error {
	s.launches++
	return s.Sim.Launch(f, grid, block, shared, params)
}

func (s *starting) ToHost(b []byte, p driver.Ptr) error { s.waits++; return s.Sim.ToHost(b, p) }

func (s *starting) Replay(g driver.Graph) error { s.replays++; return s.Sim.Replay(g) }

// TestGraphCUDA: the steps of an answer are captured as graphs of kernels once they
// repeat; the tokens stay the same, and each waits for the GPU once. (On the interpreter: no GPU has run it.)
func TestGraphCUDA(t *testing.T) {
	var answers [][]int32
	var launches []int
	for _, on := range []bool{false, true} {
		sim := &starting{Sim: ptxsim.New(1 << 30)}
		gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, cuda.Options{Graphs: on})
		if err != nil {
			t.Fatal(err)
		}
		j := smallJobOn(t, t.TempDir(), gpu)
		out, err := engine.Run(t.Context(), j.Model, []engine.Request{{Prompt: []int32{97, 98, 99}, MaxNew: 24, Stop: []int32{-1}, Sampling: kernels.SampleRow{Temperature: 1, Seed: 3}}}, func(int64, int64) {})
		if err != nil {
			t.Fatal(err)
		}
		answers, launches = append(answers, out[0].IDs), append(launches, sim.launches)
		if (sim.replays > 0) != on {
			t.Errorf("graphs %v: %d replayed", on, sim.replays)
		}
		if sim.waits > len(out[0].IDs) {
			t.Errorf("graphs %v: %d waits for the GPU for %d tokens", on, sim.waits, len(out[0].IDs))
		}
		t.Logf("graphs %v: %d launches, %d replayed, %d tokens", on, sim.launches, sim.replays, len(out[0].IDs))
		j.Adapter.Close()
		j.Model.Close()
		gpu.Close()
	}
	if !slices.Equal(answers[0], answers[1]) || len(answers[0]) != 24 {
		t.Errorf("the tokens are %v, with graphs %v", answers[0], answers[1])
	}
	if launches[1] > launches[0]/2 {
		t.Errorf("%d launches, with graphs %d", launches[0], launches[1])
	}
}

// TestOffloadCUDA: with the optimizer's state and the inputs of blocks in the host's
// memory a step of LoRA has the same bits, nothing of them is in the GPU's, and the plan
// knows. (On the interpreter: no GPU has run it.)
func TestOffloadCUDA(t *testing.T) {
	gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{Staged: 1 << 24})
	if err != nil {
		t.Fatal(err)
	}
	defer gpu.Close()
	var steps [][]Metrics
	for _, where := range []string{"none", inHost} {
		job := func(dev kernels.Backend) Job {
			j := smallJobOn(t, t.TempDir(), dev)
			j.Config.MaxSteps, j.Config.GradientAccumulationSteps, j.MaxLength, j.Val = 2, 1, 48, data.Examples{}
			j.Config.SaveSteps, j.Config.EvalSteps, j.Config.DType, j.Config.GradientCheckpointing = Every{}, Every{}, "bf16", "true"
			j.Config.OffloadOptimizer, j.Config.ActivationOffloading = where, where
			j.Train = data.InMemory(filled(48))
			return j
		}
		plan, err := Rehearse(t.Context(), job(dry.New(dry.Options{Label: "cuda:0", Copies: true, Staged: gpu.Info().Staged, Working: gpu.Info().Working})))
		if err != nil {
			t.Fatal(err)
		}
		j := job(gpu)
		gpu.ResetCounters()
		res, err := Run(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, m)
		for _, p := range []kernels.Purpose{kernels.Optimizer, kernels.Host} {
			if n := res.Memory.Peak[p]; n != plan.Memory.Peak[p] || (n > 0) != ((p == kernels.Host) == (where == inHost)) {
				t.Errorf("%s: %d bytes of %v, the plan has %d", where, n, p, plan.Memory.Peak[p])
			}
		}
		j.Adapter.Close()
		j.Model.Close()
	}
	for i, want := range steps[0] {
		if got := steps[1][i]; got.Loss != want.Loss || got.GradNorm != want.GradNorm || want.GradNorm == 0 {
			t.Errorf("step %d: loss %v, gradients %v in the host's memory, %v and %v in the GPU's", i, got.Loss, got.GradNorm, want.Loss, want.GradNorm)
		}
	}
}

// filled is a text of n tokens, so that every step has as many.
func filled(n int) data.Example {
	e := sample(1)
	for len(e.IDs) < n {
		e.IDs = append(e.IDs, e.IDs...)
	}
	e.IDs, e.Loss = e.IDs[:n], [][2]int32{{20, int32(n)}}
	return e
}

// TestPlanCUDA: what a plan counts for a GPU is what the backend counts on the
// interpreter, to the byte, for a step of LoRA and of QLoRA in bf16, of LoRA in fp16, and for an answer.
func TestPlanCUDA(t *testing.T) {
	gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer gpu.Close()
	nf4 := dtype.NF4Double
	for _, c := range []struct {
		hold  *dtype.Type
		dtype string
	}{{nil, "bf16"}, {&nf4, "bf16"}, {nil, fp16}} {
		hold := c.hold
		job := func(dev kernels.Backend) Job {
			j := smallJobAs(t, t.TempDir(), dev, model.Options{Hold: hold})
			j.Config.MaxSteps, j.Config.GradientAccumulationSteps, j.Config.DType, j.MaxLength = 1, 1, c.dtype, 48
			j.Config.SaveSteps, j.Config.EvalSteps, j.Val = Every{}, Every{}, data.Examples{}
			j.Train = data.InMemory(filled(48))
			return j
		}
		counting := dry.New(dry.Options{Copies: gpu.Info().Copies, Working: gpu.Info().Working})
		planned := job(counting)
		plan, err := Rehearse(t.Context(), planned)
		if err != nil {
			t.Fatal(err)
		}
		j := job(gpu)
		gpu.ResetCounters()
		if _, err := Run(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		near := func(what string, planned, counted int64) {
			t.Logf("hold %v, %s: %s: planned %d, counted %d", hold, c.dtype, what, planned, counted)
			if planned != counted {
				t.Errorf("hold %v, %s: %s: %d bytes are planned, %d were counted", hold, c.dtype, what, planned, counted)
			}
		}
		in := gpu.Info()
		near("all", plan.PeakTotal, in.PeakTotal)
		near("scratch", plan.Memory.Peak[kernels.Scratch], in.Mem.Peak[kernels.Scratch])
		var peaks []int64
		for _, dev := range []kernels.Backend{counting, gpu} {
			m := map[bool]*model.Model{true: planned.Model, false: j.Model}[dev == counting]
			dev.ResetCounters()
			if _, err := engine.Run(t.Context(), m, []engine.Request{{Prompt: []int32{97, 98, 99}, MaxNew: 16, Sampling: kernels.SampleRow{Temperature: 1}}}, func(int64, int64) {}); err != nil {
				t.Fatal(err)
			}
			peaks = append(peaks, dev.Info().PeakTotal)
		}
		near("16 tokens of an answer", peaks[0], peaks[1])
		j.Adapter.Close()
		j.Model.Close()
	}
}

// TestPinnedRefused: where an optimizer's state does not fit into the memory of the host
// that may be pinned the plan refuses, as the run does, and says what to do.
func TestPinnedRefused(t *testing.T) {
	const room = 4 << 10
	gpu, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{Staged: room})
	if err != nil {
		t.Fatal(err)
	}
	defer gpu.Close()
	in := gpu.Info()
	counting := dry.New(dry.Options{Label: in.Name, MemoryLimit: in.Limit, Copies: in.Copies, Staged: in.Staged, Working: in.Working})
	for _, dev := range []kernels.Backend{counting, gpu} {
		j := smallJobOn(t, t.TempDir(), dev)
		j.Config.MaxSteps, j.Config.OffloadOptimizer, j.Val = 1, inHost, data.Examples{}
		j.Config.SaveSteps, j.Config.EvalSteps = Every{}, Every{}
		if dev == kernels.Backend(gpu) {
			_, err = Run(t.Context(), j)
		} else {
			_, err = Rehearse(t.Context(), j)
		}
		var short *kernels.MemoryError
		if !errors.As(err, &short) || !short.Pinned() || short.Limit != room || !strings.Contains(err.Error(), "over the 4.0 KiB that may be pinned") || !strings.Contains(fail.Hint(err), "offload_optimizer: none") {
			t.Errorf("%s: %v (hint %q)", dev.Info().Level, err, fail.Hint(err))
		}
		j.Adapter.Close()
		j.Model.Close()
	}
}
