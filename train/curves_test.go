package train

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/lora"
)

// TestObjectiveCurves: losses and gradient norms of 30 steps of each objective, on the
// reference's tiny Llama with its adapter, are those of TRL 1.16.0's trainers and torch's
// AdamW (of bco and of distillation by ranks, which TRL lacks or has otherwise, those of
// the papers' formulas in torch):
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train curves.
// Answers of GRPO and RLOO are given, and learned from 30 times. sft and the adapters have
// curves of their own (TestGoldenCurves).
func TestObjectiveCurves(t *testing.T) {
	var curves []struct {
		Name          string
		Losses, Norms []float64
	}
	readJSON(t, "testdata/trl_curves.json", &curves)
	if len(curves) != 19 {
		t.Errorf("%d curves", len(curves))
	}
	head := arrays(t, filepath.Join(testdir.Shared(t, "golden/train/reward"), "grads.safetensors"))["score.weight"]
	rate := 3e-4
	steps := func(c Config) Config {
		c.MaxSteps, c.MicroBatchSize, c.GradientAccumulationSteps, c.LearningRate, c.LRScheduler = 30, 12, 1, &rate, "constant"
		return c
	}
	_, p := goldenPairs(t, Config{Objective: "dpo"})
	reward := func(center *float64, margins ...float32) Job {
		pairs := p.pairs()
		for i := range pairs {
			n := int32(len(pairs[i].IDs))
			if pairs[i].Loss = [][2]int32{{n - 1, n}}; i%2 == 0 && margins != nil {
				pairs[i].Mark = margins[i/2]
			}
		}
		return goldenReward(t, steps(Config{Preferences: Preferences{CenterRewards: center}}), pairs, head)
	}
	for _, want := range curves {
		t.Run(want.Name, func(t *testing.T) {
			var j Job
			switch want.Name {
			case "reward":
				j = reward(nil)
			case "reward centred":
				j = reward(ptr(0.01), 0.5, 0, 1.5)
			case "distill":
				j = goldenTeacher(t, Config{Preferences: Preferences{Beta: ptr(0.5)}}, 3)
				j.Config = steps(j.Config)
			case "distill by ranks":
				j = goldenTeacher(t, Config{ULD: ULD{UseULD: true}}, 3)
				j.Config = steps(j.Config)
			case "dpo", "cpo", "simpo", "orpo", "kto", "bco":
				j, _ = goldenPairs(t, steps(Config{Objective: ObjectiveName(want.Name)}))
			default:
				compareWritten(t, want.Name, steps, want.Losses, want.Norms)
				return
			}
			if _, err := Run(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			lines, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
			if err != nil {
				t.Fatal(err)
			}
			compareCurve(t, lines, want.Losses, want.Norms)
		})
	}
}

// compareCurve compares steps with losses and norms of a reference.
func compareCurve(t *testing.T, steps []Metrics, losses, norms []float64) {
	t.Helper()
	if len(steps) != 30 || len(losses) != 30 || len(norms) != 30 {
		t.Fatalf("%d steps, want %d", len(steps), len(losses))
	}
	worst, worstNorm := 0.0, 0.0
	for i, m := range steps {
		worst = max(worst, math.Abs(m.Loss-losses[i])/max(1, math.Abs(losses[i])))
		worstNorm = max(worstNorm, math.Abs(m.GradNorm-norms[i])/max(norms[i], 1e-9)) // 0 where every answer is clipped
	}
	t.Logf("loss within %.2g, gradient norm within %.2g", worst, worstNorm)
	if !(worst <= 1e-5) || !(worstNorm <= 5e-4) {
		t.Errorf("loss within %.2g, gradient norm within %.2g", worst, worstNorm)
	}
}

// compareWritten takes 30 steps of GRPO with a loss, or of rloo, on the golden answers.
func compareWritten(t *testing.T, loss string, steps func(Config) Config, losses, norms []float64) {
	t.Helper()
	g, dir := readGRPO(t)
	c := goldenGRPOCase{Config: map[string]any{"beta": 0.0}, OffPolicy: true}
	if loss != "rloo" {
		c.Config["loss_type"] = loss
	}
	switch loss {
	case "cispo", "sapo", "vespo", "rloo":
	default:
		c.Config["epsilon_high"] = 0.2
	}
	conf, micro := g.config(t, c)
	conf.UseBiasCorrectionKL = nil
	j, _ := goldenPairs(t, Config{Objective: "dpo"})
	conf.LoRA = lora.Config{InitFrom: j.Config.LoRA.InitFrom}
	var err error
	if j.Config, err = steps(conf).Resolve(1); err != nil {
		t.Fatal(err)
	}
	roll, examples := g.rollout(t, j.Config, c, arrays(t, filepath.Join(dir, "batch.safetensors")))
	for _, a := range g.Advantages {
		if a.Rewards == "two" && a.Scale == "group" && a.Aggregation == "sum_then_normalize" && len(a.Weights) == 0 {
			for i, v := range a.Advantages {
				roll.Answers[i].Advantage = v
			}
		}
	}
	r, s := learning(t, j, roll, examples, micro)
	var got []Metrics
	for range losses {
		r.opt.focus(r.step + 1)
		m, err := r.gradients(t.Context(), s, r.count(s.Micro))
		if err == nil {
			err = r.opt.step(r.step+1, *j.Config.LearningRate)
		}
		if err == nil {
			err = r.refresh()
		}
		if err != nil {
			t.Fatal(err)
		}
		r.step++
		got = append(got, m)
	}
	compareCurve(t, got, losses, norms)
}
