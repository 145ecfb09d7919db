package train

import (
	"context"
	"slices"

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

// tape is one for a pass of the model in training.
func (r *run) tape(record bool) *autograd.Tape {
	t := &autograd.Tape{Dev: r.dev, Record: record, BF16: r.bf16, F16: r.scaler != nil, Seed: uint64(*r.Config.Seed), Step: uint32(r.step)}
	if r.aside != nil {
		t.Aside = r.aside
	}
	return t
}

// pass runs b through the model and scores it. As a part of a step it also adds
// b's share of the gradients.
func (r *run) pass(b *data.Batch, w whole) (Score, error) {
	if objectives[r.Config.Objective].reward {
		return r.rewards(b, w)
	}
	if o, ok := r.objective.(distill); ok {
		return r.distilled(b, o, w)
	}
	var s Score
	p := LogProbs{Baseline: w.baseline, Tokens: w.tokens, Answers: r.answersOf(b), EntropyCoef: r.entropyCoef()}
	var err error
	if r.objective.Reads() >= ReadsReference {
		if p.Reference, err = r.reference(b, w.units > 0, part{val: w.units == 0}); err != nil {
			return s, err
		}
	}
	total, targets := w.units, r.targets(b)
	err = r.dev.Run(func() error {
		t := r.tape(total > 0)
		defer t.Free()
		if aux, z := value(r.Config.RouterAuxLossCoef, 0), value(r.Config.RouterZLossCoef, 0); aux+z > 0 && total > 0 {
			scale := float64(r.lossScale())
			t.Balance = &autograd.Balance{Coef: aux * scale, Z: z * scale}
		}
		h := r.Model.Hidden(t, r.inputs(b, t.Record))
		if t.Err() != nil {
			return t.Err()
		}
		var weights []float32
		early := r.objective.Reads() == ReadsTargets
		if early && total > 0 {
			weights = r.scaled(r.objective.Weigh(b, p, total))
		}
		var err error
		how := model.Reading{Temperature: r.temperature(), Smooth: float32(r.Config.LabelSmoothingFactor)}
		out := r.Model.LogProbAs(t, h, targets, weights, how)
		if p.Policy, err = t.Values(out.LogP); err != nil {
			return err
		}
		if out.Mean != nil {
			if p.Mean, err = t.Values(out.Mean); err != nil {
				return err
			}
		}
		if o, ok := r.objective.(sharp); ok && o.sharpened() {
			half := model.Reading{Temperature: how.Temperature / 2}
			if p.Sharp, err = t.Values(r.Model.LogProbAs(t, h, targets, nil, half).LogP); err != nil {
				return err
			}
		}
		if o, ok := r.objective.(entropic); ok {
			if p.Entropy, err = r.entropy(t, h, b, o, total); err != nil {
				return err
			}
		}
		s = r.objective.Score(b, p)
		s.parts = r.bySource(b, p)
		r.suspect(b, p.Policy)
		if t.Balance != nil { // once for each micro-batch, as in Transformers
			s.Loss += float64(t.Balance.Loss(t) / float64(r.lossScale()) * float64(total))
		}
		if !early && total > 0 {
			r.Model.LogProbAs(t, h, targets, r.scaled(r.objective.Weigh(b, p, total)), how)
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
	rows := make([]int32, 0, b.Supervised)
	for i, target := range b.Target {
		if target >= 0 {
			rows = append(rows, int32(i))
		}
	}
	said := t.Rows(h, t.Upload(rows, len(rows), 1))
	defer t.Done(said)
	look := func(coef []float32) error {
		_, entropy, err := r.Model.Diverge(t, said, model.Teacher{}, 1, r.temperature(), coef)
		for k, v := range entropy {
			out[rows[k]] = v
		}
		return err
	}
	if total == 0 {
		return out, look(nil)
	}
	if o.EntropyFirst(r.entropyCoef()) {
		if err := look(nil); err != nil {
			return nil, err
		}
	}
	var coef []float32
	if weights := r.scaled(o.EntropyWeights(b, out, r.entropyCoef(), total)); weights != nil {
		coef = make([]float32, len(rows)) // an entropy is what KL to the uniform distribution falls short of log V
		for k, i := range rows {
			coef[k] = -weights[i]
		}
	}
	return out, look(coef)
}

// temperature is what logits are divided by.
func (r *run) temperature() float32 {
	if r.Config.Temperature == nil {
		return 1
	}
	return float32(*r.Config.Temperature)
}

// reference returns the log-probabilities of b's targets [N] under the reference:
// as stored for the part that b's samples are of or, of an adapter, those of the
// model without it.
func (r *run) reference(b *data.Batch, training bool, p part) ([]float32, error) {
	if r.Config.SyncRefModel {
		return r.followed(b, training, p)
	}
	if r.Reference != nil {
		return r.Reference.read(b, p)
	}
	return logProbs(r.Model, b, true, training, r.bf16, r.temperature())
}

// logProbs returns the log-probabilities of b's targets [N] under m, or under m
// without its adapter, computed as in training or as when measuring: with bf16
// they round differently, and a new adapter must give the same as none. Logits are
// divided by temperature, dropout is off, and nothing is kept for a gradient.
func logProbs(m *model.Model, b *data.Batch, base, training, bf16 bool, temperature float32) (logp []float32, err error) {
	err = m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev, Record: training, Still: true, Base: base, BF16: bf16}
		defer t.Free()
		h := m.Hidden(t, inputs(b))
		if t.Err() != nil {
			return t.Err()
		}
		logp, err = t.Values(m.LogProbAs(t, h, b.Target, nil, model.Reading{Temperature: temperature}).LogP)
		return err
	})
	return logp, err
}

// inputs is what the model in training reads of b, with noise where it learns from it.
func (r *run) inputs(b *data.Batch, learning bool) model.Inputs {
	in := inputs(b)
	if alpha := r.Config.NEFTuneNoiseAlpha; alpha != nil && learning {
		in.Noise = neftune(b, r.Model.Embed.W.Cols, *alpha, uint64(*r.Config.Seed), r.step)
	}
	return in
}

// inputs is what a model reads of b: an encoder what lies before the first token that
// is learned.
func inputs(b *data.Batch) model.Inputs {
	in := model.Inputs{IDs: b.IDs, Pos: b.Pos, Seq: b.Seq, Key: b.Key}
	for s := 1; s < len(b.Seq); s++ {
		learned := slices.IndexFunc(b.Target[b.Seq[s-1]:b.Seq[s]], func(t int32) bool { return t >= 0 })
		in.From = append(in.From, int32(max(learned, 0)+1))
	}
	return in
}
