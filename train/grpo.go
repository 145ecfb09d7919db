package train

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/data"
)

// grpo is group relative policy optimization and the losses that followed it
// (Shao et al. 2024, arXiv:2402.03300): the model learns from its own answers to
// a prompt, each by its advantage A over the others. ρ is how much likelier the
// model makes a token, or with importance_sampling_level: sequence the whole answer
// (its geometric mean; GSPO, Zheng et al. 2025, arXiv:2507.18071), than the model that
// wrote it. What is minimized is the sum of a token's loss, and of beta times
// an estimate of its KL to the model without its adapter, over a number that
// loss_type names:
//
//	grpo     -min(ρA, clip(ρ)A)     mean over an answer's tokens, then over answers
//	bnpo     the same               tokens of the micro-batch, then mean over micro-batches
//	dr_grpo  the same               max_completion_length, then answers (Liu et al. 2025, arXiv:2503.20783)
//	dapo     the same               tokens of the step (Yu et al. 2025, arXiv:2503.14476)
//	luspo    the same               answers: long ones count more (arXiv:2602.05261)
//	cispo    -min(ρ, ε_high)A·log p tokens of the step; ρ has no gradient (MiniMax 2025, arXiv:2506.13585)
//	sapo     -4/τ·σ(τ(ρ-1))A        as grpo; τ by the sign of A (Gao et al. 2025, arXiv:2511.20347)
//	vespo    -φ(w)A·log p           tokens of the step; φ(w) = wᵏ·exp(λ(1-w)) of the answer's whole ratio w, without
//	                                a gradient, k and λ by the sign of A (arXiv:2602.10693)
type grpo struct {
	GRPO
	loss string
	beta float64
}

var grpoLosses = []string{"dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"}

func newGRPO(c Config) Objective { return grpo{c.GRPO, c.LossType[0], *c.Beta} }

func (g grpo) Reads() Reads {
	if g.beta > 0 {
		return ReadsReference
	}
	return ReadsPolicy
}

func (grpo) Samples() int { return 1 }

func (g grpo) Unit() string {
	switch g.loss {
	case "bnpo":
		return "micro-batch"
	case "dapo", "cispo", "vespo":
		return "token of an answer"
	}
	return "answer"
}

func (g grpo) Count(b *data.Batch) int64 {
	switch g.Unit() {
	case "micro-batch":
		return 1
	case "answer":
		return int64(len(b.Seq) - 1)
	}
	return int64(b.Supervised)
}

// share is how much a token of an answer of n tokens counts in the loss of a
// batch with all of them: the sum is a sum over units.
func (g grpo) share(n, all int) float64 {
	switch g.loss {
	case "grpo", "sapo":
		return 1 / float64(n)
	case "bnpo":
		return 1 / float64(all)
	case "dr_grpo":
		return 1 / float64(g.MaxCompletionLength)
	}
	return 1
}

func (g grpo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for _, v := range g.answers(b, p) {
		for k, i := range v.tokens {
			out[i] = float32(-v.slope[k] / float64(total))
		}
	}
	return out
}

// EntropyFirst reports whether EntropyWeights looks at entropies.
func (g grpo) EntropyFirst(coef float64) bool { return coef != 0 && *g.TopEntropyQuantile < 1 }

// EntropyWeights is how much the entropy of each token counts in the loss: that of
// those which the rewards teach.
func (g grpo) EntropyWeights(b *data.Batch, entropy []float32, coef float64, total int64) []float32 {
	if coef == 0 || b.Supervised == 0 {
		return nil
	}
	silent, n := g.decided(b, entropy), 0
	out := make([]float32, len(b.Target))
	for i, t := range b.Target {
		if t >= 0 && (silent == nil || !silent[i]) {
			out[i] = 1
			n++
		}
	}
	w := -coef / float64(n) * float64(g.Count(b)) / float64(total)
	for i := range out {
		out[i] *= float32(w)
	}
	return out
}

func (g grpo) Score(b *data.Batch, p LogProbs) Score {
	var s Score
	m := grpoMeans{sequence: g.ImportanceSamplingLevel == "sequence"}
	for _, v := range g.answers(b, p) {
		s.Loss += v.loss
		m.add(v)
	}
	units := float64(g.Count(b))
	mean := func(name string, v float64) { s.Values = append(s.Values, Value{name, v * units}) }
	if g.beta > 0 {
		mean("kl", over(m.kl, m.tokens))
	}
	all, taught, n := 0.0, 0.0, 0.0
	silent := g.decided(b, p.Entropy)
	for i, t := range b.Target {
		if t < 0 {
			continue
		}
		all += float64(p.Entropy[i])
		if silent == nil || !silent[i] {
			taught, n = taught+float64(p.Entropy[i]), n+1
		}
	}
	if *g.EntropyCoef != 0 || g.UseAdaptiveEntropy {
		mean("policy_loss", over(s.Loss, units))
		if !g.UseAdaptiveEntropy { // which the whole step decides
			mean("entropy_coef", p.EntropyCoef)
		}
		s.Loss -= p.EntropyCoef * over(taught, n) * units
	}
	s.entropy = running{taught, n}
	mean("entropy", over(all, float64(b.Supervised)))
	switch g.loss {
	case "sapo":
	case "cispo":
		mean("cispo_clip_ratio", over(m.high, m.of))
	case "vespo":
		mean("vespo/phi_seq_mean", over(m.phi, m.answers))
	default:
		mean("clip_ratio/low_mean", over(m.low, m.of))
		mean("clip_ratio/high_mean", over(m.high, m.of))
		mean("clip_ratio/region_mean", over(m.low+m.high, m.of))
		mean("clip_ratio/low_min", m.lowMin)
		mean("clip_ratio/high_max", m.highMax)
	}
	return s
}

// over is a/n, 0 of nothing.
func over(a, n float64) float64 {
	if n == 0 {
		return 0
	}
	return a / n
}

// grpoMeans adds up what Score shows.
type grpoMeans struct {
	sequence         bool // a ratio is that of an answer
	answers, kl, phi float64
	tokens           float64
	low, high, of    float64 // tokens, or answers, whose ratio was cut, of all
	some             bool    // lowMin is that of an answer
	lowMin, highMax  float64 // shares of an answer's
}

func (m *grpoMeans) add(v *answer) {
	n := float64(len(v.tokens))
	low, high := over(v.low, n), over(v.high, n)
	if n > 0 || m.sequence { // of an answer that nothing is learned from no share of tokens is known
		if !m.some {
			m.some, m.lowMin = true, low
		}
		m.lowMin, m.highMax = min(m.lowMin, low), max(m.highMax, high)
	}
	m.answers, m.tokens, m.kl, m.phi = m.answers+1, m.tokens+n, m.kl+v.kl, m.phi+v.phi
	if m.sequence {
		m.low, m.high, m.of = m.low+low, m.high+high, m.of+1
	} else {
		m.low, m.high, m.of = m.low+v.low, m.high+v.high, m.of+n
	}
}

// answer is what a loss makes of one answer.
type answer struct {
	tokens []int     // their places in the batch
	slope  []float64 // derivative of the batch's loss by each log-probability
	loss   float64   // its part of the batch's loss

	kl, phi   float64 // sum of the estimates; vespo's weight
	low, high float64 // tokens whose ratio was cut
}

// answers computes every answer of b.
func (g grpo) answers(b *data.Batch, p LogProbs) []*answer {
	decided := g.decided(b, p.Entropy)
	var out []*answer
	for s := 0; s+1 < len(b.Seq); s++ {
		v := &answer{}
		for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
			if b.Target[i] >= 0 {
				v.tokens = append(v.tokens, int(i))
			}
		}
		v.slope = make([]float64, len(v.tokens))
		g.one(v, p, p.Answers.Advantage[s], decided, b.Supervised)
		out = append(out, v)
	}
	return out
}

// one computes v, an answer of advantage a. A token of which silent is true learns
// by its KL alone; all is how many tokens the batch has.
func (g grpo) one(v *answer, p LogProbs, a float64, silent []bool, all int) {
	n := len(v.tokens)
	if n == 0 {
		v.phi = 1
		return
	}
	old := p.Answers.Old
	if old == nil {
		old = p.Policy
	}
	logRatio, mean := make([]float64, n), 0.0
	for k, i := range v.tokens {
		logRatio[k] = float64(p.Policy[i]) - float64(old[i])
		mean += logRatio[k] / float64(n)
	}
	sampler := g.sampler(v, old, p.Answers.Sampler)
	if g.loss == "vespo" {
		w := 0.0
		for k := range logRatio {
			w += min(max(logRatio[k], -20), 20)
		}
		for _, r := range sampler {
			w += min(max(math.Log(r), vespoLeast), 20)
		}
		v.phi = g.phi(w, a)
	}
	offPolicy := g.offPolicy(v, p, old, a)
	share := g.share(n, all)
	whole := 0.0 // derivative by the logarithm of the answer's own ratio
	for k, i := range v.tokens {
		level := logRatio[k]
		if g.ImportanceSamplingLevel == "sequence" {
			level = mean
		}
		ratio := math.Exp(level)
		factor := share
		if offPolicy || silent != nil && silent[i] {
			factor = 0
		} else if sampler != nil && g.loss != "vespo" {
			factor *= sampler[k]
		}
		t := g.token(ratio, float64(p.Policy[i]), a, v)
		v.loss += factor * t.loss
		v.slope[k] += factor * t.byLogP
		byRatio := factor * t.byRatio
		if g.beta > 0 {
			d := float64(p.Reference[i]) - float64(p.Policy[i])
			kl, slope := math.Expm1(d)-d, -math.Expm1(d)
			if *g.UseBiasCorrectionKL {
				byRatio += share * g.beta * kl
				kl, slope = kl*ratio, slope*ratio
			}
			v.kl += kl
			v.loss += share * g.beta * kl
			v.slope[k] += share * g.beta * slope
		}
		if g.ImportanceSamplingLevel == "token" {
			v.slope[k] += byRatio * ratio
		} else {
			whole += byRatio * ratio
		}
	}
	for k := range v.slope {
		v.slope[k] += whole / float64(n)
	}
}

// tokenLoss is a token's loss and its derivatives by the ratio and by the
// log-probability.
type tokenLoss struct{ loss, byRatio, byLogP float64 }

// token is the loss of a token of an answer of advantage a, and counts in v
// whether its ratio was cut.
func (g grpo) token(ratio, logp, a float64, v *answer) tokenLoss {
	low, high := 1-*g.Epsilon, 1+*g.EpsilonHigh
	switch g.loss {
	case "cispo":
		if ratio > *g.EpsilonHigh && a > 0 {
			v.high++
		}
		w := -min(ratio, *g.EpsilonHigh) * a
		return tokenLoss{loss: w * logp, byLogP: w}
	case "sapo":
		t := *g.SAPOTemperatureNeg
		if a > 0 {
			t = *g.SAPOTemperaturePos
		}
		s := 1 / (1 + math.Exp(-t*(ratio-1)))
		return tokenLoss{loss: -4 / t * s * a, byRatio: -4 * s * (1 - s) * a}
	case "vespo":
		return tokenLoss{loss: -v.phi * a * logp, byLogP: -v.phi * a}
	}
	free, slope := ratio, a // of the ratio that only delta bounds
	if g.Delta != nil && ratio > *g.Delta {
		free, slope = *g.Delta, 0
	}
	if free < low && a < 0 {
		v.low++
	}
	if free > high && a > 0 {
		v.high++
	}
	cut, cutSlope := min(max(ratio, low), high), a
	if cut != ratio {
		cutSlope = 0
	}
	switch {
	case free*a < cut*a:
		return tokenLoss{loss: -free * a, byRatio: -slope}
	case cut*a < free*a:
		return tokenLoss{loss: -cut * a, byRatio: -cutSlope}
	}
	return tokenLoss{loss: -free * a, byRatio: -(slope + cutSlope) / 2}
}

// vespoLeast is the least log ratio that vespo looks at, as its authors have it.
var vespoLeast = math.Log(1e-8)

// phi is vespo's weight of an answer of advantage a and log ratio w.
func (g grpo) phi(w, a float64) float64 {
	w = min(max(w, vespoLeast), 20)
	k, lambda := *g.VESPOKNeg, *g.VESPOLambdaNeg
	if a >= 0 {
		k, lambda = *g.VESPOKPos, *g.VESPOLambdaPos
	}
	lambda = max(lambda, 1e-4)
	return math.Exp(lambda + k*w - lambda*math.Exp(w))
}

// offPolicy reports whether an answer is left out because the model has moved
// too far from where it was when it wrote it, and it was a bad one.
func (g grpo) offPolicy(v *answer, p LogProbs, old []float32, a float64) bool {
	if g.OffPolicyMaskThreshold == nil || a >= 0 {
		return false
	}
	if p.Answers.Sampler != nil {
		old = p.Answers.Sampler
	}
	kl := 0.0
	for _, i := range v.tokens {
		kl += float64(old[i]) - float64(p.Policy[i])
	}
	return kl/float64(len(v.tokens)) > *g.OffPolicyMaskThreshold
}

// sampler is how much each token counts because what wrote it rounds otherwise
// than training does; nil: no correction.
func (g grpo) sampler(v *answer, old, wrote []float32) []float64 {
	if wrote == nil {
		return nil
	}
	out, sum := make([]float64, len(v.tokens)), 0.0
	for k, i := range v.tokens {
		out[k] = float64(old[i]) - float64(wrote[i])
		sum += out[k]
	}
	sequence := g.SamplingMode == "sequence_mask" || g.SamplingMode == "sequence_truncate"
	for k := range out {
		if sequence {
			out[k] = sum
		}
		r := math.Exp(out[k])
		switch {
		case g.SamplingMode == "token_truncate" || g.SamplingMode == "sequence_truncate":
			r = max(min(r, *g.SamplingClipMax), *g.SamplingClipMin)
		case r > *g.SamplingClipMax || r < *g.SamplingClipMin:
			r = 0
		}
		out[k] = r
	}
	return out
}

// decided marks the tokens that are left out because the model was too sure of
// them; nil: none is (Wang et al. 2025, arXiv:2506.01939).
func (g grpo) decided(b *data.Batch, entropy []float32) []bool {
	if *g.TopEntropyQuantile >= 1 || b.Supervised == 0 {
		return nil
	}
	var all []float32
	for i, t := range b.Target {
		if t >= 0 {
			all = append(all, entropy[i])
		}
	}
	slices.Sort(all)
	at := (1 - *g.TopEntropyQuantile) * float64(len(all)-1)
	lo := int(at)
	limit := float64(all[lo])
	if lo+1 < len(all) {
		limit += (at - float64(lo)) * (float64(all[lo+1]) - limit)
	}
	out := make([]bool, len(b.Target))
	for i := range out {
		out[i] = float64(entropy[i]) < limit
	}
	return out
}
