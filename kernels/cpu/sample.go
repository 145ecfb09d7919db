package cpu

import (
	"cmp"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Sample chooses a token for every row of logits.
func (c *CPU) Sample(ids kernels.Buffer, a *kernels.SampleArgs) {
	want("sample: ids", ids, len(a.Rows))
	want("sample: logits", a.Logits, len(a.Rows)*a.V)
	out, logits := i32(ids), f32(a.Logits)
	par.For(len(a.Rows), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			out[i] = sample(&a.Rows[i], logits[i*a.V:(i+1)*a.V])
		}
	})
}

// sample picks greedily the lowest id of the largest value, else by one random
// number; -1 where a value is NaN or +Inf.
func sample(s *kernels.SampleRow, logits []float32) int32 {
	for _, v := range logits {
		if !(v <= math.MaxFloat32) {
			return -1
		}
	}
	if s.Temperature == 0 && !penalizes(s) {
		return largest(logits)
	}
	u := uniform(s.Seed, s.Stream, s.Step)
	if keepsAll(s, len(logits)) {
		return drawAll(logits, s.Temperature, u)
	}
	p := probs(s, logits)
	if s.Temperature == 0 {
		return largest(p)
	}
	last := int32(0)
	for i, v := range p {
		if v == 0 {
			continue
		}
		last = int32(i)
		if u -= v; u < 0 {
			break
		}
	}
	return last
}

// keepsAll reports whether the probabilities of v tokens are those of the logits,
// at a temperature that float32 has the range for.
func keepsAll(s *kernels.SampleRow, v int) bool {
	return !penalizes(s) && (s.TopK <= 0 || s.TopK >= v) && !(s.TopP > 0 && s.TopP < 1) && !(s.MinP > 0) && s.Temperature >= 0.01
}

// drawPart is how many tokens drawAll adds up in float32.
const drawPart = 512

// drawAll is sample where no token is removed: sums of parts say in which part the
// token of the number u is.
func drawAll(logits []float32, temperature, u float64) int32 {
	var buf [drawPart]float32
	scale := 1 / temperature
	shift := float32(float64(vec.Max(logits)) * scale)
	exps := func(part int) ([]float32, float64) {
		x := logits[part*drawPart : min((part+1)*drawPart, len(logits))]
		y := buf[:len(x)]
		return y, float64(vec.ExpSum(y, x, float32(scale), shift))
	}
	sums, total, last := make([]float64, ceilDiv(len(logits), drawPart)), 0.0, 0
	for i := range sums {
		if _, sums[i] = exps(i); sums[i] > 0 {
			last = i
		}
		total += sums[i]
	}
	part := 0
	for u *= total; part < last && u >= sums[part]; part++ {
		u -= sums[part]
	}
	id := int32(0)
	p, _ := exps(part)
	for i, v := range p {
		if v == 0 {
			continue
		}
		id = int32(part*drawPart + i)
		if u -= float64(v); u < 0 {
			break
		}
	}
	return id
}

// largest is the lowest index of the largest element.
func largest[T float32 | float64](x []T) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

func penalizes(s *kernels.SampleRow) bool {
	return s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1
}

// probs are the probabilities of every token after the filters. Removed tokens
// are exactly 0.
func probs(s *kernels.SampleRow, logits []float32) []float64 {
	x := make([]float64, len(logits))
	for i, v := range logits {
		x[i] = float64(v)
	}
	if penalizes(s) {
		penalize(x, s.Seen, s.RepetitionPenalty)
	}
	if t := s.Temperature; t != 0 && t != 1 {
		for i := range x {
			x[i] /= t
		}
	}
	if k := s.TopK; k > 0 && k < len(x) {
		least := kthLargest(x, k)
		remove(x, func(v float64) bool { return v < least })
	}
	if p := s.TopP; p > 0 && p < 1 {
		topP(x, p)
	}
	if p := s.MinP; p > 0 {
		best := slices.Max(x)
		remove(x, func(v float64) bool { return math.Exp(v-best) < p })
	}
	return softmax(x)
}

// penalize makes the tokens seen so far less likely, each once (Keskar et al.
// 2019, arXiv:1909.05858).
func penalize(x []float64, seen []int32, penalty float64) {
	done := map[int32]bool{}
	for _, id := range seen {
		if done[id] || int(id) >= len(x) {
			continue
		}
		done[id] = true
		if x[id] > 0 {
			x[id] /= penalty
		} else {
			x[id] *= penalty
		}
	}
}

// remove makes the tokens for which out says so impossible.
func remove(x []float64, out func(float64) bool) {
	for i, v := range x {
		if out(v) {
			x[i] = math.Inf(-1)
		}
	}
}

// kthLargest is the element of x that k-1 others are not below.
func kthLargest(x []float64, k int) float64 {
	top, least := make([]float64, 0, 2*k), math.Inf(-1)
	for _, v := range x {
		if v <= least {
			continue
		}
		if top = append(top, v); len(top) == 2*k {
			slices.Sort(top)
			top = top[:copy(top, top[k:])]
			least = top[0]
		}
	}
	if len(top) < k { // the others are -Inf
		return least
	}
	slices.Sort(top)
	return top[len(top)-k]
}

// topP keeps the smallest set of most likely tokens whose probability reaches
// p: going up from the least likely, tokens go while their sum is at most 1-p
// (Holtzman et al. 2020, arXiv:1904.09751). Only the likely ones are sorted, unless
// the order of the others' sum could matter.
func topP(x []float64, p float64) {
	probs := softmax(x)
	for least := slices.Max(probs) / 16; least > 1e-12; least /= 16 {
		var likely []int
		rest, sum := 0.0, 0.0
		for i, v := range probs {
			if v >= least {
				likely = append(likely, i)
				sum += v
			} else {
				rest += v
			}
		}
		if sum < p+sumMargin {
			continue
		}
		n, sure := unlikely(probs, likely, rest, p)
		if !sure {
			break
		}
		for _, i := range likely[:n] {
			x[i] = math.Inf(-1)
		}
		for i, v := range probs {
			if v < least {
				x[i] = math.Inf(-1)
			}
		}
		return
	}
	topPOfAll(x, probs, p)
}

// sumMargin is far above what the order of a sum of probabilities changes in it.
const sumMargin = 1e-9

// topPOfAll is topP with all tokens in order.
func topPOfAll(x, probs []float64, p float64) {
	var order []int
	for i, v := range x {
		if !math.IsInf(v, -1) {
			order = append(order, i)
		}
	}
	n, _ := unlikely(probs, order, 0, p)
	for _, i := range order[:n] {
		x[i] = math.Inf(-1)
	}
}

// unlikely sorts order by probability and counts those to go, where less likely ones of
// the sum below have gone. sure: it would be the same number had below been summed otherwise.
func unlikely(probs []float64, order []int, below, p float64) (n int, sure bool) {
	slices.SortFunc(order, func(a, b int) int { // of equal ones the lowest id stays longest
		return cmp.Or(cmp.Compare(probs[a], probs[b]), b-a)
	})
	sure = true
	for n < len(order)-1 {
		below += probs[order[n]]
		sure = sure && math.Abs(below-(1-p)) > sumMargin
		if below > 1-p {
			break
		}
		n++
	}
	return n, sure
}

func softmax(x []float64) []float64 {
	best := slices.Max(x)
	out := make([]float64, len(x))
	sum := 0.0
	for i, v := range x {
		out[i] = math.Exp(v - best)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// uniform is a number in [0, 1) from a counter (SplitMix64's finalizer).
func uniform(seed, stream, step uint64) float64 {
	z := seed*0x9e3779b97f4a7c15 ^ stream*0xbf58476d1ce4e5b9 ^ (step+1)*0x94d049bb133111eb
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z = (z ^ z>>31) * 0x9e3779b97f4a7c15
	z ^= z >> 29
	return float64(z>>11) / (1 << 53)
}
