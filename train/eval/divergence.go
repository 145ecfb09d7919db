package eval

import (
	"context"
	"math"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats/fail"
)

// Divergence sums up how far a model's next-token distributions are from a
// reference's.
type Divergence struct {
	KL     float64 `json:"kl"`     // mean over positions of Σ p_ref·(log p_ref - log p), in nats
	Max    float64 `json:"max"`    // largest of a position
	Top1   float64 `json:"top1"`   // share of positions with the same most likely next token
	Tokens int64   `json:"tokens"` // positions compared
}

// Diverge measures m against ref at the positions of samples that count. Both
// must have the same vocabulary.
func Diverge(ctx context.Context, m, ref *model.Model, samples []Sample) (Divergence, error) {
	var d Divergence
	if ref.Spec.V != m.Spec.V {
		return d, fail.Inputf("kl", "compare a model with what it was made from", "the models have %d and %d tokens", ref.Spec.V, m.Spec.V)
	}
	scores, err := Run(ctx, m, ref, samples, ScoreOptions{})
	if err != nil {
		return d, err
	}
	for _, s := range scores {
		d.KL, d.Top1, d.Tokens = d.KL+s.KL, d.Top1+s.Same, d.Tokens+int64(s.Pos)
		for _, k := range s.KLs {
			d.Max = math.Max(d.Max, float64(k))
		}
	}
	if d.Tokens == 0 {
		return d, fail.Inputf("kl", "give data to measure on", "there is no token to measure the KL on")
	}
	d.KL, d.Top1 = d.KL/float64(d.Tokens), d.Top1/float64(d.Tokens)
	return d, nil
}

// CheckMerge is the gate max_kl of a merge: an error of kind fail.Gate above it.
func (d Divergence) CheckMerge(where string, limit float64) error {
	if limit > 0 && !(d.KL <= limit) {
		return fail.Gatef(where, "dtype: f32 rounds less; or raise max_kl", "KL between base+adapter and merged is %.3g, max_kl is %.3g (%d tokens)", d.KL, limit, d.Tokens)
	}
	return nil
}
