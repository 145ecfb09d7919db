package train

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Comm connects the ranks of a training: equal models that each take a share
// of every step's micro-batches. All ranks call the same methods in the same
// order with arguments of the same length; a call returns when every rank has
// made it. An error means that a rank has left, was not reached or called
// something else; no call works after it.
type Comm interface {
	// Rank is this rank's number, from 0. Rank 0 alone writes files.
	Rank() int
	// Size is the number of ranks.
	Size() int
	// Sum replaces v by its sum over the ranks, added in the order of the ranks:
	// the same bits on every rank and in every run of as many ranks.
	Sum(v []float32) error
	// Gather returns every rank's v, in the order of the ranks.
	Gather(v []float64) ([][]float64, error)
	// Broadcast replaces v by rank 0's.
	Broadcast(v []byte) error
}

// alone is the Comm of a training of one rank.
type alone struct{}

// supposed is the Comm of rank 0 of a training of so many ranks that are not there: what
// one of them would do, for plans.
type supposed int

func (supposed) Rank() int              { return 0 }
func (s supposed) Size() int            { return int(s) }
func (supposed) Sum([]float32) error    { return nil }
func (supposed) Broadcast([]byte) error { return nil }

func (supposed) Gather(v []float64) ([][]float64, error) { return [][]float64{v}, nil }

func (alone) Rank() int              { return 0 }
func (alone) Size() int              { return 1 }
func (alone) Sum([]float32) error    { return nil }
func (alone) Broadcast([]byte) error { return nil }

func (alone) Gather(v []float64) ([][]float64, error) { return [][]float64{v}, nil }

// gravity orders what can end a part of the work; the ranks follow the gravest.
type gravity int

const (
	fine gravity = iota
	memoryShort
	interrupted
	failed
)

func gravityOf(err error) gravity {
	switch {
	case err == nil:
		return fine
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return interrupted
	case errors.Is(err, kernels.ErrOutOfMemory):
		return memoryShort
	}
	return failed
}

// agree makes all ranks go the same way after work that each did alone: it
// returns nil where err is nil on every rank, and else an error of the gravest
// kind that any rank met, this rank's own where that is of the kind.
func agree(c Comm, err error) error {
	own := gravityOf(err)
	all, cerr := c.Gather([]float64{float64(own)})
	if cerr != nil {
		return errors.Join(err, cerr)
	}
	worst, who := own, c.Rank()
	for rank, v := range all {
		if g := gravity(v[0]); g > worst {
			worst, who = g, rank
		}
	}
	switch {
	case who == c.Rank():
		return err
	case worst == memoryShort:
		return fmt.Errorf("rank %d: %w", who, kernels.ErrOutOfMemory)
	case worst == interrupted:
		return fmt.Errorf("rank %d: %w", who, context.Canceled)
	}
	return fail.Limitf("train", "look at what that rank says", "%w", &Gone{Rank: who})
}

// share is a rank's part of a step: equal numbers of micro-batches in their
// order, fewer or none for the last ranks.
func share(micro []data.Batch, c Comm) []data.Batch {
	lo, hi := shareOf(len(micro), c)
	return micro[lo:hi]
}

// shareOf is a rank's part of n things, in their order.
func shareOf(n int, c Comm) (lo, hi int) {
	per := (n + c.Size() - 1) / c.Size()
	lo = min(c.Rank()*per, n)
	return lo, min(lo+per, n)
}

// totals replaces a score and counts by those of all ranks, added in the order
// of the ranks. A rank that scored nothing has no names for what the others
// measured and takes the loss alone. sources is the number of sources, 0 where parts are
// not counted.
func totals(c Comm, s *Score, sources int, counts ...*int64) error {
	v := []float64{s.Loss, s.Tokens, s.entropy.Sum, s.entropy.N}
	const counted = 4
	for _, n := range counts {
		v = append(v, float64(*n))
	}
	s.parts = addParts(make([]sourcePart, sources), s.parts)
	for _, p := range s.parts {
		v = append(v, p.loss, p.tokens, p.units, p.of)
	}
	first := len(v)
	for _, x := range s.Values {
		v = append(v, x.V)
	}
	v = append(v, s.Of...)
	all, err := c.Gather(v)
	if err != nil {
		return err
	}
	sum := make([]float64, len(v))
	for rank, other := range all {
		for i := range min(len(v), len(other)) {
			name := ""
			if k := i - first; k >= 0 && k < len(s.Values) {
				name = s.Values[k].Name
			}
			if rank == 0 {
				sum[i] = other[i]
			} else {
				sum[i] = fold(name, sum[i], other[i])
			}
		}
	}
	s.Loss, s.Tokens, s.entropy = sum[0], sum[1], running{sum[2], sum[3]}
	for i, n := range counts {
		*n = int64(sum[counted+i])
	}
	for i := range s.parts {
		p := sum[counted+len(counts)+4*i:]
		s.parts[i] = sourcePart{p[0], p[1], p[2], p[3]}
	}
	for i := range s.Values {
		s.Values[i].V = sum[first+i]
	}
	copy(s.Of, sum[first+len(s.Values):])
	return nil
}

// sumGradients replaces the gradients by their sum over the ranks: on the devices where
// link connected them, else in the host's memory. The bits are the same.
func (r *run) sumGradients() error {
	c, o := r.Comm, r.opt
	if c.Size() == 1 {
		return nil
	}
	if r.linked {
		return r.sumLinked()
	}
	v := make([]float32, min(stateChunk, o.n))
	for off := 0; off < o.n; off += stateChunk {
		v := v[:min(stateChunk, o.n-off)]
		part := o.dev.Slice(o.g, off, len(v))
		err := o.dev.Run(func() error { return o.dev.Download(kernels.Bytes(v), part) })
		if err == nil {
			err = c.Sum(v)
		}
		if err == nil {
			err = o.dev.Run(func() error { o.dev.Upload(part, kernels.Bytes(v)); return nil })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// join brings every rank to where rank 0 is: the step, what was measured, and
// the values. Ranks that train something else are an error on all of them.
func (r *run) join() error {
	if r.Comm.Size() == 1 {
		return nil
	}
	h, err := r.header(), error(nil)
	if h, err = broadcast(r.Comm, h); err == nil && h.Identity != r.identity {
		err = fail.Usagef("train", "give every rank the same recipe, inputs and kernel level", "rank %d trains something else than rank 0", r.Comm.Rank())
	}
	if err = agree(r.Comm, err); err != nil {
		return err
	}
	r.take(h)
	if err := r.link(); err != nil {
		return err
	}
	return r.spread()
}

// broadcast returns rank 0's v, as it is in JSON.
func broadcast[T any](c Comm, v *T) (*T, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	size := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	if err := c.Broadcast(size); err != nil {
		return nil, err
	}
	text = append(text, make([]byte, binary.LittleEndian.Uint64(size))...)[:binary.LittleEndian.Uint64(size)]
	if err := c.Broadcast(text); err != nil {
		return nil, err
	}
	v = new(T)
	return v, json.Unmarshal(text, v)
}

// spread gives every rank the parameters and moments of rank 0.
func (r *run) spread() error {
	if r.Comm.Size() == 1 {
		return nil
	}
	err := r.parts(func(part kernels.Buffer, b []byte) error {
		err := r.dev.Run(func() error { return r.dev.Download(b, part) })
		if err == nil {
			err = r.Comm.Broadcast(b)
		}
		if err == nil && r.Comm.Rank() > 0 {
			err = r.dev.Run(func() error { r.dev.Upload(part, b); return nil })
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.refresh()
}
