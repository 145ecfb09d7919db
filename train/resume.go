package train

import (
	"fmt"
	"slices"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
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
	if r.Config.LoadBestModelAtEnd && r.best != nil {
		keep = r.best.Step
	}
	return rotate(r.Dir, r.Config.SaveTotalLimit, keep)
}

// header describes the last finished step.
func (r *run) header() *stateHeader {
	h := &stateHeader{Identity: r.identity, Step: r.step, Tensors: r.fields(), Moments: r.opt.moments(), Best: r.best, Eval: r.eval, Tokens: r.tokens, Loss: r.loss}
	if r.seen.N > 0 {
		h.Seen = &r.seen
	}
	return h
}

// take is the opposite of header.
func (r *run) take(h *stateHeader) {
	r.step, r.best, r.eval, r.tokens, r.loss, r.resumed = h.Step, h.Best, h.Eval, h.Tokens, h.Loss, h.Step
	if h.Seen != nil {
		r.seen = *h.Seen
	}
}

// fields names the parameters as they lie in a checkpoint.
func (r *run) fields() []stateField {
	out := make([]stateField, len(r.opt.params))
	for i, p := range r.opt.params {
		out[i] = stateField{p.Name, p.Len()}
	}
	return out
}

// download hands over parameters and moments in the order of a checkpoint.
func (r *run) download(put func([]byte) error) error {
	return r.parts(func(part kernels.Buffer, b []byte) error {
		if err := r.dev.Run(func() error { return r.dev.Download(b, part) }); err != nil {
			return err
		}
		return put(b)
	})
}

// parts calls f with views of the parameters and moments in the order of a
// checkpoint, each with memory of its size on the host.
func (r *run) parts(f func(part kernels.Buffer, b []byte) error) error {
	buf := make([]byte, 4*stateChunk)
	for _, kind := range append([]string{"p"}, r.opt.moments()...) {
		for _, p := range r.opt.params {
			for off := 0; off < p.Len(); off += stateChunk {
				n := min(stateChunk, p.Len()-off)
				if err := f(r.dev.Slice(r.opt.part(kind, p), off, n), buf[:4*n]); err != nil {
					return err
				}
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

// load puts a checkpoint's values into parameters and moments. Every tensor
// must be there, by name and length, and nothing else.
func (r *run) load(s *stateFile) error {
	if !slices.Equal(s.Tensors, r.fields()) || !slices.Equal(s.Moments, r.opt.moments()) {
		return corrupt(s.path, "%d tensors with moments %v, this run has %d with %v", len(s.Tensors), s.Moments, len(r.opt.params), r.opt.moments())
	}
	err := s.read(func(kind string, i, off int, data []byte) error {
		return r.dev.Run(func() error {
			r.dev.Upload(r.dev.Slice(r.opt.part(kind, r.opt.params[i]), off, len(data)/4), data)
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
	if !r.Config.LoadBestModelAtEnd || r.best == nil || r.best.Step == r.step {
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
	r.log("keeping the parameters of step %d (validation loss %s)", r.best.Step, fmt.Sprintf("%.4f", r.best.Loss))
	return r.load(s)
}
