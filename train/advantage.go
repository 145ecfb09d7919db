package train

import "math"

// advantageEpsilon is added to a standard deviation before it divides.
const advantageEpsilon = 1e-4

// advantages are how much better each answer is than the others to its prompt
// [answers], of rewards by function [functions][answers], NaN where a function had
// none to give. Answers to a prompt lie together, k of them. An answer without
// any reward has advantage 0; a function without one for an answer adds nothing
// to its sum. values are what TRL logs of rewards, by the names of functions.
func (g GRPO) advantages(rewards [][]float64, weights []float64, names []string) (out []float64, values Values) {
	k := g.NumGenerations
	n := len(rewards[0])
	total := weighted(rewards, weights)
	values = rewardValues(rewards, total, names)
	flat := 0.0
	for i := 0; i < n; i += k {
		if g.ScaleRewards == "batch" {
			flat += zero(deviation(total)) * float64(k)
		} else {
			flat += zero(deviation(total[i:i+k])) * float64(k)
		}
	}
	values = append(values, Value{"frac_reward_zero_std", flat / float64(n)})
	if g.MultiObjective == "normalize_then_sum" {
		each := make([][]float64, len(rewards))
		for f, r := range rewards {
			for i := 0; i < n; i += k {
				each[f] = append(each[f], normalized(r[i:i+k], deviation(r[i:i+k])+advantageEpsilon)...)
			}
		}
		out = weighted(each, weights)
		out = normalized(out, deviation(out)+advantageEpsilon)
	} else {
		for i := 0; i < n; i += k {
			group, by := total[i:i+k], 1.0
			switch g.ScaleRewards {
			case "group":
				by = deviation(group) + advantageEpsilon
			case "batch":
				by = deviation(total) + advantageEpsilon
			}
			out = append(out, normalized(group, by)...)
		}
	}
	return quiet(out), values
}

// rewardValues are what TRL logs of rewards by function and their sum.
func rewardValues(rewards [][]float64, total []float64, names []string) (values Values) {
	for f, r := range rewards {
		values = append(values, Value{"rewards/" + names[f] + "/mean", meanOf(r)}, Value{"rewards/" + names[f] + "/std", deviation(r)})
	}
	return append(values, Value{"reward", meanOf(total)}, Value{"reward_std", deviation(total)})
}

// quiet is advantages with 0 where there is none.
func quiet(advantages []float64) []float64 {
	for i, v := range advantages {
		if math.IsNaN(v) {
			advantages[i] = 0
		}
	}
	return advantages
}

func zero(v float64) float64 {
	if v < 1e-8 {
		return 1
	}
	return 0
}

// weighted is the weighted sum over functions of each answer, NaN where none has
// a value.
func weighted(rewards [][]float64, weights []float64) []float64 {
	out := make([]float64, len(rewards[0]))
	for i := range out {
		out[i] = math.NaN()
		for f, r := range rewards {
			switch {
			case math.IsNaN(r[i]):
			case math.IsNaN(out[i]):
				out[i] = weights[f] * r[i]
			default:
				out[i] += weights[f] * r[i]
			}
		}
	}
	return out
}

// normalized is (v - mean) / by.
func normalized(v []float64, by float64) []float64 {
	mean := meanOf(v)
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = (x - mean) / by
	}
	return out
}

// meanOf is the mean of what is a number, 0 of none.
func meanOf(v []float64) float64 {
	sum, n := 0.0, 0.0
	for _, x := range v {
		if !math.IsNaN(x) {
			sum, n = sum+x, n+1
		}
	}
	return over(sum, n)
}

// deviation is the unbiased standard deviation of what is a number, 0 of fewer
// than two.
func deviation(v []float64) float64 {
	mean := meanOf(v)
	sum, n := 0.0, 0.0
	for _, x := range v {
		if !math.IsNaN(x) {
			sum, n = sum+(x-mean)*(x-mean), n+1
		}
	}
	if n < 2 {
		return 0
	}
	return math.Sqrt(sum / (n - 1))
}
