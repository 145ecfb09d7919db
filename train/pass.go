package train

import (
	"context"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
)

// accumulate runs the micro-batches of a step of total units forward and
// backward and leaves the sum of their gradients in the parameters'.
func (r *run) accumulate(ctx context.Context, micro []data.Batch, total int64) (Score, error) {
	var sum Score
	if err := r.opt.clear(); err != nil {
		return sum, err
	}
	for i := range micro {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		s, err := r.pass(&micro[i], total)
		if err != nil {
			return sum, err
		}
		sum.add(s)
		r.report(i+1, false)
	}
	if r.Adapter == nil {
		return sum, nil
	}
	return sum, r.Adapter.FinishGradients()
}

// count is the number of units in micro.
func (r *run) count(micro []data.Batch) int64 {
	n := int64(0)
	for i := range micro {
		n += r.objective.Count(&micro[i])
	}
	return n
}

// pass runs b through the model and scores it. As a part of a step of total
// units it also adds b's share of the gradients; total 0 only measures.
func (r *run) pass(b *data.Batch, total int64) (Score, error) {
	var s Score
	p := LogProbs{Answers: r.answersOf(b)}
	var err error
	if r.objective.Reads() >= ReadsReference {
		if p.Reference, err = r.reference(b, total > 0); err != nil {
			return s, err
		}
	}
	err = r.dev.Run(func() error {
		t := &autograd.Tape{Dev: r.dev, Record: total > 0, BF16: r.bf16, Seed: uint64(*r.Config.Seed), Step: uint32(r.step)}
		defer t.Free()
		h := r.Model.Hidden(t, inputs(b))
		if t.Err() != nil {
			return t.Err()
		}
		var weights []float32
		early := r.objective.Reads() == ReadsTargets
		if early && total > 0 {
			weights = r.objective.Weigh(b, p, total)
		}
		var err error
		if p.Policy, err = t.Values(r.Model.LogProbAt(t, h, b.Target, weights, r.temperature()).LogP); err != nil {
			return err
		}
		if o, ok := r.objective.(entropic); ok {
			if p.Entropy, err = r.entropy(t, h, b, o, total); err != nil {
				return err
			}
		}
		s = r.objective.Score(b, p)
		if !early && total > 0 {
			r.Model.LogProbAt(t, h, b.Target, r.objective.Weigh(b, p, total), r.temperature())
		}
		t.Done(h)
		return t.Backward()
	})
	return s, err
}

// entropy returns the entropies of the distributions that b's targets are of [N],
// 0 where there is none, and as a part of a step of total units adds what o makes
// of them to the gradients.
func (r *run) entropy(t *autograd.Tape, h *autograd.Tensor, b *data.Batch, o entropic, total int64) ([]float32, error) {
	out := make([]float32, len(b.Target))
	if b.Supervised == 0 {
		return out, nil
	}
	var weights, coef []float32
	if total > 0 {
		weights = o.EntropyWeights(b, total)
	}
	rows := make([]int32, 0, b.Supervised)
	for i, target := range b.Target {
		if target < 0 {
			continue
		}
		rows = append(rows, int32(i))
		if weights != nil { // an entropy is what KL to the uniform distribution falls short of log V
			coef = append(coef, -weights[i])
		}
	}
	said := t.Rows(h, t.Upload(rows, len(rows), 1))
	_, entropy, err := r.Model.Diverge(t, said, model.Teacher{}, 1, r.temperature(), coef)
	t.Done(said)
	if err != nil {
		return nil, err
	}
	for k, i := range rows {
		out[i] = entropy[k]
	}
	return out, nil
}

// temperature is what logits are divided by.
func (r *run) temperature() float32 {
	if r.Config.Temperature == nil {
		return 1
	}
	return float32(*r.Config.Temperature)
}

// reference returns the log-probabilities of b's targets [N] under the model
// without its adapter.
func (r *run) reference(b *data.Batch, training bool) ([]float32, error) {
	return r.logProbs(b, training, true)
}

// logProbs returns the log-probabilities of b's targets [N], of the model as it is
// or without its adapter, computed as in training or as when measuring: with bf16
// they round differently, and a new adapter must give the same as none. Dropout is
// off.
func (r *run) logProbs(b *data.Batch, training, base bool) (logp []float32, err error) {
	err = r.dev.Run(func() error {
		t := &autograd.Tape{Dev: r.dev, Record: training, Still: true, Base: base, BF16: r.bf16}
		defer t.Free()
		h := r.Model.Hidden(t, inputs(b))
		if t.Err() != nil {
			return t.Err()
		}
		logp, err = t.Values(r.Model.LogProbAt(t, h, b.Target, nil, r.temperature()).LogP)
		return err
	})
	return logp, err
}

// inputs is what the model reads of b.
func inputs(b *data.Batch) model.Inputs {
	return model.Inputs{IDs: b.IDs, Pos: b.Pos, Seq: b.Seq, Key: b.Key}
}
