package train

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// OnPolicy is which answers a model learns from its teacher on: those given, its own
// (Agarwal et al. 2023, arXiv:2306.13649) or the teacher's (Kim and Rush 2016,
// arXiv:1606.07947). Keys and meanings are those of TRL's GKD.
type OnPolicy struct {
	Lmbda *float64 `yaml:"lmbda,omitempty" doc:"distill: share of the micro batches to whose prompts the model writes the answers itself" unset:"distill 0" range:"[0,1]"`
	SeqKD bool     `yaml:"seq_kd,omitempty" doc:"distill: the teacher writes the answers of the others" default:"false"`
}

// Writes tells whether a training of c that learns from a teacher has answers written to
// the prompts of its rows.
func (c Config) Writes() bool { return c.Distills() && (c.SeqKD || c.Lmbda != nil && *c.Lmbda > 0) }

// checkOnPolicy refuses what does not go with written answers, and their keys without them.
func (c Config) checkOnPolicy(given Config) error {
	switch {
	case c.SeqKD && !c.Distills():
		return fail.Usagef("train.seq_kd", "leave it out", "seq_kd belongs to objective: distill, not %s", c.Objective)
	case c.Distills() && !c.Writes() && given.MaxCompletionLength != 0:
		return fail.Usagef("train.max_completion_length", "leave it out, or give lmbda or seq_kd", "max_completion_length bounds answers that are written, and lmbda: 0 without seq_kd learns from those given")
	case c.Writes() && c.LossTopK > 0:
		return fail.Usagef("train.loss_top_k", "leave it out: the teacher stays in memory", "loss_top_k asks the teacher before training, and lmbda and seq_kd have answers that are written then")
	}
	return nil
}

// writtenAnswers is s with the answers of some micro-batches written anew, by the model in
// training or by its teacher. Which and what depends on seed, step, place and weights alone.
func (r *run) writtenAnswers(ctx context.Context, s data.Step) (data.Step, error) {
	s.Micro, s.Supervised = slices.Clone(s.Micro), 0
	stream := uint64(r.step) << 32
	lo, hi := shareOf(len(s.Micro), r.Comm)
	list := make([]*rewrite, len(s.Micro))
	var own []int
	var failed error
	for k := range s.Micro {
		b := &s.Micro[k]
		var by *model.Model
		if r.Config.SeqKD {
			by = r.Teacher
		}
		if rand.New(rand.NewPCG(uint64(*r.Config.Seed), uint64(r.step)<<32|uint64(k))).Float64() < *r.Config.Lmbda {
			by = r.Model
		}
		if by == nil {
			continue
		}
		list[k] = r.rewrite(b, stream)
		stream += uint64(len(b.Seq) - 1)
		if k >= lo && k < hi && failed == nil {
			r.tell(Progress{Answering: true})
			failed = r.fill(ctx, by, list[k].requests, list[k].answers)
			own = append(own, k)
		}
	}
	if err := agree(r.Comm, failed); err != nil {
		return s, err
	}
	err := pool(r.Comm, own, func(k int, m *message) {
		for i := range list[k].answers {
			numbers(m, &list[k].answers[i].IDs)
		}
	})
	if err != nil {
		return s, err
	}
	for k := range s.Micro {
		b := &s.Micro[k]
		if list[k] != nil {
			*b = list[k].batch(b)
		}
		s.Supervised += int64(b.Supervised)
	}
	return s, nil
}

// rewrite is a micro-batch whose samples' last answers are written anew.
type rewrite struct {
	samples  []data.Example
	of       []int // the sample of each request
	requests []engine.Request
	answers  []written
}

// rewrite is what is asked for b. A sample whose prompt leaves no room stays as it is.
func (r *run) rewrite(b *data.Batch, stream uint64) *rewrite {
	w := &rewrite{samples: make([]data.Example, len(b.Seq)-1)}
	for i := range w.samples {
		w.samples[i] = sampleIn(b, i)
		e := &w.samples[i]
		if len(e.Loss) == 0 {
			continue
		}
		prompt := e.IDs[:e.Loss[len(e.Loss)-1][0]]
		room := min(r.Config.MaxCompletionLength, r.MaxLength-len(prompt))
		if room < 1 || len(prompt) == 0 {
			continue
		}
		w.of = append(w.of, i)
		w.requests = append(w.requests, engine.Request{Prompt: prompt, MaxNew: room, Stop: r.Answering.Stop,
			Sampling: kernels.SampleRow{Temperature: *r.Config.Temperature, TopP: 1, RepetitionPenalty: 1, Seed: uint64(*r.Config.Seed), Stream: stream + uint64(i)}})
	}
	w.answers = make([]written, len(w.requests))
	return w
}

// batch is b with the answers.
func (w *rewrite) batch(b *data.Batch) data.Batch {
	for k, a := range w.answers {
		e := &w.samples[w.of[k]]
		prompt := w.requests[k].Prompt
		e.IDs = slices.Concat(prompt, a.IDs)
		e.Loss = [][2]int32{{int32(len(prompt)), int32(len(e.IDs))}}
	}
	return data.NewBatch(w.samples, b.Sample)
}

// sampleIn is sample i of b.
func sampleIn(b *data.Batch, i int) data.Example {
	lo, hi := b.Seq[i], b.Seq[i+1]
	e := data.Example{ID: uint64(b.Key[lo] >> 32), IDs: slices.Clone(b.IDs[lo:hi]), Group: b.Group[i], Mark: b.Mark[i], From: b.From[i]}
	for n := lo; n < hi; n++ {
		if b.Target[n] < 0 {
			continue
		}
		at := n - lo + 1
		if k := len(e.Loss) - 1; k >= 0 && e.Loss[k][1] == at {
			e.Loss[k][1]++
		} else {
			e.Loss = append(e.Loss, [2]int32{at, at + 1})
		}
	}
	return e
}
