package train

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// distill is generalized knowledge distillation (Agarwal et
// al. 2023, arXiv:2306.13649): the mean over supervised tokens of how far what the
// model expects next is from what its teacher does, both at temperature. beta 0 is
// KL(teacher ‖ model) (Hinton et al. 2015, arXiv:1503.02531), 1 KL(model ‖ teacher)
// (Gu et al. 2023, arXiv:2306.08543), and between them the generalized
// Jensen-Shannon divergence beta·KL(teacher ‖ m) + (1-beta)·KL(model ‖ m) with
// m = beta·teacher + (1-beta)·model.
type distill struct {
	sft
	beta, temperature float32
}

func newDistill(c Config) Objective {
	return distill{beta: float32(*c.Beta), temperature: float32(*c.Temperature)}
}

func (distill) Unit() string { return "taught token" }

func (distill) Score(_ *data.Batch, p LogProbs) Score {
	s := Score{Values: Values{{Name: "entropy"}}}
	for i, v := range p.Divergence {
		s.Loss += float64(v)
		s.Values[0].V += float64(p.Entropy[i])
	}
	return s
}

// checkDistill refuses what a divergence cannot be.
func (c Config) checkDistill(Config) error {
	if *c.Beta > 1 {
		return fail.Usagef("train.beta", "0 is KL(teacher ‖ model), 1 KL(model ‖ teacher), 0.5 between them", "objective: distill mixes model and teacher by beta, found %v", *c.Beta)
	}
	return nil
}

// Distills tells whether c's objective learns from a teacher.
func (c Config) Distills() bool { return objectives[c.Objective].teacher }

// checkTeacher refuses a teacher whose tokens are not the model's.
func (r *run) checkTeacher() error {
	if t := r.Teacher; t != nil && !r.Config.UseULD {
		return sameTokens(t.Spec.V, r.Model.Spec.V)
	}
	return nil
}

// sameTokens refuses a teacher with another number of tokens than the model.
func sameTokens(teacher, model int) error {
	if teacher != model {
		return fail.Usagef("train.teacher", "a teacher of the same family shares its tokens; use_uld_loss: true compares with one of others", "the teacher has %d tokens, the model %d", teacher, model)
	}
	return nil
}

// distilled is pass for o.
func (r *run) distilled(b *data.Batch, o distill, w whole) (s Score, err error) {
	if r.Config.UseULD {
		return r.ranked(b, o, w)
	}
	p := LogProbs{Divergence: make([]float32, len(b.Target)), Entropy: make([]float32, len(b.Target))}
	rows, weights := make([]int32, 0, b.Supervised), make([]float32, 0, b.Supervised)
	for i, t := range b.Target {
		if t >= 0 {
			rows, weights = append(rows, int32(i)), append(weights, 1/float32(max(w.units, 1)))
		}
	}
	if len(rows) == 0 {
		return o.Score(b, LogProbs{}), nil
	}
	if w.units == 0 {
		weights = nil
	}
	weights = r.scaled(weights)
	err = r.dev.Run(func() error {
		t := r.tape(w.units > 0)
		its := &autograd.Tape{Dev: r.dev, BF16: r.bf16, F16: r.scaler != nil}
		defer t.Free()
		defer its.Free()
		teacher := model.Teacher{Top: r.Config.LossTopK, IDs: b.TopIDs, LogP: b.TopLogP}
		if teacher.Top == 0 {
			said := r.Teacher.Hidden(its, inputs(b))
			if its.Err() != nil {
				return its.Err()
			}
			teacher.Model, teacher.Hidden = r.Teacher, its.Rows(said, its.Upload(rows, len(rows), 1))
			its.Done(said)
		}
		h := r.Model.Hidden(t, r.inputs(b, t.Record))
		if t.Err() != nil {
			return t.Err()
		}
		said := t.Rows(h, t.Upload(rows, len(rows), 1))
		loss, entropy, err := r.Model.Diverge(t, said, teacher, o.beta, o.temperature, weights)
		t.Done(said, h)
		if err != nil {
			return err
		}
		for k, i := range rows {
			p.Divergence[i], p.Entropy[i] = loss[k], entropy[k]
		}
		s = o.Score(b, p)
		s.parts = r.bySource(b, p)
		r.suspect(b, p.Divergence)
		return t.Backward()
	})
	return s, err
}
