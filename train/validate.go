package train

import (
	"context"
	"math"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
)

// validate measures the loss on the rows held back and reports whether it is
// the lowest so far.
func (r *run) validate(ctx context.Context) (bool, error) {
	start := time.Now()
	var sum Score
	supervised, n := int64(0), int64(0)
	for i := range r.val.StepsPerEpoch() {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		s := r.val.Step(i)
		for i := range s.Micro {
			one, err := r.pass(&s.Micro[i], 0)
			if err != nil {
				return false, memory(err)
			}
			sum.add(one)
		}
		supervised += s.Supervised
		n += r.count(s.Micro)
		r.report(0, true)
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
	m := EvalMetrics{Step: r.step, Epoch: float64(r.step) / float64(r.loader.StepsPerEpoch()),
		Loss: mean.Loss, Supervised: supervised, Objective: mean.Values, Seconds: time.Since(start).Seconds()}
	if r.objective.Unit() == unitToken {
		m.Perplexity = math.Exp(mean.Loss)
	}
	return improved, r.metrics.write(m)
}
