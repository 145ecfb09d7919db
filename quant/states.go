package quant

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
)

// load uploads the stored state of pass i.
func (s *stream) load(i int, t *autograd.Tape) []*autograd.Tensor {
	n := 0
	for _, q := range s.passes[i] {
		n += len(q)
	}
	var out []*autograd.Tensor
	for _, v := range s.states[i] {
		out = append(out, t.Upload(v, n, len(v)/n))
	}
	return out
}

// keep stores a state of pass i. in are the tensors that load made: what is
// still the same is not copied again.
func (s *stream) keep(i int, t *autograd.Tape, in, out []*autograd.Tensor) error {
	old := s.states[i]
	now := make([][]float32, len(out))
	for j, x := range out {
		if j < len(in) && in[j] == x {
			now[j], old[j] = old[j], nil
		}
	}
	for _, v := range old {
		if v != nil {
			s.spare = append(s.spare, v)
		}
	}
	for j, x := range out {
		if now[j] != nil {
			continue
		}
		now[j] = s.room(x.Len())
		if t.Err() != nil {
			return t.Err()
		}
		if err := down(s.dev, now[j], x.Data); err != nil {
			return err
		}
	}
	s.states[i] = now
	return nil
}

// room is memory for a state of n values.
func (s *stream) room(n int) []float32 {
	for i, v := range s.spare {
		if len(v) == n {
			s.spare = slices.Delete(s.spare, i, i+1)
			return v
		}
	}
	return make([]float32, n)
}

// replay runs the steps from … k-1 on the stored state of pass i and returns it
// and what step k's Forward takes.
func (s *stream) replay(i int, t *autograd.Tape, st *model.State, steps []model.Step, from, k int) (stored, in []*autograd.Tensor) {
	stored = s.load(i, t)
	in = stored
	for j := from; j < k; j++ {
		x := steps[j].In(t, in)
		y := steps[j].Forward(t, x, st)
		if j > from {
			finished(t, y, in, x)
		}
		in = y
	}
	return stored, steps[k].In(t, in)
}

// finished gives back tensors that are not among the kept ones.
func finished(t *autograd.Tape, kept []*autograd.Tensor, groups ...[]*autograd.Tensor) {
	for _, g := range groups {
		for _, x := range g {
			again := false
			for _, k := range kept {
				again = again || k == x
			}
			if !again {
				t.Done(x)
			}
		}
	}
}
