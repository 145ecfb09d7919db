package train

import "github.com/tunekit/tunekit/data"

// sft is supervised fine-tuning: the mean of -log p over the supervised tokens or,
// with label smoothing ε (Szegedy et al. 2015, arXiv:1512.00567), of (1-ε)·(-log p)
// and ε times the mean of -log p over the vocabulary.
type sft struct{ smooth float64 }

func newSFT(c Config) Objective { return sft{c.LabelSmoothingFactor} }

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

func (o sft) Score(_ *data.Batch, p LogProbs) Score {
	nll := 0.0
	for _, v := range p.Policy {
		nll -= float64(v)
	}
	if o.smooth == 0 {
		return Score{Loss: nll}
	}
	all := 0.0
	for _, v := range p.Mean {
		all -= float64(v)
	}
	return Score{Loss: (1-o.smooth)*nll + o.smooth*all, Values: Values{{nllLoss, nll}}}
}

// nllLoss is the mean of -log p where the loss is another.
const nllLoss = "nll_loss"
