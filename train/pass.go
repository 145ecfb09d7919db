package train

import (
	"context"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
)

// whole is what is known of the step that a batch is a part of. Without units a
// pass only measures.
type whole struct {
	units, tokens int64
	baseline      float64
}

// accumulate runs micro-batches of a step forward and backward and leaves the sum
// of their gradients in the parameters'.
func (r *run) accumulate(ctx context.Context, micro []data.Batch, w whole) (Score, error) {
	var sum Score
	if err := r.opt.clear(); err != nil {
		return sum, err
	}
	if r.Adapter != nil {
		if err := r.Adapter.ClearGradients(); err != nil {
			return sum, err
		}
	}
	for i := range micro {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		s, err := r.pass(&micro[i], w)
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

// countTokens is the number of tokens in micro over which a part of the loss is a mean.
func (r *run) countTokens(micro []data.Batch) int64 {
	n := int64(0)
	if count := objectives[r.Config.Objective].tokens; count != nil {
		for i := range micro {
			n += count(&micro[i])
		}
	}
	return n
}

// targets are the tokens of b whose log-probabilities the objective looks at.
func (r *run) targets(b *data.Batch) []int32 {
	if f := objectives[r.Config.Objective].targets; f != nil {
		return f(b)
	}
	return b.Target
}

// pass runs b through the model and scores it. As a part of a step it also adds
// b's share of the gradients.
func (r *run) pass(b *data.Batch, w whole) (Score, error) {
	if objectives[r.Config.Objective].reward {
		return r.rewards(b, w)
	}
	var s Score
	p := LogProbs{Baseline: w.baseline, Tokens: w.tokens}
	var err error
	if r.objective.Reads() >= ReadsReference {
		if p.Reference, err = r.reference(b, w.units > 0); err != nil {
			return s, err
		}
	}
	total, targets := w.units, r.targets(b)
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
		if p.Policy, err = t.Values(r.Model.LogProb(t, h, targets, weights).LogP); err != nil {
			return err
		}
		s = r.objective.Score(b, p)
		if !early && total > 0 {
			r.Model.LogProb(t, h, targets, r.objective.Weigh(b, p, total))
		}
		t.Done(h)
		return t.Backward()
	})
	return s, err
}

// reference returns the log-probabilities of b's targets [N] under the model
// without its adapter.
func (r *run) reference(b *data.Batch, training bool) ([]float32, error) {
	return r.logProbs(b, true, training)
}

// logProbs returns the log-probabilities of b's targets [N] under the model, or
// under the base without its adapter, computed as in training or as when
// measuring: with bf16 they round differently, and a new adapter must give the
// same as none. Nothing is kept for a gradient.
func (r *run) logProbs(b *data.Batch, base, training bool) (logp []float32, err error) {
	err = r.dev.Run(func() error {
		t := &autograd.Tape{Dev: r.dev, Record: training, Base: base, BF16: r.bf16}
		defer t.Free()
		h := r.Model.Hidden(t, inputs(b))
		if t.Err() != nil {
			return t.Err()
		}
		logp, err = t.Values(r.Model.LogProb(t, h, b.Target, nil).LogP)
		return err
	})
	return logp, err
}

// inputs is what the model reads of b.
func inputs(b *data.Batch) model.Inputs {
	return model.Inputs{IDs: b.IDs, Pos: b.Pos, Seq: b.Seq, Key: b.Key}
}
