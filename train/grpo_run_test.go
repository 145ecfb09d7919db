package train

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/train/judge"
)

// answersJob is smallJob on prompts whose answers are rewarded for a letter of
// the first half of the alphabet at their beginning. change may be nil.
func answersJob(t *testing.T, change func(*Config)) Job {
	t.Helper()
	j := smallJob(t, t.TempDir())
	c := Config{Objective: "grpo", MaxSteps: 24, MicroBatchSize: 8, GradientAccumulationSteps: 2, LearningRate: ptr(3e-2), DType: "f32",
		SaveSteps: Every{Steps: 1}, EvalSteps: Every{Steps: 12}, LoRA: lora.Config{R: 4, Dropout: 0.1}, LRScheduler: "constant"}
	c.NumGenerations, c.MaxCompletionLength = 8, 6
	c.Rewards = []judge.Config{{Regex: "^[a-m]"}, {Length: &judge.Length{Min: 2}, Weight: ptr(0.1)}}
	if change != nil {
		change(&c)
	}
	var err error
	if j.Config, err = c.Resolve(7); err != nil {
		t.Fatal(err)
	}
	for i, r := range j.Config.Rewards {
		f, err := r.New("rewards")
		if err != nil {
			t.Fatal(i, err)
		}
		j.Answering.Rewards = append(j.Answering.Rewards, f)
	}
	j.Answering.Stop = []int32{257}
	j.Answering.Text = func(ids []int32) string {
		var s strings.Builder
		for _, id := range ids {
			if id < 128 {
				s.WriteByte(byte(id))
			}
		}
		return s.String()
	}
	j.Adapter.Close()
	if j.Adapter, err = lora.Apply(j.Model, j.Config.LoRA, 7); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Adapter.Close)
	var ex []data.Example
	for i := range 14 {
		e := sample(uint64(i))
		e.IDs, e.Loss, e.Row = e.IDs[:12], nil, `{"prompt":"q"}`
		ex = append(ex, e)
	}
	j.Train, j.Val, j.Packing = data.InMemory(ex[:10]...), data.InMemory(ex[10:]...), "none"
	return j
}

func valueOf(t *testing.T, v Values, name string) float64 {
	t.Helper()
	x, ok := v.Get(name)
	if !ok {
		t.Fatalf("no %s in %v", name, v)
	}
	return x
}

// TestGRPO: by reward alone the model writes what is rewarded, with the same bits
// at any number of threads.
func TestGRPO(t *testing.T) {
	old := par.Threads()
	defer par.SetThreads(old)
	var hashes []string
	for _, n := range []int{2, 1} {
		par.SetThreads(n)
		j := answersJob(t, nil)
		losses(t, j)
		hashes = append(hashes, hash(t, j)+curveOf(t, j.Dir))
		steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil || len(steps) != 24 || len(evals) != 2 {
			t.Fatalf("%d steps, %d validations, %v", len(steps), len(evals), err)
		}
		first, last := 0.0, 0.0
		for i := range 4 {
			first += valueOf(t, steps[i].Objective, "rewards/regex/mean") / 4
			last += valueOf(t, steps[20+i].Objective, "rewards/regex/mean") / 4
		}
		if !(last >= first+0.3) {
			t.Errorf("reward goes from %v to %v", first, last)
		}
		if e := evals[1]; e.Loss != -valueOf(t, e.Objective, "reward") || e.Perplexity != 0 || e.Epoch != 4.8 {
			t.Errorf("validation %+v", e)
		}
		answers, err := ReadAnswers(filepath.Join(j.Dir, AnswersFile))
		if err != nil || len(answers) != 24*16 || answers[16].Step != 2 || answers[16].Prompt != "q" || answers[16].Reward == nil {
			t.Errorf("%d answers, %v", len(answers), err)
		}
	}
	if hashes[0] != hashes[1] {
		t.Error("the number of threads changes the result")
	}
}

// TestGRPOResume: answers that several steps learn from are the same after an
// interruption between these steps.
func TestGRPOResume(t *testing.T) {
	later := func(c *Config) {
		c.MaxSteps, c.StepsPerGeneration, c.NumIterations, c.GradientAccumulationSteps, c.Beta = 9, 2, 2, 1, ptr(0.02)
		c.SamplingCorrection = true
	}
	j := answersJob(t, later)
	losses(t, j)
	steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	if moved := valueOf(t, steps[2].Objective, "kl"); !(moved > 0) {
		t.Errorf("kl %v after two steps", moved)
	}
	left, err := filepath.Glob(filepath.Join(j.Dir, "rollout-*"))
	if err != nil || len(left) > 2 {
		t.Errorf("%v are left, %v", left, err)
	}
	again := answersJob(t, later)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	again.Progress = func(p Progress) {
		if p.Step == 6 {
			cancel()
		}
	}
	if _, err := Run(ctx, again); fail.Code(err) != int(fail.Interrupted) {
		t.Fatalf("error %v", err)
	}
	third := answersJob(t, later)
	third.Dir = again.Dir
	losses(t, third)
	if hash(t, third) != hash(t, j) || curveOf(t, third.Dir) != curveOf(t, j.Dir) {
		t.Error("an interruption changes the result")
	}
	for _, name := range []string{AnswersFile} {
		a, err := os.ReadFile(filepath.Join(j.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(third.Dir, name))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s differs after an interruption (%v)", name, err)
		}
	}
}

// TestGRPORefused: rows that are no prompts, prompts for another objective, and
// settings that cannot go together.
func TestGRPORefused(t *testing.T) {
	refused := func(what string, err error, words string) {
		t.Helper()
		if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", what, err, words)
		}
	}
	j := answersJob(t, nil)
	j.Train = data.InMemory(sample(1))
	_, err := Run(context.Background(), j)
	refused("samples", err, "needs rows of type prompt")
	single := smallJob(t, t.TempDir())
	single.Train = answersJob(t, nil).Train
	_, err = Run(context.Background(), single)
	refused("prompts", err, "the rows are prompts alone")
	j = answersJob(t, nil)
	j.Model.Spec.MaxPos = 17 // prompts of 12 tokens, answers of 6
	_, err = Run(context.Background(), j)
	refused("context", err, "the longest prompt has 12 tokens, an answer up to 6: together more than the model's context of 17")
	if want := "max_completion_length: 5 fits all prompts"; !strings.Contains(fail.Hint(err), want) {
		t.Errorf("hint %q, want %q", fail.Hint(err), want)
	}
	for words, change := range map[string]func(*Config){
		"learns from rewards":            func(c *Config) { c.Rewards = nil },
		"does not divide":                func(c *Config) { c.NumGenerations = 7 },
		"not a whole number of steps":    func(c *Config) { c.StepsPerGeneration = 3 },
		"belongs to objective: grpo":     func(c *Config) { c.Objective, c.Rewards = "sft", nil },
		"does nothing under":             func(c *Config) { c.MultiObjective, c.ScaleRewards = "normalize_then_sum", "batch" },
		"leaves nothing to compare with": func(c *Config) { c.Adapter, c.Beta = "none", ptr(0.1) },
		"belongs to loss_type: vespo":    func(c *Config) { c.VESPOKPos = ptr(1.0) },
		"which is off":                   func(c *Config) { c.SamplingMode = "token_mask" },
		"a reward is one of":             func(c *Config) { c.Rewards[0].Exact = "answer" },
	} {
		c := Config{Objective: "grpo", MicroBatchSize: 8, GradientAccumulationSteps: 2}
		c.NumGenerations, c.Rewards = 8, []judge.Config{{Regex: "a"}}
		change(&c)
		_, err := c.Resolve(1)
		refused(words, err, words)
	}
}

// nearRanks runs jobs that are made by one, of one rank and of several, and holds their
// curves and answers against each other.
func nearRanks(t *testing.T, what string, one Job, of []Job) {
	t.Helper()
	losses(t, one)
	runRanks(t, of)
	want, wantEvals, err := ReadMetrics(filepath.Join(one.Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	got, gotEvals, err := ReadMetrics(filepath.Join(of[0].Dir, MetricsFile))
	if err != nil || len(got) != len(want) || len(gotEvals) != len(wantEvals) || len(want) == 0 {
		t.Fatalf("%s: %d steps and %d validations, want %d and %d, %v", what, len(got), len(gotEvals), len(want), len(wantEvals), err)
	}
	near := func(where string, a, b Values) {
		t.Helper()
		if len(a) != len(b) {
			t.Fatalf("%s, %s: %v, want %v", what, where, a, b)
		}
		for i := range a {
			if a[i].Name != b[i].Name || !(math.Abs(a[i].V-b[i].V) <= 2e-5*(1+math.Abs(b[i].V))) {
				t.Errorf("%s, %s: %s is %v, want %v", what, where, a[i].Name, a[i].V, b[i].V)
			}
		}
	}
	for i, w := range want {
		g := got[i]
		near(fmt.Sprintf("step %d", i+1), append(Values{{"loss", g.Loss}, {"norm", g.GradNorm}, {"tokens", float64(g.Tokens)}, {"supervised", float64(g.Supervised)}, {"epoch", g.Epoch}}, g.Objective...),
			append(Values{{"loss", w.Loss}, {"norm", w.GradNorm}, {"tokens", float64(w.Tokens)}, {"supervised", float64(w.Supervised)}, {"epoch", w.Epoch}}, w.Objective...))
	}
	for i, w := range wantEvals {
		near(fmt.Sprintf("validation %d", i+1), append(Values{{"loss", gotEvals[i].Loss}}, gotEvals[i].Objective...), append(Values{{"loss", w.Loss}}, w.Objective...))
	}
	if !one.Config.Asks() {
		return
	}
	wantAnswers, err := ReadAnswers(filepath.Join(one.Dir, AnswersFile))
	if err != nil {
		t.Fatal(err)
	}
	gotAnswers, err := ReadAnswers(filepath.Join(of[0].Dir, AnswersFile))
	if err != nil || len(gotAnswers) != len(wantAnswers) {
		t.Fatalf("%s: %d answers, want %d, %v", what, len(gotAnswers), len(wantAnswers), err)
	}
	for i, w := range wantAnswers {
		if g := gotAnswers[i]; g.Text != w.Text || g.Tokens != w.Tokens || g.Truncated != w.Truncated {
			t.Errorf("%s: answer %d is %q, want %q", what, i, g.Text, w.Text)
		}
	}
}

// TestGRPORanks: ranks write their shares of the answers that one rank would write, with
// the same draws, and learn from them as one with as many times the micro-batches; an
// interruption changes nothing, and rewards are asked for once.
func TestGRPORanks(t *testing.T) {
	for what, c := range map[string]struct {
		ranks  int
		change func(*Config)
	}{
		"grpo":               {2, func(c *Config) {}},
		"three ranks":        {3, func(c *Config) { c.MicroBatchSize = 4; c.NumGenerations = 6 }},
		"held to the start":  {2, func(c *Config) { c.Beta = ptr(0.02) }},
		"many from one time": {2, func(c *Config) { c.StepsPerGeneration, c.NumIterations, c.SamplingCorrection = 2, 2, true }},
		"dapo":               {2, func(c *Config) { c.LossType = []string{"dapo"} }},
		"bnpo":               {2, func(c *Config) { c.LossType = []string{"bnpo"} }},
		"entropy":            {2, func(c *Config) { c.UseAdaptiveEntropy, c.EntropyTarget = true, ptr(9.0) }},
		"rloo":               {2, func(c *Config) { c.Objective, c.Beta = "rloo", ptr(0.05) }},
	} {
		of := func(n int) Job {
			return answersJob(t, func(o *Config) {
				o.MaxSteps, o.GradientAccumulationSteps, o.EvalSteps, o.LearningRate = 4, 1, Every{Steps: 2}, ptr(1e-3)
				o.LoRA.Dropout = 0
				c.change(o)
				if n == 1 {
					o.GradientAccumulationSteps *= c.ranks
					o.StepsPerGeneration *= c.ranks
				} else {
					o.Ranks = n
				}
			})
		}
		jobs := func(dir string) []Job {
			var list []Job
			for rank := range c.ranks {
				j := of(c.ranks)
				if j.Dir = ""; rank == 0 {
					j.Dir = dir
				}
				list = append(list, j)
			}
			return list
		}
		list := jobs(t.TempDir())
		nearRanks(t, what, of(1), list)

		stopped := jobs(t.TempDir())
		ctx, cancel := context.WithCancel(context.Background())
		stopped[0].Progress = func(p Progress) {
			if p.Step == 1 {
				cancel()
			}
		}
		errs := together(c.ranks, func(m Comm) error {
			j := stopped[m.Rank()]
			j.Comm = m
			_, err := Run(ctx, j)
			return err
		})
		cancel()
		if fail.Code(errs[0]) != int(fail.Interrupted) {
			t.Fatalf("%s: %v", what, errs)
		}
		again := jobs(stopped[0].Dir)
		runRanks(t, again)
		if hash(t, again[0]) != hash(t, list[0]) || curveOf(t, again[0].Dir) != curveOf(t, list[0].Dir) {
			t.Errorf("%s: an interruption changes the result", what)
		}
	}
}
