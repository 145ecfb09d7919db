package train

import (
	"context"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/train/eval"
)

// validate measures the loss on the rows held back and reports whether it is
// the lowest so far.
func (r *run) validate(ctx context.Context) (bool, error) {
	start := time.Now()
	sum, supervised, n, err := r.scoreVal(ctx)
	if err = agree(r.Comm, err); err == nil {
		err = totals(r.Comm, &sum, &supervised, &n)
	}
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, fail.Inputf("train", "look at the ingest report", "the validation rows have no %s", r.objective.Unit())
	}
	mean := sum.mean(n)
	if !finite(mean.Loss) {
		return false, fail.Numericf(r.Dir, "a lower learning_rate or a longer warm-up", "validation after step %d: loss %v", r.step, mean.Loss)
	}
	r.eval = &bestStep{r.step, mean.Loss}
	improved := r.best == nil || mean.Loss < r.best.Loss
	if improved {
		r.best = r.eval
	}
	m := EvalMetrics{Step: r.step, Epoch: float64(r.step) / r.perEpoch,
		Loss: mean.Loss, Supervised: supervised, Objective: mean.Values, Seconds: time.Since(start).Seconds()}
	if r.objective.Unit() == unitToken {
		m.Perplexity = eval.PerplexityOf(mean.Loss)
	}
	return improved, r.metrics.write(m)
}

// scoreVal adds up this rank's share of the validation rows: every size-th
// micro-batch, with the number of supervised tokens and of units.
func (r *run) scoreVal(ctx context.Context) (sum Score, supervised, n int64, err error) {
	if r.asks() {
		return r.scoreAnswers(ctx)
	}
	for i := r.Comm.Rank(); i < r.val.StepsPerEpoch(); i += r.Comm.Size() {
		if err := ctx.Err(); err != nil {
			return sum, 0, 0, err
		}
		s, err := r.val.Step(i)
		if err != nil {
			return sum, 0, 0, err
		}
		for k := range s.Micro {
			one, err := r.pass(&s.Micro[k], 0)
			if err != nil {
				return sum, 0, 0, memory(err)
			}
			sum.add(one)
		}
		supervised += s.Supervised
		n += r.count(s.Micro)
		r.report(0, true)
	}
	return sum, supervised, n, nil
}
