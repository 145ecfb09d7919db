package train

import (
	"context"
	"math"
	"time"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// validate measures the loss on the rows held back and reports whether it is
// the lowest so far.
func (r *run) validate(ctx context.Context) (bool, error) {
	start := time.Now()
	sum, n := 0.0, int64(0)
	for i := range r.val.StepsPerEpoch() {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		s, err := r.val.Step(i)
		if err != nil {
			return false, err
		}
		for _, b := range s.Micro {
			nll, err := r.score(b)
			if err != nil {
				return false, memory(err)
			}
			sum += nll
		}
		n += s.Supervised
		r.report(0, true)
	}
	if n == 0 {
		return false, fail.Inputf("train", "look at the ingest report", "the validation rows have no supervised token")
	}
	loss := sum / float64(n)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return false, fail.Numericf(r.Dir, "a lower learning_rate or a longer warm-up", "validation after step %d: loss %v", r.step, loss)
	}
	r.eval = &bestStep{r.step, loss}
	improved := r.best == nil || loss < r.best.Loss
	if improved {
		r.best = r.eval
	}
	return improved, r.metrics.write(EvalMetrics{Step: r.step, Epoch: float64(r.step) / float64(r.loader.StepsPerEpoch()),
		Loss: loss, Perplexity: math.Exp(loss), Supervised: n, Seconds: time.Since(start).Seconds()})
}

// score is the sum of -log p over the supervised tokens of b.
func (r *run) score(b data.Batch) (float64, error) {
	var nll float64
	err := r.dev.Run(func() error {
		t := &autograd.Tape{Dev: r.dev, BF16: r.bf16}
		defer t.Free()
		h := r.Model.Hidden(t, model.Inputs{IDs: b.IDs, Pos: b.Pos, Seq: b.Seq})
		if t.Err() != nil {
			return t.Err()
		}
		lp := r.Model.LogProb(t, h, b.Target, nil)
		v, err := t.Values(lp.LogP)
		nll = negSum(v)
		return err
	})
	return nll, err
}
