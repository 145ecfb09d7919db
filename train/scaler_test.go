package train

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestScalerGolden follows torch.amp.GradScaler step by step: what it scales by,
// which steps it leaves out, and when it grows.
func TestScalerGolden(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train"), "loss_scale.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Runs []struct {
			Args struct {
				Init     float64 `json:"init_scale"`
				Growth   float64 `json:"growth_factor"`
				Backoff  float64 `json:"backoff_factor"`
				Interval int     `json:"growth_interval"`
			}
			Steps []struct {
				Overflow, Skipped bool
				Before            float32 `json:"scale_before"`
				After             float32 `json:"scale_after"`
				Good              int     `json:"growth_tracker"`
			}
		}
	}
	if err := json.Unmarshal(text, &golden); err != nil || len(golden.Runs) < 4 {
		t.Fatal(len(golden.Runs), err)
	}
	for i, g := range golden.Runs {
		s := newScaler(GradScaler{&g.Args.Init, &g.Args.Growth, &g.Args.Backoff, &g.Args.Interval})
		skipped := 0
		for k, step := range g.Steps {
			if s.Scale != step.Before {
				t.Fatalf("run %d, step %d: the scale is %v, torch has %v", i, k, s.Scale, step.Before)
			}
			s.update(!step.Overflow)
			if step.Skipped {
				skipped++
			}
			if s.Scale != step.After || s.Good != step.Good || s.Skipped != skipped {
				t.Fatalf("run %d, step %d: scale %v, %d good, %d skipped; torch has %v, %d, %d", i, k, s.Scale, s.Good, s.Skipped, step.After, step.Good, skipped)
			}
		}
	}
}

// fp16Job is a run of six steps whose first scale is so large that steps overflow.
func fp16Job(t *testing.T, dir string, scale float64) Job {
	j := optimJob(t, "adamw", dir, device(t))
	j.Config.DType, j.Config.MaxSteps = fp16, 6
	j.Config.GradScaler = GradScaler{InitScale: &scale, GrowthInterval: ptr(2)}
	j.Val = data.Examples{}
	return j
}

// TestFP16: steps that overflow are left out, counted and shown; the others learn as
// in float32; and a run that was stopped goes on with its scale.
func TestFP16(t *testing.T) {
	run := func(j Job) ([]Metrics, *Result) {
		res, err := Run(context.Background(), j)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		return m, res
	}
	plain := optimJob(t, "adamw", t.TempDir(), device(t))
	want, _ := run(plain)
	got, _ := run(fp16Job(t, t.TempDir(), 1024))
	for i, m := range got {
		if m.Skipped || m.LossScale != 1024*float32(math.Pow(2, float64(i/2))) {
			t.Errorf("step %d: skipped %v at scale %v", m.Step, m.Skipped, m.LossScale)
		}
		if d := math.Abs(m.Loss - want[i].Loss); d == 0 || d > 2e-3*want[i].Loss {
			t.Errorf("step %d: loss %v, in float32 %v", m.Step, m.Loss, want[i].Loss)
		}
		if d := math.Abs(m.GradNorm - want[i].GradNorm); d == 0 || d > 2e-2*want[i].GradNorm {
			t.Errorf("step %d: gradient norm %v, in float32 %v", m.Step, m.GradNorm, want[i].GradNorm)
		}
	}
	over, _ := run(fp16Job(t, t.TempDir(), 1<<19))
	skipped := 0
	for _, m := range over {
		if m.Skipped {
			skipped++
			if m.GradNorm != 0 {
				t.Errorf("step %d: left out with a gradient norm of %v", m.Step, m.GradNorm)
			}
		}
	}
	if skipped == 0 || skipped == len(over) {
		t.Fatalf("%d of %d steps are left out", skipped, len(over))
	}
	goesOn(t, func(dir string) Job { return fp16Job(t, dir, 1<<19) })
}

// TestFP16NoLoss: a loss that is no number is null in the log and never an older one; the
// third in a row ends the run, for no scale mends it. Data sets and values of the objective
// are left out with it, and no such step is a spike.
func TestFP16NoLoss(t *testing.T) {
	for _, name := range []OptimizerName{"sgd", "adamw"} {
		j := sourcedJob(t, "sft")
		j.Val, j.Config.DType, j.Config.MaxSteps = data.Examples{}, fp16, 24
		j.Config.Optimizer, j.Config.LearningRate, j.Config.MaxGradNorm, j.Config.WarmupRatio = name, ptr(1e30), ptr(0.0), ptr(0.0)
		j.Config.GradScaler, j.Config.Momentum = GradScaler{InitScale: ptr(1.0)}, ptr(0.0)
		_, err := Run(context.Background(), j)
		if fail.Code(err) != int(fail.Numeric) || !strings.Contains(err.Error(), "loss NaN") {
			t.Errorf("%s: %v", name, err)
		}
		steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		lost := 0
		for _, m := range steps {
			if !finite(m.Loss) {
				lost++
				if !m.Skipped || len(m.Sources)+len(m.Spikes) != 0 {
					t.Errorf("%s: step %d: %+v", name, m.Step, m)
				}
			}
		}
		text, _ := os.ReadFile(filepath.Join(j.Dir, MetricsFile))
		if lost != mostNoLoss-1 || strings.Count(string(text), `"loss":null`) != lost {
			t.Errorf("%s: %d of %d steps without a loss:\n%s", name, lost, len(steps), text)
		}
	}
}

// TestFP16LossLostOnce: a step or two without a loss are left out; a third in a row is not.
func TestFP16LossLostOnce(t *testing.T) {
	r := &run{scaler: newScaler(GradScaler{}), total: 10}
	for i, loss := range []float64{1, math.NaN(), math.Inf(1), 1, math.NaN(), math.NaN(), math.NaN()} {
		m := Metrics{Loss: loss, GradNorm: 1, Objective: Values{{"a", loss}, {"b", 2}}}
		if !finite(loss) {
			m.GradNorm = math.NaN()
		}
		if over, want := r.overflowed(&m), !finite(loss) && i < 6; over != want || over && len(m.Objective) != 1 {
			t.Errorf("step %d with loss %v is left out: %v, want %v (%v)", i, loss, over, want, m.Objective)
		}
	}
	for range 5 { // gradients alone that overflow are torch's case
		if m := (Metrics{Loss: 1, GradNorm: math.Inf(1)}); !r.overflowed(&m) || m.Loss != 1 {
			t.Error("an overflow of gradients is an error")
		}
	}
	var s spikes
	if s.see(&Metrics{Skipped: true, Loss: math.NaN()}, true); len(s.loss)+len(s.norm) != 0 {
		t.Error("a step that was left out is remembered")
	}
}

// TestFP16Refused: what does not go with it.
func TestFP16Refused(t *testing.T) {
	c := Config{GradScaler: GradScaler{InitScale: ptr(2.0)}}
	if _, err := c.Resolve(1); fail.Code(err) != 2 || fail.Hint(err) != "set dtype: fp16" {
		t.Errorf("a scaler without fp16: %v", err)
	}
	if _, err := (Config{DType: fp16, Optimizer: "schedule_free_adamw"}).Resolve(1); fail.Code(err) != 2 {
		t.Errorf("schedule-free: %v", err)
	}
	if _, err := (Config{DType: fp16, GradScaler: GradScaler{BackoffFactor: ptr(1.5)}}).Resolve(1); fail.Code(err) != 2 {
		t.Errorf("a backoff that grows: %v", err)
	}
}
