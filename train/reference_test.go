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
)

// TestStoredReference: with the log-probabilities of another model, stored, the reference's
// cases hold as with the adapter switched off.
func TestStoredReference(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/prefs")
	grads := arrays(t, filepath.Join(dir, "grads.safetensors"))
	var p preferences
	readJSON(t, filepath.Join(dir, "prefs.json"), &p)
	found := 0
	for _, want := range p.Cases {
		if want.Name != "dpo_sigmoid_b0.1" && want.Name != "kto_d1.33_u0.8" {
			continue
		}
		found++
		c := want.config()
		c.MicroBatchSize, c.GradientAccumulationSteps = 2, 3
		j, _ := goldenPairs(t, c)
		src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-llama"))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		m, err := model.Load(device(t), src, model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if j.Reference, err = MakeReference(t.Context(), j.Dir, "base-llama", m, j); err != nil {
			t.Fatal(err)
		}
		m.Close()
		t.Run(want.Name, func(t *testing.T) { compareCase(t, j, want, grads) })
	}
	if found != 2 {
		t.Errorf("%d cases were compared", found)
	}
}

// wholeJob is pairsJob of all weights.
func wholeJob(t *testing.T, objective ObjectiveName) Job {
	t.Helper()
	j := pairsJob(t)
	j.Adapter.Close()
	j.Model.Close()
	src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-qwen2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	if j.Model, err = model.Load(device(t), src, model.Options{Trainable: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Model.Close)
	c := Config{Objective: objective, Adapter: "none", MaxSteps: 6, GradientAccumulationSteps: 3, LearningRate: ptr(1e-3), DType: "f32", SaveSteps: Every{Steps: 2}, EvalSteps: Every{Steps: 3}}
	if j.Config, err = c.Resolve(7); err != nil {
		t.Fatal(err)
	}
	j.Adapter = nil
	return j
}

// TestFullPreferences: all weights learn from pairs against the weights they began with,
// the same after an interruption, with a reference that was damaged meanwhile.
func TestFullPreferences(t *testing.T) {
	for _, objective := range []ObjectiveName{"dpo", "kto", "bco"} {
		t.Run(string(objective), func(t *testing.T) {
			j := wholeJob(t, objective)
			losses(t, j)
			steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
			if err != nil || len(steps) != 6 || len(evals) != 2 {
				t.Fatalf("%d steps, %d validations, %v", len(steps), len(evals), err)
			}
			first := map[ObjectiveName]float64{"dpo": math.Ln2, "kto": 0.5, "bco": math.Ln2}[objective]
			if math.Abs(steps[0].Loss-first) > 1e-6 || !(steps[5].Loss < first-0.01) {
				t.Errorf("losses %v to %v", steps[0].Loss, steps[5].Loss)
			}
			if v, ok := steps[5].Objective.Get(margins); !ok || !(v > 0) {
				t.Errorf("ends with %v", steps[5].Objective)
			}
			again := wholeJob(t, objective)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			again.Progress = func(p Progress) {
				if p.Step == 3 {
					cancel()
				}
			}
			if _, err := Run(ctx, again); fail.Code(err) != int(fail.Interrupted) {
				t.Fatalf("error %v", err)
			}
			files, err := filepath.Glob(filepath.Join(again.Dir, "reference-train-*.logp"))
			if err != nil || len(files) == 0 {
				t.Fatalf("files %v, %v", files, err)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(files[0], b, 0o666); err != nil {
				t.Fatal(err)
			}
			third := wholeJob(t, objective)
			third.Dir = again.Dir
			losses(t, third)
			if hash(t, third) != hash(t, j) || curveOf(t, third.Dir) != curveOf(t, j.Dir) {
				t.Error("an interruption changes the result")
			}
		})
	}
}

// TestMismatch: a prompt gets the answer of the nearest sample before it that has another
// prompt, cut to the length allowed.
func TestMismatch(t *testing.T) {
	sample := func(prompt, answer string) data.Example {
		e := data.Example{Loss: [][2]int32{{int32(len(prompt)), int32(len(prompt + answer))}}}
		for _, c := range prompt + answer {
			e.IDs = append(e.IDs, c)
		}
		return e
	}
	ex := data.InMemory(sample("one", "A"), sample("one", "B"), sample("three", "CCCC"))
	for k, want := range []string{"oneCC", "oneCC", "threeB"} {
		e, err := mismatchOf(ex, k, []int{5, 5, 100}[k])
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, id := range e.IDs {
			b.WriteRune(id)
		}
		if b.String() != want || int(e.Loss[0][0]) != len(strings.TrimRight(want, "ABC")) || int(e.Loss[0][1]) != len(want) {
			t.Errorf("sample %d: %q, learned %v, want %q", k, b.String(), e.Loss, want)
		}
	}
	same := data.InMemory(sample("one", "A"), sample("one", "B"))
	if e, err := mismatchOf(same, 0, 9); err != nil || e.IDs[3] != 'B' {
		t.Errorf("of one prompt alone: %v, %v", e.IDs, err)
	}
}

// TestReferenceOfKinds: whatever kind the adapter is of, also one that begins on a residual of
// the base, the model without it is the base: stored log-probabilities of the base are its own.
func TestReferenceOfKinds(t *testing.T) {
	for _, text := range []string{"{adapter: ia3}", "{adapter: oft}", "{adapter: loha}", "{adapter: lora, lora: {r: 4, init_lora_weights: pissa}}", "{adapter: lora, lora: {r: 4, use_dora: true}}"} {
		t.Run(text, func(t *testing.T) {
			j := pairsJob(t)
			j.Adapter.Close()
			c := parse(t, text)
			c.Objective, c.DType, c.MaxSteps, c.LearningRate, c.EvalSteps, c.WarmupSteps = "dpo", "f32", 2, ptr(1e-3), Every{Off: true}, ptr(0)
			var err error
			if j.Config, err = c.Resolve(7); err != nil {
				t.Fatal(err)
			}
			stored, err := MakeReference(t.Context(), t.TempDir(), "base", j.Model, j)
			if err != nil {
				t.Fatal(err)
			}
			if j.Adapter, err = j.Config.Start(j.Model, j.Train); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(j.Adapter.Close)
			losses(t, j)
			r, err := begin(j)
			if err != nil {
				t.Fatal(err)
			}
			defer r.end()
			s, err := r.loader.Step(0)
			if err != nil {
				t.Fatal(err)
			}
			live, err := r.reference(&s.Micro[0], true, part{})
			if err != nil {
				t.Fatal(err)
			}
			kept, err := stored.read(&s.Micro[0], part{})
			if err != nil {
				t.Fatal(err)
			}
			changed, err := logProbs(j.Model, &s.Micro[0], false, true, false, 1)
			if err != nil {
				t.Fatal(err)
			}
			near := func(a, b []float32) float64 {
				worst := 0.0
				for i := range a {
					worst = max(worst, math.Abs(float64(a[i]-b[i])))
				}
				return worst
			}
			if d := near(live, kept); !(d <= 2e-6) || near(changed, kept) < 1e-5 {
				t.Errorf("the base differs by %g from itself, the model in training by %g", d, near(changed, kept))
			}
		})
	}
}

// TestAsItBegan: an adapter that goes on begins with no reward against what it began as, and
// with one against the base.
func TestAsItBegan(t *testing.T) {
	for _, start := range []bool{true, false} {
		c := Config{Objective: "dpo", MicroBatchSize: 3, GradientAccumulationSteps: 1, MaxSteps: 1}
		j, _ := goldenPairs(t, c)
		j.AsItBegan = start
		losses(t, j)
		steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		v, _ := steps[0].Objective.Get("rewards/chosen")
		if none := math.Abs(v) < 1e-6; none != start {
			t.Errorf("from the start %v: reward %v", start, v)
		}
	}
}
