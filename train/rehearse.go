package train

import (
	"context"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
)

// Rehearsal is what a run would need.
type Rehearsal struct {
	Steps         int // optimizer steps of the whole run
	StepsPerEpoch int
	StepTokens    int64 // tokens of an epoch's average step
	MicroTokens   int   // of the largest micro-batch
	Trainable     int64 // values
	StateBytes    int64 // of one checkpoint on disk
	Spilled       int64 // bytes of files that memory lies in
	Recompute     int   // blocks with gradient checkpointing, asked for or to fit
	BF16          bool
	Memory        kernels.MemStats
	PeakTotal     int64
}

// Rehearse runs the largest micro-batch of the first epoch forward and backward
// and reports what the run would need. It writes nothing and changes no
// parameter. Of several ranks (Config.Ranks) it is the first: memory is that of each. On kernels/dry it computes nothing either, so that a plan is exact
// and quick; a limit of that backend is kept as in the run.
func Rehearse(ctx context.Context, j Job) (*Rehearsal, error) {
	if n := j.Config.Ranks; n > 1 && j.Comm == nil {
		j.Comm = supposed(n)
	}
	r, err := begin(j)
	if err != nil {
		return nil, err
	}
	defer r.end()
	r.opt.focusMost()
	out := &Rehearsal{Steps: r.total, StepsPerEpoch: r.loader.StepsPerEpoch(), Trainable: int64(r.opt.n), BF16: r.bf16}
	if r.asks() {
		step, err := r.rehearsed(ctx)
		if err != nil {
			return nil, memory(err)
		}
		out.StepsPerEpoch, out.MicroTokens = max(1, int(r.perEpoch)), len(step.Micro[0].IDs)
		out.StepTokens = int64(out.MicroTokens) * int64(j.Config.GradientAccumulationSteps)
		return out, r.rehearse(ctx, step, out)
	}
	worst, micro := 0, 0
	for i := range out.StepsPerEpoch {
		for k, n := range r.loader.Sizes(i) {
			out.StepTokens += int64(n)
			if n > out.MicroTokens {
				worst, micro, out.MicroTokens = i, k, n
			}
		}
	}
	out.StepTokens /= int64(out.StepsPerEpoch)
	step, err := r.loader.Step(worst)
	if err != nil {
		return nil, err
	}
	step.Micro = step.Micro[micro : micro+1]
	if j.Config.Writes() { // for what that takes: answers of full length are learned from
		r.Answering.Stop = []int32{0}
		w := r.rewrite(&step.Micro[0], 0)
		if err := r.fill(ctx, r.Model, w.requests, w.answers); err != nil {
			return nil, memory(err)
		}
	}
	if err := r.rehearseTasks(ctx, out); err != nil {
		return nil, memory(err)
	}
	return out, r.rehearse(ctx, step, out)
}

// rehearse runs a step of one micro-batch and says in out what it took.
func (r *run) rehearse(ctx context.Context, step data.Step, out *Rehearsal) error {
	for k := range step.Micro {
		if b, n := &step.Micro[k], step.Micro[k].Supervised*r.Config.LossTopK; len(b.TopIDs) < n {
			b.TopIDs, b.TopLogP = make([]int32, n), make([]float32, n)
		}
	}
	if _, err := r.fitting(ctx, step, max(1, r.count(step.Micro))); err != nil {
		return memory(err)
	}
	h := stateHeader{Tensors: r.fields()}
	out.StateBytes = h.bytes() + int64(len(stateMagic)+8+64) + 100*int64(len(h.Tensors))
	out.Recompute = r.recomputed()
	for _, s := range []*spill{r.opt.spill, r.aside} {
		if s != nil {
			out.Spilled += s.most
		}
	}
	info := r.dev.Info()
	out.Memory, out.PeakTotal = info.Mem, info.PeakTotal
	return nil
}
