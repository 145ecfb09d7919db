package train

import "github.com/tunekit/tunekit/data"

// sft is supervised fine-tuning: the mean of -log p over the supervised tokens.
type sft struct{}

func newSFT(Config) Objective { return sft{} }

func (sft) Reads() Reads { return ReadsTargets }

func (sft) Samples() int { return 1 }

func (sft) Unit() string { return unitToken }

func (sft) Count(b *data.Batch) int64 { return int64(b.Supervised) }

func (sft) Weigh(b *data.Batch, _ LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for i, t := range b.Target {
		if t >= 0 {
			out[i] = float32(1 / float64(total))
		}
	}
	return out
}

func (sft) Score(_ *data.Batch, p LogProbs) Score {
	s := 0.0
	for _, v := range p.Policy {
		s -= float64(v)
	}
	return Score{Loss: s}
}
