package train

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/lora"
)

// resumed runs jobs that begin alike, one until step and one from there, and returns
// the second.
func resumed(t *testing.T, begin func() Job, step int) Job {
	t.Helper()
	first := begin()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first.Progress = func(p Progress) {
		if p.Step == step {
			cancel()
		}
	}
	if _, err := Run(ctx, first); fail.Code(err) != int(fail.Interrupted) {
		t.Fatalf("error %v", err)
	}
	second := begin()
	second.Dir = first.Dir
	losses(t, second)
	return second
}

// TestSyncRefModel compares the losses of a training whose reference comes after it:
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train sync (TRL 1.16.0).
func TestSyncRefModel(t *testing.T) {
	var cases []struct {
		Adapter AdapterName
		Rate    float64 `json:"learning_rate"`
		Alpha   float64 `json:"ref_model_mixup_alpha"`
		Losses  []float64
	}
	readJSON(t, "testdata/trl_sync.json", &cases)
	if len(cases) != 4 {
		t.Errorf("%d cases", len(cases))
	}
	for _, want := range cases {
		begin := func() Job {
			c := Config{Objective: "dpo", Adapter: want.Adapter, LearningRate: &want.Rate, LRScheduler: "constant", WarmupSteps: ptr(0), MaxGradNorm: ptr(0.0),
				MaxSteps: len(want.Losses), MicroBatchSize: 3, GradientAccumulationSteps: 2, EvalSteps: Every{Steps: 4}}
			c.Beta, c.SyncRefModel, c.SyncSteps, c.MixupAlpha = ptr(0.5), true, 2, &want.Alpha
			var j Job
			var p *preferences
			if want.Adapter == "lora" {
				j, p = goldenPairs(t, c)
			} else {
				j, p = wholePairs(t, c)
			}
			j.Val = data.InMemory(p.pairs()...)
			return j
		}
		j := begin()
		got := losses(t, j)
		for i, w := range want.Losses {
			if !(math.Abs(got[i]-w) <= 2e-4) {
				t.Errorf("%s, %v: loss of step %d is %v, want %v", want.Adapter, want.Alpha, i+1, got[i], w)
			}
		}
		if again := resumed(t, begin, 5); hash(t, again) != hash(t, j) || curveOf(t, again.Dir) != curveOf(t, j.Dir) {
			t.Errorf("%s, %v: an interruption changes the result", want.Adapter, want.Alpha)
		}
	}
}

// wholePairs is goldenPairs of all weights, without the adapter.
func wholePairs(t *testing.T, c Config) (Job, *preferences) {
	t.Helper()
	var p preferences
	readJSON(t, filepath.Join(testdir.Shared(t, "golden/train/prefs"), "prefs.json"), &p)
	src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-llama"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := model.Load(device(t), src, model.Options{Trainable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c.DType, c.LoRA = "f32", lora.Config{}
	if c, err = c.Resolve(1); err != nil {
		t.Fatal(err)
	}
	return Job{Config: c, Model: m, Train: data.InMemory(p.pairs()...), MaxLength: 256, Packing: "none", Dir: t.TempDir()}, &p
}
