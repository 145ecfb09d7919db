package train

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/par"
	"github.com/tunekit/tunekit/lora"
)

// losses runs j and returns the losses of its steps.
func losses(t *testing.T, j Job) []float64 {
	t.Helper()
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	var out []float64
	for _, m := range steps {
		out = append(out, m.Loss)
	}
	return out
}

// TestAccumulation: eight rows at once or one by one are the same step, dropout
// included.
func TestAccumulation(t *testing.T) {
	run := func(micro, accum int) []float64 {
		j := smallJob(t, t.TempDir())
		j.Packing, j.Val = "none", data.Examples{}
		j.Config.MaxSteps, j.Config.MicroBatchSize, j.Config.GradientAccumulationSteps = 8, micro, accum
		return losses(t, j)
	}
	whole := run(8, 1)
	for _, split := range [][2]int{{1, 8}, {4, 2}, {2, 4}} {
		for i, l := range run(split[0], split[1]) {
			if math.Abs(l-whole[i]) > 1e-6*whole[i] {
				t.Errorf("%d×%d step %d: loss %v, at once %v", split[0], split[1], i, l, whole[i])
			}
		}
	}
}

// TestPacking: packed or not, an epoch in one step has the same loss: samples
// do not see each other.
func TestPacking(t *testing.T) {
	run := func(packing string) float64 {
		j := smallJob(t, t.TempDir())
		j.Packing, j.Val = packing, data.Examples{}
		j.Config.MaxSteps, j.Config.MicroBatchSize, j.Config.GradientAccumulationSteps = 1, 4, 64
		return losses(t, j)[0]
	}
	if a, b := run("bfd"), run("none"); math.Abs(a-b) > 1e-6*a {
		t.Errorf("packed %v, alone %v", a, b)
	}
}

// TestThreads: one thread or two, the same bits.
func TestThreads(t *testing.T) {
	old := par.Threads()
	defer par.SetThreads(old)
	var hashes, curves []string
	for _, n := range []int{1, 2} {
		par.SetThreads(n)
		j := smallJob(t, t.TempDir())
		losses(t, j)
		hashes, curves = append(hashes, hash(t, j)), append(curves, curveOf(t, j.Dir))
	}
	if hashes[0] != hashes[1] || curves[0] != curves[1] {
		t.Error("the number of threads changes the result")
	}
}

// TestRecompute: gradient checkpointing changes no bit, and auto switches it on
// where the limit of memory asks for it.
func TestRecompute(t *testing.T) {
	want, _ := straight(t)
	j := smallJob(t, t.TempDir())
	j.Config.GradientCheckpointing = "true"
	losses(t, j)
	if hash(t, j) != want {
		t.Error("gradient checkpointing changes the result")
	}
	j = smallJob(t, t.TempDir())
	j.Model.RecomputeBlocks = 1 // of two
	losses(t, j)
	if hash(t, j) != want {
		t.Error("gradient checkpointing of a part of the blocks changes the result")
	}
}

// TestHalf: with dtype bf16 what is kept is smaller, checkpointing changes no
// bit of it either, and the losses stay those of float32 up to its rounding.
func TestHalf(t *testing.T) {
	run := func(dt string, recompute int) (string, []float64, int64) {
		j := smallJob(t, t.TempDir())
		j.Config.DType, j.Model.RecomputeBlocks = dt, recompute
		curve := losses(t, j)
		return hash(t, j), curve, j.Model.Dev.Info().Mem.Peak[kernels.Activations]
	}
	_, exact, whole := run("f32", 0)
	plain, curve, half := run("bf16", 0)
	again, _, _ := run("bf16", 1)
	if plain != again {
		t.Error("gradient checkpointing changes the result")
	}
	if float64(half) > 0.8*float64(whole) {
		t.Errorf("%d bytes of activations, in float32 %d", half, whole)
	}
	for i, l := range curve {
		if math.Abs(l-exact[i]) > 0.01*exact[i] {
			t.Errorf("step %d: loss %v, in float32 %v", i+1, l, exact[i])
		}
	}
}

// rehearsed measures smallJob on a dry device with a limit.
func rehearsed(t *testing.T, limit int64, setting Auto) (*Rehearsal, error) {
	t.Helper()
	src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-qwen2"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dev := dry.New(dry.Options{MemoryLimit: limit})
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ad, err := lora.Apply(m, lora.Config{R: 4, Dropout: 0.1}, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Close()
	j := smallJob(t, filepath.Join(t.TempDir(), "absent"))
	j.Model, j.Adapter, j.Config.GradientCheckpointing = m, ad, setting
	r, err := Rehearse(context.Background(), j)
	if _, serr := os.Stat(j.Dir); serr == nil {
		t.Error("a rehearsal wrote files")
	}
	return r, err
}

// TestRehearse: a dry run says what the run then uses, and a limit below it
// leads to gradient checkpointing or to an error of kind Limit.
func TestRehearse(t *testing.T) {
	free, err := rehearsed(t, 0, "auto")
	if err != nil {
		t.Fatal(err)
	}
	if free.Steps != 24 || free.Recompute != 0 || free.Trainable == 0 || free.MicroTokens == 0 || free.MicroTokens > 96 {
		t.Errorf("%+v", free)
	}
	slim, err := rehearsed(t, 0, "true")
	if err != nil {
		t.Fatal(err)
	}
	if !(slim.PeakTotal < free.PeakTotal) {
		t.Fatalf("peak %d with gradient checkpointing, %d without", slim.PeakTotal, free.PeakTotal)
	}
	between := (slim.PeakTotal + free.PeakTotal) / 2
	if r, err := rehearsed(t, between, "auto"); err != nil || r.Recompute == 0 {
		t.Errorf("limit between: %+v %v", r, err)
	}
	for limit, setting := range map[int64]Auto{between: "false", slim.PeakTotal * 9 / 10: "auto"} {
		if _, err := rehearsed(t, limit, setting); fail.Code(err) != int(fail.Limit) {
			t.Errorf("limit %d, %s: %v", limit, setting, err)
		}
	}
}

// TestMemoryShort: a real run under a limit does the same as without, or stops
// with its state saved.
func TestMemoryShort(t *testing.T) {
	want, _ := straight(t)
	free := smallJob(t, t.TempDir())
	losses(t, free)
	peak := free.Model.Dev.Info().PeakTotal
	slim := smallJob(t, t.TempDir())
	slim.Config.GradientCheckpointing = "true"
	losses(t, slim)
	low := slim.Model.Dev.Info().PeakTotal
	if !(low < peak) {
		t.Fatalf("peak %d with gradient checkpointing, %d without", low, peak)
	}
	j := limited(t, (low+peak)/2)
	var said []string
	j.Log = func(s string) { said = append(said, s) }
	losses(t, j)
	if hash(t, j) != want || !strings.Contains(strings.Join(said, "\n"), "gradient checkpointing of") {
		t.Errorf("adapter equal %v, said %q", hash(t, j) == want, said)
	}
	j = limited(t, low*9/10)
	if _, err := Run(context.Background(), j); fail.Code(err) != int(fail.Limit) {
		t.Errorf("error %v", err)
	}
}

// limited is smallJob on a device with a limit of memory.
func limited(t *testing.T, limit int64) Job {
	t.Helper()
	dev := cpu.New(cpu.Options{MemoryLimit: limit})
	return smallJobOn(t, t.TempDir(), dev)
}

// change replaces j's training samples by changed copies.
func change(j *Job, f func([]data.Example)) {
	ex, _ := j.Train.Read(j.Train.Len()) // in memory
	f(ex)
	j.Train = data.InMemory(ex...)
}

// TestNoSupervision: a step without a supervised token is an error, never a
// loss of zero.
func TestNoSupervision(t *testing.T) {
	j := smallJob(t, t.TempDir())
	change(&j, func(ex []data.Example) {
		for i := range ex {
			ex[i].Loss = nil
		}
	})
	if _, err := Run(context.Background(), j); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "no supervised token") {
		t.Errorf("error %v", err)
	}
}

// TestProgress: what a bar shows.
func TestProgress(t *testing.T) {
	j := smallJob(t, t.TempDir())
	var last Progress
	evals, n := 0, 0
	j.Progress = func(p Progress) {
		if p.Step < last.Step || p.Total != 24 || p.Tokens < last.Tokens {
			t.Errorf("%+v after %+v", p, last)
		}
		if p.Step > 0 && !(p.Loss > 0 && p.PerSecond > 0 && p.ETA >= 0 && p.Memory > 0) {
			t.Errorf("%+v", p)
		}
		if p.Evaluating {
			evals++
		}
		last = p
		n++
	}
	res, err := Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	if last.Step != 24 || last.SavedStep != 24 || last.Val != res.ValLoss || evals == 0 || n < 24*2 || last.ETA != 0 {
		t.Errorf("%d calls, %d of validation, last %+v", n, evals, last)
	}
	if kernels.Total(res.Memory.Peak) == 0 || res.Memory.Peak[kernels.Optimizer] != 8*res.Trainable || res.Memory.Peak[kernels.Gradients] < 4*res.Trainable {
		t.Errorf("memory %+v for %d values", res.Memory, res.Trainable)
	}
}
