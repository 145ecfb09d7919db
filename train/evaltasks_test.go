package train

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestEarlyStoppingRule: the counter of Transformers' EarlyStoppingCallback, followed by
// hand through check_metric_value and _determine_best_metric of its trainer: a gain within
// the threshold is a new best and counts as none.
func TestEarlyStoppingRule(t *testing.T) {
	for _, c := range []struct {
		metric    string
		threshold float64
		values    []float64
		waited    []int
		best      int // index
	}{
		{"loss", 0, []float64{3, 2, 2, 2.5, 1.9, 2}, []int{0, 0, 1, 2, 0, 1}, 4},
		{"loss", 0.5, []float64{3, 2.7, 2.4, 2.1, 1.5}, []int{0, 1, 2, 3, 0}, 4},
		{"exact_match", 0, []float64{0, 0.1, 0.1, 0.3, 0.2}, []int{0, 0, 1, 0, 1}, 3},
		{"exact_match", 0.1, []float64{0.2, 0.25, 0.5}, []int{0, 1, 0}, 2},
	} {
		r := &run{sched: &Schedule{}}
		r.Config = Config{Evaluating: Evaluating{MetricForBestModel: c.metric, EarlyStoppingPatience: 9, EarlyStoppingThreshold: &c.threshold}}
		for i, v := range c.values {
			m := EvalMetrics{Step: i, Loss: v}
			if c.metric != "loss" {
				m.Loss, m.Tasks = 1, Values{{c.metric, v}}
			}
			if _, err := r.judge(&m); err != nil {
				t.Fatal(err)
			}
			if r.waited != c.waited[i] {
				t.Errorf("%s %v: after %v waited %d, want %d", c.metric, c.values, v, r.waited, c.waited[i])
			}
		}
		if r.best.Step != c.best {
			t.Errorf("%s %v: best is %d, want %d", c.metric, c.values, r.best.Step, c.best)
		}
	}
}

// stoppingJob stops early after step 8: no validation is better than the first by 10.
func stoppingJob(t *testing.T, dir string) Job {
	j := smallJob(t, dir)
	j.Config.EvalSteps, j.Config.EarlyStoppingPatience, j.Config.EarlyStoppingThreshold = Every{Steps: 2}, 3, ptr(10.0)
	j.Config.LoadBestModelAtEnd = ptr(true)
	return j
}

// TestEarlyStopping: a run stops where the rule says, keeps the best weights, and does so
// too, bit for bit, when it is interrupted anywhere; run again it has nothing to do.
func TestEarlyStopping(t *testing.T) {
	j := stoppingJob(t, t.TempDir())
	res, err := Run(context.Background(), j)
	if err != nil || res.Steps != 8 || !res.Stopped {
		t.Fatalf("%+v, %v", res, err)
	}
	want, curve := hash(t, j), curveOf(t, j.Dir)
	dir := t.TempDir()
	for _, at := range []int{1, 3, 4, 6, 7, 8} {
		j := stoppingJob(t, dir)
		ctx, cancel := context.WithCancel(context.Background())
		j.Progress = func(p Progress) {
			if p.Step == at && (p.Micro == 1 || p.Evaluating) {
				cancel()
			}
		}
		_, err := Run(ctx, j)
		cancel()
		if fail.Code(err) != int(fail.Interrupted) {
			t.Fatalf("stop at %d: %v", at, err)
		}
	}
	for range 2 {
		j = stoppingJob(t, dir)
		again, err := Run(context.Background(), j)
		if err != nil || again.Steps != 8 || again.BestStep != res.BestStep || !again.Stopped {
			t.Fatalf("%+v, %v, want %+v", again, err, res)
		}
		if hash(t, j) != want || curveOf(t, dir) != curve {
			t.Error("interruptions change the result")
		}
	}
}

// TestEvaluating: what a validation cannot do is refused by name.
func TestEvaluating(t *testing.T) {
	for text, words := range map[string]string{
		"{eval_tasks: [kl]}":                                                             `a validation has no task "kl"`,
		"{eval_tasks: [exact_match], eval_steps: 0}":                                     "eval_tasks needs validation, eval_steps is 0",
		"{early_stopping_patience: 2, eval_steps: 0}":                                    "early_stopping_patience needs validation",
		"{load_best_model_at_end: true, eval_steps: 0}":                                  "load_best_model_at_end needs validation",
		"{eval_filter: x}":                                                               "eval_filter belongs to eval_tasks",
		"{eval_table_size: 0}":                                                           "eval_table_size belongs to eval_tasks",
		"{eval_tasks: [exact_match], eval_filter: '('}":                                  "missing closing",
		"{early_stopping_threshold: 0}":                                                  "belongs to early_stopping_patience",
		"{metric_for_best_model: loss}":                                                  "chooses nothing here",
		"{load_best_model_at_end: true, metric_for_best_model: exact_match}":             `measures "exact_match"`,
		"{load_best_model_at_end: true, metric_for_best_model: rewards/accuracies}":      `measures "rewards/accuracies"`,
		"{objective: reward, eval_tasks: [exact_match]}":                                 "is validated by rewards",
		"{objective: dpo, load_best_model_at_end: true, metric_for_best_model: beta/kl}": "measures",
	} {
		if _, err := parse(t, text).Resolve(1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", text, err, words)
		}
	}
	for text, loads := range map[string]bool{
		"{}": false, "{early_stopping_patience: 3}": true, "{early_stopping_patience: 3, load_best_model_at_end: false}": false,
		"{lr_scheduler: reduce_lr_on_plateau, metric_for_best_model: perplexity}":                                                  false,
		"{lr_scheduler: greedy, learning_rate: 0.01, metric_for_best_model: perplexity}":                                           false,
		"{eval_tasks: [exact_match], load_best_model_at_end: true, metric_for_best_model: eval_exact_match}":                       true,
		"{objective: dpo, load_best_model_at_end: true, metric_for_best_model: rewards/accuracies}":                                true,
		"{objective: reward, load_best_model_at_end: true, metric_for_best_model: accuracy}":                                       true,
		"{objective: grpo, beta: 0.1, rewards: [{length: {max: 9}}], load_best_model_at_end: true, metric_for_best_model: reward}": true,
	} {
		c, err := parse(t, text).Resolve(1)
		if err == nil && !c.Asks() {
			c, err = c.Resolve(1) // what was resolved stays as it is
		}
		if err != nil || c.LoadsBest() != loads {
			t.Errorf("%s: keeps the best %v, %v", text, c.LoadsBest(), err)
		}
	}
}

// TestMetricsOfObjectives: every value of a pair that can choose a model is offered, and
// those that validations measure are found.
func TestMetricsOfObjectives(t *testing.T) {
	for name, want := range map[string]string{"sft": "loss perplexity", "distill": "loss", "reward": "loss accuracy margin",
		"kto": "loss rewards/chosen rewards/rejected rewards/margins logps/chosen logps/rejected"} {
		c, err := parse(t, "{objective: "+name+"}").Resolve(1)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.metrics(), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	j := smallJob(t, t.TempDir())
	j.Config.LabelSmoothingFactor, j.Config.MaxSteps, j.Config.EvalSteps = 0.2, 2, Every{Steps: 1}
	j.Config.LoadBestModelAtEnd, j.Config.MetricForBestModel = ptr(true), nllLoss
	if !slices.Contains(j.Config.metrics(), nllLoss) {
		t.Fatal(j.Config.metrics())
	}
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	_, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil || len(evals) != 2 {
		t.Fatal(len(evals), err)
	}
}
