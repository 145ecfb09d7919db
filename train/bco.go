package train

import "github.com/tunekit/tunekit/data"

// bco is binary classifier optimization (Jung et al. 2024, arXiv:2404.04656) of
// answers that are marked as wanted or unwanted, or of pairs, of which the first
// is wanted: -log σ(reward - δ) of a wanted answer, -log σ(δ - reward) of an
// unwanted one, where a reward is β times the log-probability less the
// reference's and δ, the baseline, the mean reward of all answers so far.
type bco struct{ beta float64 }

func newBCO(c Config) Objective { return bco{*c.Beta} }

func (bco) Reads() Reads { return ReadsReference }

func (bco) Samples() int { return 0 }

func (bco) Unit() string { return "answer" }

func (bco) Count(b *data.Batch) int64 { return int64(len(b.Seq) - 1) }

func (o bco) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s := range len(b.Seq) - 1 {
		sign := sign(b, s)
		weighTargets(b, out, s, sign*o.beta*sigmoid(-sign*(o.beta*ratioOf(b, p, s)-p.Baseline))/float64(total))
	}
	return out
}

func (o bco) Score(b *data.Batch, p LogProbs) Score {
	s := answersScore("delta")
	for k := range len(b.Seq) - 1 {
		sign, reward := sign(b, k), o.beta*ratioOf(b, p, k)
		s.Loss += softplus(-sign * (reward - p.Baseline))
		s.addAnswer(sign > 0, reward, sumOf(b, p.Policy, k), p.Baseline)
	}
	return s
}

// sign is 1 for a wanted sample of b, -1 for an unwanted one.
func sign(b *data.Batch, s int) float64 {
	if wanted(b, s) {
		return 1
	}
	return -1
}
