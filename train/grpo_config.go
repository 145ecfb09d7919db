package train

import (
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/judge"
)

// GRPO are the keys of the objectives that learn from the model's own answers, by TRL's
// names (GRPOConfig, RLOOConfig). Resolve fills in what is not given and the objective
// reads; all else is left out.
type GRPO struct {
	Rewards []judge.Config `yaml:"rewards,omitempty" doc:"grpo, rloo: what answers are rewarded for"`

	NumGenerations      int      `yaml:"num_generations,omitempty" doc:"grpo, rloo: answers to a prompt, which are compared" unset:"8; rloo 2" range:"[2,65536]"`
	MaxCompletionLength int      `yaml:"max_completion_length,omitempty" doc:"grpo, rloo, distill: tokens of an answer at most" unset:"256" range:"[1,1000000]"`
	StepsPerGeneration  int      `yaml:"steps_per_generation,omitempty" doc:"grpo, rloo: micro batches of answers that are made at once, of each rank" unset:"gradient_accumulation_steps" range:"[1,1000000]"`
	NumIterations       int      `yaml:"num_iterations,omitempty" doc:"grpo, rloo: times that answers are learned from" unset:"1" range:"[1,10000]"`
	TopP                *float64 `yaml:"top_p,omitempty" doc:"grpo, rloo: answers are of the likeliest tokens with this probability together" unset:"1.0" range:"(0,1]"`
	TopK                int      `yaml:"top_k,omitempty" doc:"grpo, rloo: answers are of so many likeliest tokens" unset:"all" range:"[1,1000000]"`
	MinP                *float64 `yaml:"min_p,omitempty" doc:"grpo, rloo: answers are of tokens at least this likely, as a share of the likeliest" unset:"0" range:"[0,1]"`
	RepetitionPenalty   *float64 `yaml:"repetition_penalty,omitempty" doc:"grpo, rloo: of answers" unset:"1.0" range:"(0,100]"`

	ImportanceSamplingLevel  string   `yaml:"importance_sampling_level,omitempty" doc:"grpo: what has a ratio" unset:"grpo token" enum:"token|sequence"`
	Epsilon                  *float64 `yaml:"epsilon,omitempty" doc:"grpo, rloo: ratios are cut below 1 less this" unset:"0.2" range:"[0,1]"`
	EpsilonHigh              *float64 `yaml:"epsilon_high,omitempty" doc:"grpo, rloo: and above 1 plus this; with cispo above this" unset:"epsilon; cispo 5.0" range:"[0,1000]"`
	Delta                    *float64 `yaml:"delta,omitempty" doc:"grpo: largest ratio of an answer worse than the others" unset:"none" range:"(1,1000]"`
	UseBiasCorrectionKL      *bool    `yaml:"use_bias_correction_kl,omitempty" doc:"grpo: weigh the KL by the ratio" unset:"true"`
	ScaleRewards             Scaling  `yaml:"scale_rewards,omitempty" doc:"grpo: advantages are divided by the standard deviation of this" unset:"group"`
	MultiObjective           string   `yaml:"multi_objective_aggregation,omitempty" doc:"grpo: how several rewards become one" unset:"grpo sum_then_normalize" enum:"sum_then_normalize|normalize_then_sum"`
	MaskTruncatedCompletions bool     `yaml:"mask_truncated_completions,omitempty" doc:"grpo, rloo: learn nothing from answers that were cut off" unset:"false"`
	SAPOTemperaturePos       *float64 `yaml:"sapo_temperature_pos,omitempty" doc:"grpo: of sapo, better answers" unset:"1.0" range:"(0,1000]"`
	SAPOTemperatureNeg       *float64 `yaml:"sapo_temperature_neg,omitempty" doc:"grpo: of sapo, worse answers" unset:"1.05" range:"(0,1000]"`
	VESPOKPos                *float64 `yaml:"vespo_k_pos,omitempty" doc:"grpo: of vespo, better answers" unset:"2.0" range:"[0,1000]"`
	VESPOLambdaPos           *float64 `yaml:"vespo_lambda_pos,omitempty" doc:"grpo: of vespo, better answers" unset:"3.0" range:"[0,1000]"`
	VESPOKNeg                *float64 `yaml:"vespo_k_neg,omitempty" doc:"grpo: of vespo, worse answers" unset:"3.0" range:"[0,1000]"`
	VESPOLambdaNeg           *float64 `yaml:"vespo_lambda_neg,omitempty" doc:"grpo: of vespo, worse answers" unset:"2.0" range:"[0,1000]"`
	TopEntropyQuantile       *float64 `yaml:"top_entropy_quantile,omitempty" doc:"grpo: share of the tokens, those with the largest entropy, that the rewards teach" unset:"1.0" range:"(0,1]"`
	EntropyCoef              *float64 `yaml:"entropy_coef,omitempty" doc:"grpo: entropy is rewarded by this much" unset:"0" range:"[-1000,1000]"`
	UseAdaptiveEntropy       bool     `yaml:"use_adaptive_entropy,omitempty" doc:"grpo: entropy_coef rises by entropy_coef_delta after each step whose entropy is at most entropy_target, falls after others, and counts where the step before was at most there" unset:"false"`
	EntropyCoefMin           *float64 `yaml:"entropy_coef_min,omitempty" doc:"grpo: with use_adaptive_entropy, the least" unset:"0" range:"[-1000,1000]"`
	EntropyCoefMax           *float64 `yaml:"entropy_coef_max,omitempty" doc:"grpo: with use_adaptive_entropy, the most" unset:"1.0" range:"[-1000,1000]"`
	EntropyCoefDelta         *float64 `yaml:"entropy_coef_delta,omitempty" doc:"grpo: with use_adaptive_entropy, what a step changes" unset:"0.005" range:"[0,1000]"`
	EntropyTarget            *float64 `yaml:"entropy_target,omitempty" doc:"grpo: with use_adaptive_entropy, in nats a token" unset:"0.2" range:"[0,100]"`
	OffPolicyMaskThreshold   *float64 `yaml:"off_policy_mask_threshold,omitempty" doc:"grpo: bad answers further from the model than this are left out" unset:"none" range:"[0,1000]"`
	SamplingCorrection       bool     `yaml:"vllm_importance_sampling_correction,omitempty" doc:"grpo: weigh tokens by how differently they are rounded while answers are made" unset:"false"`
	SamplingMode             string   `yaml:"vllm_importance_sampling_mode,omitempty" doc:"grpo: what is weighed, and what happens to large weights" unset:"grpo sequence_mask" enum:"token_truncate|token_mask|sequence_truncate|sequence_mask"`
	SamplingClipMax          *float64 `yaml:"vllm_importance_sampling_clip_max,omitempty" doc:"grpo: largest weight" unset:"3.0" range:"(0,1000]"`
	SamplingClipMin          *float64 `yaml:"vllm_importance_sampling_clip_min,omitempty" doc:"grpo: smallest weight" unset:"0" range:"[0,1000]"`

	NormalizeAdvantages bool      `yaml:"normalize_advantages,omitempty" doc:"rloo: advantages have mean 0 and deviation 1 over all answers that are made at once" unset:"false"`
	RewardClipRange     []float64 `yaml:"reward_clip_range,omitempty" doc:"rloo: [least, most] that the sum of an answer's rewards counts" unset:"none"`
}

// Scaling is what rewards are divided by the spread of: group, batch or none.
type Scaling string

// Enum lists them.
func (Scaling) Enum() []string { return []string{"group", "batch", "none"} }

// JSONSchema lists them, and TRL's older words.
func (Scaling) JSONSchema() map[string]any {
	return map[string]any{"enum": []any{"group", "batch", "none", true, false}}
}

// UnmarshalYAML accepts a word, or TRL's older true (group) and false (none).
func (s *Scaling) UnmarshalYAML(n *yaml.Node) error {
	*s = Scaling(n.Value)
	switch n.Value {
	case "true":
		*s = "group"
	case "false":
		*s = "none"
	case "group", "batch", "none":
	default:
		return fmt.Errorf("found %q, want group, batch or none", n.Value)
	}
	return nil
}

// fillAnswers gives what every objective of answers reads its default, where it is not
// given: generations answers to a prompt, in a training of accumulation micro-batches a step.
func (g *GRPO) fillAnswers(generations, accumulation int) {
	deft(&g.NumGenerations, generations)
	deft(&g.MaxCompletionLength, 256)
	deft(&g.StepsPerGeneration, accumulation)
	deft(&g.NumIterations, 1)
	for p, v := range map[**float64]float64{&g.TopP: 1, &g.MinP: 0, &g.RepetitionPenalty: 1, &g.Epsilon: 0.2} {
		defp(p, v)
	}
	for i := range g.Rewards {
		g.Rewards[i] = g.Rewards[i].Resolve()
	}
}

// fillGRPO gives c its defaults as objective: grpo.
func (c *Config) fillGRPO() {
	g := &c.GRPO
	g.fillAnswers(8, c.GradientAccumulationSteps)
	deft(&g.ImportanceSamplingLevel, "token")
	deft(&g.ScaleRewards, "group")
	deft(&g.MultiObjective, "sum_then_normalize")
	deft(&g.SamplingMode, "sequence_mask")
	defp(&g.UseBiasCorrectionKL, true)
	high := *g.Epsilon
	if slices.Contains(c.LossType, "cispo") {
		high = 5
	}
	defp(&g.EpsilonHigh, high)
	for p, v := range map[**float64]float64{&g.SAPOTemperaturePos: 1, &g.SAPOTemperatureNeg: 1.05, &g.VESPOKPos: 2, &g.VESPOLambdaPos: 3, &g.VESPOKNeg: 3, &g.VESPOLambdaNeg: 2,
		&g.TopEntropyQuantile: 1, &g.EntropyCoef: 0, &g.SamplingClipMax: 3, &g.SamplingClipMin: 0} {
		defp(p, v)
	}
	if !g.UseAdaptiveEntropy {
		return
	}
	for p, v := range map[**float64]float64{&g.EntropyCoefMin: 0, &g.EntropyCoefMax: 1, &g.EntropyCoefDelta: 0.005, &g.EntropyTarget: 0.2} {
		defp(p, v)
	}
}

func deft[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// keys yields the names of g's keys that are set.
func (g GRPO) keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		v := reflect.ValueOf(g)
		for _, f := range reflect.VisibleFields(v.Type()) {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if !v.FieldByIndex(f.Index).IsZero() && !yield(name) {
				return
			}
		}
	}
}

// grpoOnly names the losses that read a key, of those that not all read.
var grpoOnly = map[string][]string{
	"epsilon": clipping, "epsilon_high": append([]string{"cispo"}, clipping...), "delta": clipping,
	"importance_sampling_level": append([]string{"cispo", "sapo"}, clipping...),
	"sapo_temperature_pos":      {"sapo"}, "sapo_temperature_neg": {"sapo"},
	"vespo_k_pos": {"vespo"}, "vespo_lambda_pos": {"vespo"}, "vespo_k_neg": {"vespo"}, "vespo_lambda_neg": {"vespo"},
}

// adaptiveEntropy are the keys that use_adaptive_entropy reads.
var adaptiveEntropy = []string{"entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"}

// clipping are the losses that cut ratios on both sides.
var clipping = []string{"dapo", "grpo", "bnpo", "dr_grpo", "luspo"}

// checkGRPO refuses what cannot go together.
func (c Config) checkGRPO(given Config) error {
	g := c.GRPO
	for name := range given.GRPO.keys() {
		if slices.Contains(rlooOnly, name) {
			return fail.Usagef("train."+name, "leave it out", "%s belongs to objective: rloo, not %s", name, c.Objective)
		}
		if only := grpoOnly[name]; only != nil && !slices.Contains(only, c.LossType[0]) {
			return fail.Usagef("train."+name, "leave it out", "%s belongs to loss_type: %s, not %s", name, strings.Join(only, ", "), c.LossType[0])
		}
		if strings.HasPrefix(name, "vllm_") && !g.SamplingCorrection {
			return fail.Usagef("train."+name, "vllm_importance_sampling_correction: true", "%s belongs to vllm_importance_sampling_correction, which is off", name)
		}
		if slices.Contains(adaptiveEntropy, name) && !g.UseAdaptiveEntropy {
			return fail.Usagef("train."+name, "use_adaptive_entropy: true", "%s belongs to use_adaptive_entropy, which is off", name)
		}
		if name == "use_bias_correction_kl" && *c.Beta == 0 {
			return fail.Usagef("train."+name, "beta: 0.04 has a KL", "use_bias_correction_kl weighs a KL that beta: 0 leaves out")
		}
	}
	if err := c.checkAnswers(); err != nil {
		return err
	}
	if c.LossType[0] == "vespo" && g.SamplingCorrection && strings.HasPrefix(g.SamplingMode, "sequence") {
		return fail.Usagef("train.vllm_importance_sampling_mode", "use token_truncate or token_mask", "loss_type: vespo makes one ratio of an answer's tokens itself, and vllm_importance_sampling_mode: %s is one already", g.SamplingMode)
	}
	if *g.SamplingClipMin > *g.SamplingClipMax {
		return fail.Usagef("train.vllm_importance_sampling_clip_min", "", "vllm_importance_sampling_clip_min: %v is above vllm_importance_sampling_clip_max: %v", *g.SamplingClipMin, *g.SamplingClipMax)
	}
	if g.UseAdaptiveEntropy && *g.EntropyCoefMin > *g.EntropyCoefMax {
		return fail.Usagef("train.entropy_coef_min", "", "entropy_coef_min: %v is above entropy_coef_max: %v", *g.EntropyCoefMin, *g.EntropyCoefMax)
	}
	if g.MultiObjective == "normalize_then_sum" && g.ScaleRewards != "group" {
		return fail.Usagef("train.scale_rewards", "leave it out, or use sum_then_normalize", "scale_rewards: %s does nothing under multi_objective_aggregation: normalize_then_sum, which divides each reward by its group's spread", g.ScaleRewards)
	}
	return nil
}

// checkAnswers refuses what cannot go together with any objective that learns from answers.
func (c Config) checkAnswers() error {
	g, micro, accumulation := c.GRPO, c.MicroBatchSize, c.GradientAccumulationSteps
	if c.Adapter == "none" && *c.Beta > 0 && !c.SyncRefModel {
		return fail.Usagef("train.adapter", "use adapter: lora or qlora, beta: 0, or sync_ref_model: true, which keeps a copy", "objective: %s compares answers with the model without its adapter; adapter: none leaves nothing to compare with", c.Objective)
	}
	if len(g.Rewards) == 0 {
		return fail.Usagef("train.rewards", "rewards: [{exact: answer}] compares with a column of the rows; docs/objectives.md lists what there is", "objective: %s learns from rewards, and none is given", c.Objective)
	}
	names := map[string]bool{}
	for i := range g.Rewards {
		r := g.Rewards[i]
		if err := r.Check(fmt.Sprintf("train.rewards[%d]", i)); err != nil {
			return err
		}
		if name := r.Resolve().Name; names[name] {
			return fail.Usagef(fmt.Sprintf("train.rewards[%d].name", i), "name: another", "two rewards are called %s", name)
		}
		names[r.Resolve().Name] = true
	}
	if g.StepsPerGeneration%accumulation != 0 {
		return fail.Usagef("train.steps_per_generation", fmt.Sprintf("a multiple of %d", accumulation), "steps_per_generation: %d is not a whole number of steps of %d micro batches", g.StepsPerGeneration, accumulation)
	}
	if n := micro * max(1, c.Ranks) * g.StepsPerGeneration; n%g.NumGenerations != 0 {
		return fail.Usagef("train.num_generations", "micro_batch_size times steps_per_generation, of all ranks, must be a multiple of it", "num_generations: %d does not divide the %d answers that are made at once (micro_batch_size %d, steps_per_generation %d, ranks %d)", g.NumGenerations, n, micro, g.StepsPerGeneration, max(1, c.Ranks))
	}
	return nil
}
