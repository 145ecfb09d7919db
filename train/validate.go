package train

import (
	"context"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// validate measures the loss on the rows held back, and what else is asked for, and
// reports whether it is the best so far.
func (r *run) validate(ctx context.Context) (bool, error) {
	start := time.Now()
	var sum Score
	var supervised int64
	var w whole
	var tasks Values
	err := r.withAverages(func() (err error) {
		if sum, supervised, w, err = r.scoreVal(ctx); err == nil {
			tasks, err = r.answerTasks(ctx)
		}
		return err
	})
	if err = agree(r.Comm, err); err == nil {
		err = totals(r.Comm, &sum, r.parted(), &supervised, &w.units, &w.tokens)
	}
	if err != nil {
		return false, err
	}
	if w.units == 0 {
		return false, fail.Inputf("train", "look at the ingest report", "the validation rows have no %s", r.objective.Unit())
	}
	mean := sum.mean(w.units, w.tokens)
	if !finite(mean.Loss) {
		rows := ""
		if len(r.suspects) > 0 {
			rows = " (not finite in rows " + nameRows(r.suspects) + ")"
		}
		return false, fail.Numericf(r.Dir, "look at the rows; a lower learning_rate or a longer warm-up", "validation after step %d: loss %v%s", r.step, mean.Loss, rows)
	}
	m := EvalMetrics{Step: r.step, Epoch: float64(r.step) / r.perEpoch,
		Loss: mean.Loss, Supervised: supervised, Objective: mean.Values, Tasks: tasks, Answers: len(r.questions), Sources: r.lossesOf(sum.parts), Seconds: time.Since(start).Seconds()}
	if r.objective.Unit() == unitToken {
		nll := mean.Loss
		if v, ok := mean.Values.Get(nllLoss); ok {
			nll = v
		}
		m.Perplexity = eval.PerplexityOf(nll)
	}
	if m.Best, err = r.judge(&m); err != nil {
		return false, err
	}
	return m.Best, r.metrics.write(m)
}

// withAverages runs f with the weights that are kept, which may be averages of those
// that are trained.
func (r *run) withAverages(f func() error) (err error) {
	if !r.opt.averages() {
		return f()
	}
	if err = r.opt.showAverages(); err == nil {
		err = r.refresh()
	}
	if err == nil {
		err = f()
	}
	if back := r.opt.showParams(); err == nil {
		err = back
	}
	if back := r.refresh(); err == nil {
		err = back
	}
	return err
}

// scoreVal adds up this rank's share of the validation rows: every size-th
// step, with the number of supervised tokens and what else its loss is a mean over.
func (r *run) scoreVal(ctx context.Context) (sum Score, supervised int64, w whole, err error) {
	if r.asks() {
		return r.scoreAnswers(ctx)
	}
	for i := r.Comm.Rank(); i < r.val.StepsPerEpoch(); i += r.Comm.Size() {
		if err := ctx.Err(); err != nil {
			return sum, 0, w, err
		}
		s, err := r.val.Step(i)
		if err != nil {
			return sum, 0, w, err
		}
		baseline, err := r.valBaseline(ctx, s.Micro)
		if err != nil {
			return sum, 0, w, memory(err)
		}
		for k := range s.Micro {
			one, err := r.pass(&s.Micro[k], whole{baseline: baseline})
			if err != nil {
				return sum, 0, w, memory(err)
			}
			sum.add(one)
		}
		supervised += s.Supervised
		w.units += r.count(s.Micro)
		w.tokens += r.countTokens(s.Micro)
		r.report(0, true)
	}
	return sum, supervised, w, nil
}
