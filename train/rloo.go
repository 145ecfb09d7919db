package train

import (
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// rloo is REINFORCE with the mean of the other answers' rewards as the baseline of each
// (leave one out; Ahmadian et al. 2024, arXiv:2402.14740). An answer's reward, less beta
// times its log ratio to the reference, less that mean is its advantage A. The loss is the mean over
// answers of -min(ρA, clip(ρ)A), ρ the ratio of the whole answer's probability to that when
// it was written.
type rloo struct{ low, high float64 } // bounds of ρ

func newRLOO(c Config) Objective {
	return rloo{1 - *c.Epsilon, 1 + *c.EpsilonHigh}
}

// rlooOnly are the keys that rloo alone has, rlooShared those of grpo that it reads, too.
var (
	rlooOnly   = []string{"normalize_advantages", "reward_clip_range"}
	rlooShared = []string{"rewards", "num_generations", "max_completion_length", "steps_per_generation", "num_iterations", "top_p", "top_k", "min_p",
		"repetition_penalty", "epsilon", "epsilon_high", "mask_truncated_completions"}
)

// fillRLOO gives c its defaults as objective: rloo.
func (c *Config) fillRLOO() {
	c.fillAnswers(2, c.GradientAccumulationSteps)
	defp(&c.EpsilonHigh, *c.Epsilon)
}

// checkRLOO refuses what cannot go together.
func (c Config) checkRLOO(given Config) error {
	for name := range given.GRPO.keys() {
		if !slices.Contains(rlooShared, name) && !slices.Contains(rlooOnly, name) {
			return fail.Usagef("train."+name, "leave it out; of grpo's keys rloo reads "+strings.Join(rlooShared, ", "), "%s belongs to objective: grpo, not %s", name, c.Objective)
		}
	}
	if r := c.RewardClipRange; r != nil && (len(r) != 2 || !(r[0] <= r[1])) {
		return fail.Usagef("train.reward_clip_range", "reward_clip_range: [-1, 1]", "reward_clip_range: %v is no least and most reward", r)
	}
	return c.checkAnswers()
}

// Reads says that of the reference the rewards know, before a step begins.
func (rloo) Reads() Reads                { return ReadsPolicy }
func (rloo) Samples() int                { return 1 }
func (rloo) Unit() string                { return "answer" }
func (rloo) Count(b *data.Batch) int64   { return int64(len(b.Seq) - 1) }
func (rloo) EntropyFirst(_ float64) bool { return false }
func (rloo) EntropyWeights(*data.Batch, []float32, float64, int64) []float32 {
	return nil
}

// ratio is that of answer s to when it was written; 1 of one that nothing is learned from.
func (rloo) ratio(b *data.Batch, p LogProbs, s int) float64 {
	if p.Answers.Old == nil {
		return 1
	}
	return math.Exp(sumOf(b, p.Policy, s) - sumOf(b, p.Answers.Old, s))
}

func (r rloo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s, a := range p.Answers.Advantage {
		ratio := r.ratio(b, p, s)
		if free, cut := ratio*a, r.clip(ratio)*a; cut < free {
			continue
		}
		weighTargets(b, out, s, ratio*a/float64(total))
	}
	return out
}

func (r rloo) clip(ratio float64) float64 { return min(max(ratio, r.low), r.high) }

func (r rloo) Score(b *data.Batch, p LogProbs) Score {
	var sc Score
	low, high, entropy := 0.0, 0.0, 0.0
	lowMin, highMax := 1.0, 0.0
	for s, a := range p.Answers.Advantage {
		ratio := r.ratio(b, p, s)
		sc.Loss -= min(ratio*a, r.clip(ratio)*a)
		l, h := b2f(ratio < r.low && a < 0), b2f(ratio > r.high && a > 0)
		low, high, lowMin, highMax = low+l, high+h, min(lowMin, l), max(highMax, h)
	}
	for i, t := range b.Target {
		if t >= 0 {
			entropy += float64(p.Entropy[i])
		}
	}
	units := float64(r.Count(b))
	sc.Values = Values{{"entropy", over(entropy, float64(b.Supervised)) * units},
		{"clip_ratio/low_mean", low}, {"clip_ratio/high_mean", high}, {"clip_ratio/region_mean", low + high},
		{"clip_ratio/low_min", lowMin * units}, {"clip_ratio/high_max", highMax * units}}
	return sc
}

// leaveOneOut are the advantages of answers: the weighted sum of rewards, within
// RewardClipRange and less penalty [answers] (nil: none), less the mean of the other answers to
// the prompt. What lies how, NaN included, and values are as of advantages.
func (g GRPO) leaveOneOut(rewards [][]float64, weights []float64, names []string, penalty []float64) (out []float64, values Values) {
	total := weighted(rewards, weights)
	values = rewardValues(rewards, total, names)
	k, n := g.NumGenerations, len(total)
	v := slices.Clone(total)
	for i := range v {
		if c := g.RewardClipRange; c != nil {
			v[i] = min(max(v[i], c[0]), c[1])
		}
		if penalty != nil {
			v[i] -= penalty[i]
		}
	}
	flat := 0.0
	for lo := 0; lo < n; lo += k {
		group := v[lo : lo+k]
		flat += zero(deviation(group))
		sum, of := 0.0, 0.0
		for _, x := range group {
			if !math.IsNaN(x) {
				sum, of = sum+x, of+1
			}
		}
		for _, x := range group {
			if of < 2 { // nothing to compare with
				x = math.NaN()
			}
			out = append(out, x-(sum-x)/(of-1))
		}
	}
	if g.NormalizeAdvantages {
		out = normalized(out, deviation(out)+advantageEpsilon)
	}
	return quiet(out), append(values, Value{"frac_reward_zero_std", flat / (float64(n) / float64(k))})
}
