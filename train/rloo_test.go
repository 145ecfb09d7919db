package train

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/train/judge"
)

// TestRLOO compares advantages, loss, metrics and gradient norm of TRL's trainer:
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train rloo (TRL 1.16.0).
func TestRLOO(t *testing.T) {
	g, dir := readGRPO(t)
	batch := arrays(t, filepath.Join(dir, "batch.safetensors"))
	var cases []struct {
		goldenGRPOCase
		Advantages []float64
		Logged     map[string]float64
	}
	readJSON(t, "testdata/trl_rloo.json", &cases)
	if len(cases) != 6 {
		t.Errorf("%d cases", len(cases))
	}
	j, _ := goldenPairs(t, Config{Objective: "dpo"})
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			conf, micro := g.config(t, c.goldenGRPOCase)
			conf.LoRA = j.Config.LoRA
			var err error
			if j.Config, err = conf.Resolve(1); err != nil {
				t.Fatal(err)
			}
			roll, examples := g.rollout(t, j.Config, c.goldenGRPOCase, batch)
			r, s := learning(t, j, roll, examples, micro)
			var kl []running
			if *j.Config.Beta > 0 {
				kl = make([]running, len(examples))
			}
			for k := range s.Micro {
				logp, err := logProbs(r.Model, &s.Micro[k], false, true, r.bf16, r.temperature())
				if err == nil && kl != nil {
					err = r.drift(&s.Micro[k], logp, kl)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			table := g.table(c.Rewards)
			advantages, values := j.Config.advantagesOf(table, ones(c.Weights, len(table)), []string{"a", "b"}, kl)
			for i, want := range c.Advantages {
				roll.Answers[i].Advantage = advantages[i]
				if !(math.Abs(advantages[i]-want) <= 1e-5) {
					t.Errorf("advantage %d is %v, want %v", i, advantages[i], want)
				}
			}
			if len(values) != len(c.Logged) {
				t.Errorf("%v, want %v", values, c.Logged)
			}
			for _, v := range values {
				if want, ok := c.Logged[v.Name]; !ok || !(math.Abs(v.V-want) <= 1e-5) {
					t.Errorf("%s is %v, want %v", v.Name, v.V, want)
				}
			}
			compareGRPO(t, r, s, c.goldenGRPOCase, nil)
		})
	}
}

// TestRLOORun: by reward alone the model writes what is rewarded, against a reference that
// stays or moves, and an interruption changes nothing.
func TestRLOORun(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"stays": func(*Config) {},
		"moves": func(c *Config) { c.SyncRefModel, c.SyncSteps, c.NumIterations = true, 3, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			later := func(c *Config) {
				c.Objective, c.NumGenerations, c.Beta = "rloo", 4, ptr(0.001)
				change(c)
			}
			j := answersJob(t, later)
			losses(t, j)
			steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
			if err != nil || len(steps) != 24 {
				t.Fatal(len(steps), err)
			}
			first, last, kl := 0.0, 0.0, 0.0
			for i := range 4 {
				first += valueOf(t, steps[i].Objective, "rewards/regex/mean") / 4
				last += valueOf(t, steps[20+i].Objective, "rewards/regex/mean") / 4
				kl = max(kl, valueOf(t, steps[20+i].Objective, "kl"))
			}
			if !(last >= first+0.3 && kl > 0.01) {
				t.Errorf("reward goes from %v to %v, divergence %v", first, last, kl)
			}
			again := resumed(t, func() Job { return answersJob(t, later) }, 7)
			if hash(t, again) != hash(t, j) || curveOf(t, again.Dir) != curveOf(t, j.Dir) {
				t.Error("an interruption changes the result")
			}
		})
	}
}

// TestRLOOOptions: keys of one objective are refused by the other.
func TestRLOOOptions(t *testing.T) {
	for text, want := range map[string]string{
		`{"objective":"rloo","scale_rewards":"batch"}`:                                   "scale_rewards belongs to objective: grpo",
		`{"objective":"rloo","loss_type":"dapo"}`:                                        "loss_type",
		`{"objective":"rloo","reward_clip_range":[1]}`:                                   "reward_clip_range: [1]",
		`{"objective":"rloo","adapter":"none"}`:                                          "leaves nothing to compare with",
		`{"objective":"grpo","normalize_advantages":true}`:                               "normalize_advantages belongs to objective: rloo",
		`{"objective":"sft","reward_clip_range":[0,1]}`:                                  "belongs to objective: rloo",
		`{"objective":"grpo","entropy_target":1}`:                                        "use_adaptive_entropy, which is off",
		`{"objective":"grpo","use_adaptive_entropy":true,"entropy_coef_min":2}`:          "above entropy_coef_max",
		`{"objective":"grpo","sync_ref_model":true}`:                                     "has none",
		`{"objective":"sft","sync_ref_model":true}`:                                      "has none",
		`{"objective":"dpo","ref_model_sync_steps":3}`:                                   "sync_ref_model, which makes it move, is off",
		`{"objective":"dpo","sync_ref_model":true,"ema_decay":0.9}`:                      "would be an average",
		`{"objective":"dpo","sync_ref_model":true,"ref_model_mixup_alpha":0}`:            "ref_model_mixup_alpha",
		`{"objective":"dpo","sync_ref_model":true,"optimizer":"schedule_free_adamw"}`:    "would be an average",
		`{"objective":"rloo","beta":0,"sync_ref_model":true}`:                            "has none",
		`{"objective":"rloo","vllm_importance_sampling_correction":true,"num_epochs":1}`: "belongs to objective: grpo",
	} {
		c := parse(t, text)
		if c.Objective != "dpo" {
			c.Rewards = []judge.Config{{Regex: "."}}
		}
		if c.Objective == "sft" {
			c.Rewards = nil
		}
		c.MicroBatchSize = 8
		if _, err := c.Resolve(1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
