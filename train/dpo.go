package train

import (
	"math"

	"github.com/tunekit/tunekit/data"
)

// dpo is direct preference optimization (Rafailov et al. 2023,
// arXiv:2305.18290) with the sigmoid loss: the mean over pairs of
// -log σ(β·((c - c₀) - (r - r₀))), where c and r are the log-probabilities of
// the chosen and the rejected answer, summed over their supervised tokens, and
// c₀ and r₀ those of the model without its adapter. A reward is β·(c - c₀).
type dpo struct{ beta float64 }

func newDPO(c Config) Objective { return dpo{*c.Beta} }

func (dpo) Reads() Reads { return ReadsReference }

func (dpo) Samples() int { return 2 }

func (dpo) Unit() string { return "pair" }

func (dpo) Count(b *data.Batch) int64 { return int64(len(b.Seq)-1) / 2 }

func (d dpo) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for s := 0; s+2 < len(b.Seq); s += 2 {
		margin := d.reward(b, p, s) - d.reward(b, p, s+1)
		w := float32(d.beta / (1 + math.Exp(margin)) / float64(total))
		for i := b.Seq[s]; i < b.Seq[s+2]; i++ {
			switch {
			case b.Target[i] < 0:
			case i < b.Seq[s+1]:
				out[i] = w
			default:
				out[i] = -w
			}
		}
	}
	return out
}

func (d dpo) Score(b *data.Batch, p LogProbs) Score {
	s := Score{Values: Values{{Name: "rewards/chosen"}, {Name: "rewards/rejected"}, {Name: "rewards/accuracies"}, {Name: "rewards/margins"},
		{Name: "logps/chosen"}, {Name: "logps/rejected"}}}
	for k := 0; k+2 < len(b.Seq); k += 2 {
		chosen, rejected := d.reward(b, p, k), d.reward(b, p, k+1)
		margin, right := chosen-rejected, 0.0
		if margin > 0 {
			right = 1
		}
		s.Loss += math.Max(-margin, 0) + math.Log1p(math.Exp(-math.Abs(margin)))
		for i, v := range []float64{chosen, rejected, right, margin, sumOf(b, p.Policy, k), sumOf(b, p.Policy, k+1)} {
			s.Values[i].V += v
		}
	}
	return s
}

// reward is that of sample s of b.
func (d dpo) reward(b *data.Batch, p LogProbs, s int) float64 {
	return d.beta * (sumOf(b, p.Policy, s) - sumOf(b, p.Reference, s))
}

// sumOf adds up the log-probabilities of sample s of b.
func sumOf(b *data.Batch, logp []float32, s int) float64 {
	sum := 0.0
	for _, v := range logp[b.Seq[s]:b.Seq[s+1]] {
		sum += float64(v)
	}
	return sum
}
