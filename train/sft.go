package train

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// sft is supervised fine-tuning: the mean of -log p over the supervised tokens or,
// with label smoothing ε (Szegedy et al. 2015, arXiv:1512.00567), of (1-ε)·(-log p)
// and ε times the mean of -log p over the vocabulary. With loss_type: dft (dynamic
// fine-tuning, Wu et al. 2025, arXiv:2508.05629) each token's -log p counts p times, p
// without a gradient.
type sft struct {
	smooth  float64
	dynamic bool
}

func newSFT(c Config) Objective {
	return sft{c.LabelSmoothingFactor, slices.Contains(c.LossType, "dft")}
}

// checkSFT refuses what the loss would not hear.
func (c Config) checkSFT(Config) error {
	if c.LabelSmoothingFactor > 0 && slices.Contains(c.LossType, "dft") {
		return fail.Usagef("train.label_smoothing_factor", "leave one of both out", "loss_type: dft weighs the given tokens alone, and label_smoothing_factor: %g teaches the others", c.LabelSmoothingFactor)
	}
	return nil
}

func (o sft) Reads() Reads {
	if o.dynamic {
		return ReadsPolicy
	}
	return ReadsTargets
}

func (sft) Samples() int { return 1 }

func (sft) Unit() string { return unitToken }

func (sft) Count(b *data.Batch) int64 { return int64(b.Supervised) }

func (o sft) Weigh(b *data.Batch, p LogProbs, total int64) []float32 {
	out := make([]float32, len(b.Target))
	for i, t := range b.Target {
		switch {
		case t < 0:
		case o.dynamic:
			out[i] = float32(math.Exp(float64(p.Policy[i])) / float64(total))
		default:
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
	if o.dynamic {
		dynamic := 0.0
		for _, v := range p.Policy {
			dynamic -= float64(v) * math.Exp(float64(v)) // no target: 0
		}
		return Score{Loss: dynamic, Values: Values{{nllLoss, nll}}}
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
