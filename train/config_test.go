package train

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

func parse(t *testing.T, text string) Config {
	t.Helper()
	var c Config
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// TestDefaults: what an empty section means.
func TestDefaults(t *testing.T) {
	c, err := parse(t, "{}").Resolve(42)
	if err != nil {
		t.Fatal(err)
	}
	if c.Adapter != "lora" || c.MicroBatchSize != 1 || c.GradientAccumulationSteps != 16 || c.NumEpochs != 3 || *c.LearningRate != 2e-4 ||
		c.LRScheduler != "cosine" || *c.WarmupRatio != 0.03 || *c.AdamBeta2 != 0.999 || c.WeightDecay != 0 || *c.MaxGradNorm != 1 ||
		c.EvalSteps.Of(200) != 20 || !c.SaveSteps.Auto || c.SaveTotalLimit != 2 || *c.Seed != 42 {
		t.Errorf("%+v", c)
	}
	for text, rate := range map[string]float64{"{adapter: none}": 2e-5, "{adapter: qlora}": 2e-4, "{lora: {init_from: x}}": 1e-4, "{learning_rate: 3e-3}": 3e-3} {
		if c, err := parse(t, text).Resolve(1); err != nil || *c.LearningRate != rate {
			t.Errorf("%s: rate %v, %v", text, *c.LearningRate, err)
		}
	}
	if c, _ := parse(t, "{warmup_steps: 0}").Resolve(1); c.warmup(100) != 0 {
		t.Error("warmup_steps: 0 warms up")
	}
	if c, _ := parse(t, "{warmup_ratio: 0.101}").Resolve(1); c.warmup(100) != 11 {
		t.Errorf("warm-up of %d steps", c.warmup(100))
	}
	if c, _ := parse(t, "{num_epochs: 2.5}").Resolve(1); c.Total(7) != 18 || c.Total(0) != 1 {
		t.Errorf("%d steps", c.Total(7))
	}
}

// TestEvery: the forms of eval_steps and save_steps.
func TestEvery(t *testing.T) {
	for text, want := range map[string]Every{
		"auto": {Auto: true}, "50": {Steps: 50}, "0.1": {Share: 0.1}, "10%": {Share: 0.1}, "0": {Off: true},
	} {
		if got, err := parseEvery(text); err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "1.5", "x", "", "0%", "200%", "nan", "inf", "1e300"} {
		if got, err := parseEvery(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}

// TestConfigErrors: every impossible setting is refused by the name of its key.
func TestConfigErrors(t *testing.T) {
	for text, key := range map[string]string{
		"{adapter: dora}":                       "train.adapter",
		"{dtype: f16}":                          "train.dtype",
		"{micro_batch_size: -1}":                "train.micro_batch_size",
		"{gradient_accumulation_steps: -2}":     "train.gradient_accumulation_steps",
		"{num_epochs: -1}":                      "train.num_epochs",
		"{max_steps: -1}":                       "train.max_steps",
		"{learning_rate: -1}":                   "train.learning_rate",
		"{learning_rate: .nan}":                 "train.learning_rate",
		"{warmup_steps: 3, warmup_ratio: 0.1}":  "train.warmup_steps",
		"{warmup_ratio: 1.5}":                   "train.warmup_ratio",
		"{adam_beta1: 1}":                       "train.adam_beta1",
		"{adam_beta2: -0.1}":                    "train.adam_beta2",
		"{adam_epsilon: -1}":                    "train.adam_epsilon",
		"{momentum: 0.9}":                       "train.momentum",
		"{optimizer: sgd, momentum: 1}":         "train.momentum",
		"{weight_decay: -1}":                    "train.weight_decay",
		"{max_grad_norm: -1}":                   "train.max_grad_norm",
		"{save_total_limit: -1}":                "train.save_total_limit",
		"{optimizer: adamm}":                    "train.optimizer",
		"{optimizer: sgd, adam_beta1: 0.9}":     "train.adam_beta1",
		"{optimizer: lion, adam_epsilon: 1e-8}": "train.adam_epsilon",
		"{optim_args: {rank: 4}}":               "train.optim_args.rank",
		"{optimizer: galore_adamw, optim_args: {proj_type: middle}}":                      "train.optim_args.proj_type",
		"{optimizer: adafactor, optim_args: {warmup_init: true}}":                         "train.optim_args.warmup_init",
		"{optimizer: adafactor, optim_args: {relative_step: true}, learning_rate: 1}":     "train.learning_rate",
		"{optimizer: adafactor, optim_args: {relative_step: true}, warmup_steps: 1}":      "train.warmup_steps",
		"{optimizer: adafactor, optim_args: {relative_step: true}, lr_scheduler: linear}": "train.lr_scheduler",
		"{optimizer: schedule_free_adamw, lr_scheduler: cosine}":                          "train.lr_scheduler",
		"{optimizer: schedule_free_sgd, ema_decay: 0.9}":                                  "train.ema_decay",
		"{optimizer: schedule_free_sgd, momentum: 0}":                                     "train.optimizer",
		"{optimizer: sgd, optim_args: {nesterov: true}}":                                  "train.optim_args.nesterov",
		"{optimizer: sgd, optim_args: {dampening: 0.1}}":                                  "train.optim_args.dampening",
		"{optimizer: prodigy, lora: {loraplus_lr_ratio: 4}}":                              "train.lora.loraplus_lr_ratio",
		"{lora: {loraplus_lr_embedding: 1e-4}}":                                           "lora.loraplus_lr_embedding",
		"{optimizer: prodigy, lr_pattern: {q_proj: 1e-4}}":                                "train.lr_pattern",
		"{optim_target_modules: [q_proj]}":                                                "train.optim_target_modules",
		"{ema_decay: 1}":                                                                  "train.ema_decay",
		"{lr_scheduler: constant, warmup_steps: 3}":                                       "train.warmup_steps",
		"{lr_scheduler: greedy, warmup_ratio: 0.1, lr_scheduler_kwargs: {min_lr: 0}}":     "train.warmup_steps",
		"{lr_scheduler: greedy}":                                                          "train.lr_scheduler_kwargs",
		"{lr_scheduler: reduce_lr_on_plateau, lr_scheduler_kwargs: {mode: max}}":          "train.lr_scheduler_kwargs",
		"{lr_scheduler: reduce_lr_on_plateau, lr_scheduler_kwargs: {patience: 1.5}}":      "train.lr_scheduler_kwargs",
		"{lr_scheduler: reduce_lr_on_plateau, lr_scheduler_kwargs: {factor: 1}}":          "train.lr_scheduler_kwargs",
		"{lr_scheduler: cosin}":                                                           "train.lr_scheduler",
		"{lr_scheduler_kwargs: {power: 2}}":                                               "train.lr_scheduler_kwargs",
		"{lr_scheduler_kwargs: {num_cycles: many}}":                                       "train.lr_scheduler_kwargs",
		"{lr_scheduler: cosine_with_min_lr}":                                              "train.lr_scheduler_kwargs",
		"{lr_scheduler: warmup_stable_decay}":                                             "train.lr_scheduler_kwargs",
		"{adapter: none, lora: {r: 4}}":                                                   "train.lora",
		"{load_best_model_at_end: true, eval_steps: 0}":                                   "train.load_best_model_at_end",
		"{activation_offloading: disk, gradient_checkpointing: false}":                    "train.activation_offloading",
		"{lora: {r: -1}}": "lora.r",
	} {
		_, err := parse(t, text).Resolve(1)
		if fail.Code(err) != int(fail.Usage) || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%s: error %v, want one of %s", text, err, key)
		}
	}
}
