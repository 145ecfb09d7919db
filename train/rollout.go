package train

import (
	"github.com/tunekit/tunekit/data"
)

// rollout is the answers that a model wrote at one time, to learn from. The ID of
// a sample made of one is its place among them.
type rollout struct {
	answers []written
}

// written is an answer.
type written struct {
	advantage    float64
	old, sampler []float32 // of its targets in order; nil: not needed
}

// answersOf is what is known of the answers that b is made of; nil where they are
// not the model's.
func (r *run) answersOf(b *data.Batch) *Answers {
	if r.rollout == nil {
		return nil
	}
	a := &Answers{}
	spread := func(to *[]float32, from []float32, s int) {
		if from == nil {
			return
		}
		if *to == nil {
			*to = make([]float32, len(b.Target))
		}
		for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
			if b.Target[i] >= 0 {
				(*to)[i], from = from[0], from[1:]
			}
		}
	}
	for s := 0; s+1 < len(b.Seq); s++ {
		w := r.rollout.answers[b.Key[b.Seq[s]]>>32]
		a.Advantage = append(a.Advantage, w.advantage)
		spread(&a.Old, w.old, s)
		spread(&a.Sampler, w.sampler, s)
	}
	return a
}
