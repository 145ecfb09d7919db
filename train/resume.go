package train

import (
	"slices"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// save writes a checkpoint of the last finished step and removes old ones, on
// rank 0.
func (r *run) save() error {
	if r.Comm.Rank() > 0 {
		return nil
	}
	if err := r.metrics.sync(); err != nil {
		return err
	}
	if err := writeState(r.Dir, r.header(), r.download); err != nil {
		return err
	}
	r.saved, r.savedAt = r.step, time.Now()
	keep := -1
	if r.Config.LoadsBest() && r.best != nil {
		keep = r.best.Step
	}
	if err := rotate(r.Dir, r.Config.SaveTotalLimit, keep); err != nil || !r.asks() {
		return err
	}
	return forgetRollouts(r.Dir, r.Config.partsAtOnce(r.Config.GradientAccumulationSteps)*r.Config.NumIterations)
}

// header describes the last finished step.
func (r *run) header() *stateHeader {
	h := &stateHeader{Identity: r.identity, Step: r.step, Tensors: r.fields(), Best: r.best, Eval: r.eval, Tokens: r.tokens, Loss: orNull(r.loss), Waited: r.waited}
	if x := r.sched.reactive; x != nil {
		h.Schedule = &x.reacted
	}
	h.Scaler = r.scaler
	if r.seen.N > 0 {
		h.Seen = &r.seen
	}
	if r.Config.UseAdaptiveEntropy {
		h.Entropy = &r.entropyNow
	}
	return h
}

// take is the opposite of header.
func (r *run) take(h *stateHeader) {
	r.step, r.best, r.eval, r.tokens, r.loss, r.resumed = h.Step, h.Best, h.Eval, h.Tokens, orNaN(h.Loss), h.Step
	r.waited = h.Waited
	if x := r.sched.reactive; x != nil && h.Schedule != nil {
		x.reacted = *h.Schedule
	}
	if h.Scaler != nil && r.scaler != nil {
		h.Scaler.c = r.scaler.c
		*r.scaler = *h.Scaler
	}
	if h.Seen != nil {
		r.seen = *h.Seen
	}
	if h.Entropy != nil {
		r.entropyNow = *h.Entropy
	}
}

// fields names what lies in a checkpoint.
func (r *run) fields() []stateField {
	var out []stateField
	for _, p := range r.opt.parts() {
		out = append(out, stateField{p.name, p.Len(), p.Type().Kind == dtype.U8})
	}
	return out
}

// download hands over all values in the order of a checkpoint.
func (r *run) download(put func([]byte) error) error {
	return r.parts(func(part kernels.Buffer, b []byte) error {
		if err := r.dev.Run(func() error { return r.dev.Download(b, part) }); err != nil {
			return err
		}
		return put(b)
	})
}

// parts calls f with views of all values in the order of a checkpoint, each with
// memory of its size on the host.
func (r *run) parts(f func(part kernels.Buffer, b []byte) error) error {
	buf := make([]byte, 4*stateChunk)
	for _, p := range r.opt.parts() {
		for off := 0; off < p.Len(); off += stateChunk {
			n := min(stateChunk, p.Len()-off)
			if err := f(r.dev.Slice(p.Buffer, off, n), buf[:n*p.Type().Kind.Info().Bytes]); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore goes on from the newest good checkpoint, if there is one.
func (r *run) restore() error {
	s, err := newest(r.Dir, r.identity, func(what string) { r.log("%s", what) })
	if s == nil || err != nil {
		return err
	}
	if err := r.load(s); err != nil {
		return err
	}
	r.take(s.stateHeader)
	r.saved, r.savedAt = s.Step, time.Now()
	if s.Step > r.total {
		return corrupt(s.path, "step %d of a run of %d", s.Step, r.total)
	}
	r.log("going on from step %d of %d", r.step, r.total)
	return nil
}

// load puts a checkpoint's values back. Every tensor must be there, by name and
// length, and nothing else.
func (r *run) load(s *stateFile) error {
	if !slices.Equal(s.Tensors, r.fields()) {
		return corrupt(s.path, "its %d tensors are not the %d of this run", len(s.Tensors), len(r.fields()))
	}
	parts := r.opt.parts()
	err := s.read(func(i, off int, data []byte) error {
		return r.dev.Run(func() error {
			r.dev.Upload(r.dev.Slice(parts[i].Buffer, off, len(data)/s.Tensors[i].size()), data)
			return nil
		})
	})
	if err != nil {
		return err
	}
	return r.refresh()
}

// keepBest puts the parameters of the best validation back on all ranks, where
// asked to.
func (r *run) keepBest() error {
	if !r.Config.LoadsBest() || r.best == nil || r.best.Step == r.step {
		return nil
	}
	var err error
	if r.Comm.Rank() == 0 {
		err = r.loadBest()
	}
	if err = agree(r.Comm, err); err != nil {
		return err
	}
	return r.spread()
}

func (r *run) loadBest() error {
	s, err := openState(statePath(r.Dir, r.best.Step))
	if err == nil {
		err = s.verify()
	}
	if err != nil {
		return fail.Inputf(r.Dir, "load_best_model_at_end: false keeps the last step", "the best checkpoint cannot be read: %w", err)
	}
	r.log("keeping the parameters of step %d (%s)", r.best.Step, r.describe(r.best))
	return r.load(s)
}
