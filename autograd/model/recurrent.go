package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// states are what a mixer with a state remembers: for every slot the same few
// numbers, however long its text is. There is no way back to an earlier token.
type states struct {
	dev   kernels.Backend
	parts []kernels.Buffer // [slots, size] f32 each: convolutions and scans
	sizes []int            // of a slot
}

// newStates makes states of parts with sizes numbers a slot.
func newStates(dev kernels.Backend, slots int, sizes ...int) (memory, error) {
	s := &states{dev: dev, sizes: sizes}
	for _, n := range sizes {
		b, err := dev.Alloc(kernels.Activations, dtype.Of(dtype.F32), slots*n)
		if err != nil {
			s.free()
			return nil, err
		}
		s.parts = append(s.parts, b)
	}
	return s, nil
}

func (s *states) begin(slot int) {
	for i, b := range s.parts {
		s.dev.Fill(s.dev.Slice(b, slot*s.sizes[i], s.sizes[i]), 0)
	}
}

func (s *states) shortens() bool { return false }

func (s *states) grow(int, []int) error { return nil }

func (s *states) free() {
	for _, b := range s.parts {
		s.dev.Free(b)
	}
}

// convolveAct is convolve with an activation behind it.
func (s *State) convolveAct(t *autograd.Tape, x *autograd.Tensor, seat, i int, spec autograd.ConvSpec, act kernels.ActKind) *autograd.Tensor {
	spec.SiLU = act == kernels.SiLU
	y := s.convolve(t, x, seat, i, spec)
	if spec.SiLU {
		return y
	}
	z := t.Act(autograd.ActSpec{Kind: act}, y, nil)
	t.Done(y)
	return z
}

// convolve is the causal convolution of x by spec, which it takes over; what it
// remembers is part i of the mixer at a seat of the cache.
func (s *State) convolve(t *autograd.Tape, x *autograd.Tensor, seat, i int, spec autograd.ConvSpec) *autograd.Tensor {
	spec.Seq, spec.State = s.Seq, s.recurrent(seat, i)
	y := t.Conv1D(x, spec)
	t.Done(x)
	return y
}

// recurrent is part i of what the mixer at a seat of the cache remembers; none
// without a cache.
func (s *State) recurrent(seat, i int) autograd.Recurrent {
	if s.cache == nil {
		return autograd.Recurrent{}
	}
	return autograd.Recurrent{State: s.cache.kept[seat].(*states).parts[i], Slot: s.slots}
}
