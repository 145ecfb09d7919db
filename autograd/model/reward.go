package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// Rewards returns what a reward model's head says of each of the samples that end
// before seq[1], seq[2] … of final hidden states h [N, C]: [S, 1], read from their
// last tokens. Mark h as Done when nothing else reads it.
func (m *Model) Rewards(t *autograd.Tape, h *autograd.Tensor, seq []int32) *autograd.Tensor {
	last := make([]int32, len(seq)-1)
	for s := range last {
		last[s] = seq[s+1] - 1
	}
	x := t.Rows(h, t.Upload(last, len(last), 1))
	y := m.Head.ForwardWide(t, x)
	t.Done(x)
	return y
}

// rewardError is for a reward model where words are wanted, or the reverse.
func rewardError(src *arch.Source) error {
	if src.Spec.Reward {
		return fail.Usagef(src.Reader.Path(), "train with objective: reward goes on with it", "is a reward model: it gives texts a number and writes none")
	}
	return fail.Usagef(src.Reader.Path(), "", "is no reward model")
}
