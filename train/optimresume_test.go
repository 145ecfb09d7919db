package train

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
)

// optimJob is a run of six steps under an optimizer, with an average of weights
// where it goes with it and options that make everything happen within the run.
func optimJob(t *testing.T, name OptimizerName, dir string, dev kernels.Backend) Job {
	t.Helper()
	j := smallJobOn(t, dir, dev)
	c := Config{Optimizer: name, MaxSteps: 6, MicroBatchSize: 1, GradientAccumulationSteps: 1, DType: "f32", SaveSteps: Every{Steps: 2}, EvalSteps: Every{Steps: 3}, LoRA: j.Config.LoRA, WeightDecay: 0.01}
	kind := optimizers[name]
	for key, set := range map[string]func(){
		"min_8bit_size":          func() { c.OptimArgs.Min8BitSize = ptr(100) },
		"rank":                   func() { c.OptimArgs.Rank = ptr(2) },
		"update_proj_gap":        func() { c.OptimArgs.UpdateProjGap = ptr(3) },
		"precondition_frequency": func() { c.OptimArgs.PreconditionFrequency = ptr(2) },
	} {
		if kind.has(key) {
			set()
		}
	}
	if !kind.free() {
		c.EMADecay = ptr(0.9)
	}
	c, err := c.Resolve(7)
	if err != nil {
		t.Fatal(err)
	}
	j.Config, j.Val = c, data.Examples{}
	j.Config.EvalSteps = Every{Off: true}
	return j
}

// TestOptimizersResume: under every optimizer a run that was stopped and goes on
// from its checkpoint ends in the bits of one that was not, and its state takes
// the memory that was planned.
func TestOptimizersResume(t *testing.T) {
	for _, name := range names(optimizers) {
		t.Run(name, func(t *testing.T) {
			res := goesOn(t, func(dir string) Job { return optimJob(t, OptimizerName(name), dir, device(t)) })
			plan, err := Rehearse(context.Background(), optimJob(t, OptimizerName(name), "", dry.New(dry.Options{})))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := plan.Memory.Peak[kernels.Optimizer], res.Memory.Peak[kernels.Optimizer]; got != want {
				t.Errorf("the plan has %d bytes of state, the run %d", got, want)
			}
		})
	}
}

// TestReactiveResume: so does one whose rates follow from its validations.
func TestReactiveResume(t *testing.T) {
	goesOn(t, func(dir string) Job {
		j := smallJob(t, dir)
		j.Config.MaxSteps, j.Config.EvalSteps, j.Config.LRScheduler = 6, Every{Steps: 1}, "reduce_lr_on_plateau"
		j.Config.LRArgs = map[string]Scalar{"patience": "0", "threshold": "0.5"}
		return j
	})
}

// TestOffload: a run whose optimizer state and block inputs lie in mapped files has
// the bits of one in memory, goes on from its checkpoint, and takes the memory that
// was planned, none of it for what lies in files.
func TestOffload(t *testing.T) {
	for _, name := range []OptimizerName{"adamw", "adamw_8bit", "galore_adamw", "prodigy"} {
		t.Run(string(name), func(t *testing.T) {
			made := func(dir string, dev kernels.Backend, where string) Job {
				j := optimJob(t, name, dir, dev)
				j.Config.GradientCheckpointing, j.Config.OffloadOptimizer, j.Config.ActivationOffloading = "true", where, where
				return j
			}
			in := made(t.TempDir(), device(t), "none")
			inMemory, err := Run(context.Background(), in)
			if err != nil {
				t.Fatal(err)
			}
			want := hash(t, in)
			on := made(t.TempDir(), device(t), onDisk)
			if _, err := Run(context.Background(), on); err != nil {
				t.Fatal(err)
			}
			if hash(t, on) != want {
				t.Error("other weights than in memory")
			}
			res := goesOn(t, func(dir string) Job { return made(dir, device(t), onDisk) })
			if got := res.Memory.Peak[kernels.Optimizer] + res.Memory.Peak[kernels.Host]; got != 0 {
				t.Errorf("%d bytes of state in memory", got)
			}
			if got, less := res.Memory.Peak[kernels.Activations], inMemory.Memory.Peak[kernels.Activations]; got >= less {
				t.Errorf("%d bytes of activations, %d without files", got, less)
			}
			plan, err := Rehearse(context.Background(), made("", dry.New(dry.Options{}), onDisk))
			if err != nil {
				t.Fatal(err)
			}
			state := inMemory.Memory.Peak[kernels.Optimizer]
			if plan.Spilled <= state {
				t.Errorf("%d bytes of files are planned, the state alone has %d", plan.Spilled, state)
			}
			for _, p := range []kernels.Purpose{kernels.Optimizer, kernels.Mapped} {
				if got, want := plan.Memory.Peak[p], res.Memory.Peak[p]; got != want {
					t.Errorf("the plan has %d bytes of %v, the run %d", got, p, want)
				}
			}
		})
	}
}

// TestOffloadNeedsProcessor: a device with memory of its own cannot read a file, and the
// processor has no other memory than the host's.
func TestOffloadNeedsProcessor(t *testing.T) {
	j := optimJob(t, "adamw", "", dry.New(dry.Options{Label: "cuda:0"}))
	for key, set := range map[string]func(*Config){
		"offload_optimizer": func(c *Config) { c.OffloadOptimizer = onDisk }, "activation_offloading": func(c *Config) { c.ActivationOffloading = onDisk },
	} {
		k := j
		set(&k.Config)
		if _, err := Rehearse(context.Background(), k); fail.Code(err) != 2 || fail.Hint(err) == "" || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "cuda:0") {
			t.Errorf("%s: %v", key, err)
		}
	}
	j = optimJob(t, "adamw", "", device(t))
	j.Config.OffloadOptimizer = inHost
	if _, err := Rehearse(context.Background(), j); fail.Code(err) != 2 || !strings.Contains(err.Error(), "offload_optimizer: cpu") {
		t.Errorf("the host's memory of the processor: %v", err)
	}
}

// goesOn runs job whole, and again stopped after its fourth step.
func goesOn(t *testing.T, job func(dir string) Job) *Result {
	whole := job(t.TempDir())
	start := hash(t, whole)
	straight, err := Run(context.Background(), whole)
	if err != nil {
		t.Fatal(err)
	}
	want := hash(t, whole)
	if want == start {
		t.Fatal("nothing was learned")
	}
	dir := t.TempDir()
	j := job(dir)
	ctx, stop := context.WithCancel(context.Background())
	j.Progress = func(p Progress) {
		if p.Step == 4 {
			stop()
		}
	}
	if _, err := Run(ctx, j); fail.Code(err) != int(fail.Interrupted) {
		t.Fatalf("stopped run: %v", err)
	}
	j = job(dir)
	res, err := Run(context.Background(), j)
	if err != nil {
		t.Fatal(err)
	}
	if res.Resumed < 4 {
		t.Errorf("resumed at step %d", res.Resumed)
	}
	if hash(t, j) != want || curveOf(t, dir) != curveOf(t, whole.Dir) {
		t.Error("going on from a checkpoint changes the result")
	}
	return straight
}

// TestStack: experts that lie one below another are updated as matrices of their own.
func TestStack(t *testing.T) {
	const experts, rows, cols = 3, 8, 12
	x, g := make([]float64, experts*rows*cols), make([]float64, experts*rows*cols)
	normal(x, 1, 0, 0, 1)
	normal(g, 2, 0, 0, 1)
	narrow := func(v []float64) []float32 {
		out := make([]float32, len(v))
		for i := range v {
			out[i] = float32(v[i])
		}
		return out
	}
	for _, name := range []OptimizerName{"muon", "galore_adamw", "apollo_adamw", "soap"} {
		c := Config{Optimizer: name, LearningRate: ptr(0.01), WeightDecay: 0.1}
		if optimizers[name].has("rank") {
			c.OptimArgs.Rank = ptr(2)
		}
		c, err := c.Resolve(1)
		if err != nil {
			t.Fatal(err)
		}
		run := func(count, stack int) (out []float32) {
			dev := device(t)
			var ps []param
			n := len(x) / count
			for i := range count {
				p := param{Param: place(t, dev, "w", narrow(x[i*n:(i+1)*n])), off: i * n, rate: 1, decay: 0.1, matrix: true, stack: stack, block: cols}
				p.Rows, p.Cols = n/cols, cols
				ps = append(ps, p)
			}
			o, err := newOptimizer(dev, c, &Schedule{}, ps, "")
			if err != nil {
				t.Fatal(err)
			}
			defer o.release()
			for step := 1; step <= 3; step++ {
				for i, p := range ps {
					dev.Run(func() error { dev.Upload(p.Grad, kernels.Bytes(narrow(g[i*n:(i+1)*n]))); return nil })
				}
				if _, err := o.norm(); err != nil {
					t.Fatal(err)
				}
				if err := o.step(step, 0.01); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range ps {
				out = append(out, values(t, dev, p.Buffer)...)
			}
			return out
		}
		if together, apart := run(1, experts), run(experts, 0); !slices.Equal(together, apart) || slices.Equal(apart, narrow(x)) {
			t.Errorf("%s: a stack is not updated as its experts are", name)
		}
	}
}
