package train

import (
	"context"
	"math"
	"slices"

	"github.com/tunekit/tunekit/data"
)

// baseline is what an objective holds the rewards of a step against: a number
// that takes passes of its own over the whole step, which no gradient sees.
type baseline int

const (
	noBaseline baseline = iota
	// mismatched estimates the divergence from the reference: the mean log ratio of
	// answers to other prompts, at least 0.
	mismatched
	// runningReward is the mean reward of all answers seen in training so far, those of
	// the step included.
	runningReward
)

// running is a mean that goes on from step to step.
type running struct {
	Sum float64 `json:"sum"`
	N   float64 `json:"n"`
}

func (m running) mean() float64 {
	if m.N == 0 {
		return 0
	}
	return m.Sum / m.N
}

// baselineOf computes the baseline of micro, the micro-batches of a training step,
// which all ranks share, and what of it later steps go on from.
func (r *run) baselineOf(ctx context.Context, micro []data.Batch) (float64, running, error) {
	if r.baseline == noBaseline {
		return 0, running{}, nil
	}
	var sum running
	err := r.ratios(ctx, share(micro, r.Comm), false, &sum)
	if err = agree(r.Comm, err); err != nil {
		return 0, running{}, err
	}
	all, err := r.Comm.Gather([]float64{sum.Sum, sum.N})
	if err != nil {
		return 0, running{}, err
	}
	sum = running{}
	for _, v := range all {
		sum.Sum, sum.N = sum.Sum+v[0], sum.N+v[1]
	}
	if r.baseline == mismatched {
		return math.Max(0, sum.mean()), running{}, nil
	}
	beta := *r.Config.Beta
	next := running{r.seen.Sum + beta*sum.Sum, r.seen.N + sum.N}
	return next.mean(), next, nil
}

// valBaseline is the baseline of a validation step, of which a rank knows only its own.
func (r *run) valBaseline(ctx context.Context, micro []data.Batch) (float64, error) {
	switch r.baseline {
	case mismatched:
		var sum running
		err := r.ratios(ctx, micro, true, &sum)
		return math.Max(0, sum.mean()), err
	case runningReward:
		return r.seen.mean(), nil
	}
	return 0, nil
}

// ratios adds up the log ratios of the answers of micro, held-back ones (val) or not,
// or of other prompts' answers.
func (r *run) ratios(ctx context.Context, micro []data.Batch, val bool, sum *running) error {
	ex, p := r.Train, part{val: val, other: r.baseline == mismatched}
	if val {
		ex = r.Val
	}
	for i := range micro {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := micro[i]
		if p.other {
			var err error
			if b, err = mismatch(&b, ex, r.MaxLength); err != nil {
				return err
			}
		}
		logp := LogProbs{}
		var err error
		if logp.Reference, err = r.reference(&b, false, p); err != nil {
			return err
		}
		if logp.Policy, err = logProbs(r.Model, &b, false, false, r.bf16, 1); err != nil {
			return err
		}
		for s := range len(b.Seq) - 1 {
			sum.Sum += ratioOf(&b, logp, s)
			sum.N++
		}
	}
	return nil
}

// mismatch is a batch of b's prompts, each with the answer of the sample of ex before
// its own that has another prompt, cut to so many tokens.
func mismatch(b *data.Batch, ex data.Examples, limit int) (data.Batch, error) {
	var out []data.Example
	for _, k := range b.Sample {
		e, err := mismatchOf(ex, int(k), limit)
		if err != nil {
			return data.Batch{}, err
		}
		out = append(out, e)
	}
	return data.NewBatch(out, b.Sample), nil
}

// mismatchOf is sample k of ex with the answer of the nearest one before it, the last
// one coming before the first, that has another prompt; where none has, of the one before.
func mismatchOf(ex data.Examples, k, limit int) (data.Example, error) {
	own, err := ex.At(k)
	if err != nil {
		return own, err
	}
	start := answerAt(&own)
	var other data.Example
	for back := 1; back <= ex.Len(); back++ {
		e, err := ex.At((k - back + ex.Len()) % ex.Len())
		if err != nil {
			return own, err
		}
		if back == 1 {
			other = e
		}
		if !slices.Equal(e.IDs[:answerAt(&e)], own.IDs[:start]) {
			other = e
			break
		}
	}
	from := answerAt(&other)
	out := data.Example{ID: own.ID, IDs: append(own.IDs[:start:start], other.IDs[from:]...), From: own.From}
	for _, x := range other.Loss {
		out.Loss = append(out.Loss, [2]int32{int32(start + int(x[0]) - from), int32(start + int(x[1]) - from)})
	}
	return out.Head(limit), nil
}

// answerAt is where the supervised tokens of e begin.
func answerAt(e *data.Example) int {
	if len(e.Loss) == 0 {
		return len(e.IDs)
	}
	return int(e.Loss[0][0])
}
