package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
)

// Encoder is what stands around the blocks that read a text of their own: the first
// Spec.Encoder of a model.
type Encoder struct {
	Norm  *nn.Norm      // of what the last of them makes
	Near  *nn.Embedding // [Buckets, H] what scores get by distance; nil: nothing, or tables by layer
	Embed *nn.Embedding // of its tokens; nil: the decoder's
}

// parted makes of texts the two that a model with an encoder reads: the first
// in.From[s] tokens of sequence s are the encoder's, and the decoder begins with
// Spec.Start and goes on with the others. rows [N] are the rows of its hidden states
// that predict the token behind each of in's; where none is predicted, some row.
// Where nothing says where the answer begins, it does in the middle (the prefix
// language model of Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).
func (m *Model) parted(in Inputs) (both Inputs, rows []int32, err error) {
	if m.Spec.Encoder == 0 || in.Source != nil {
		return in, nil, nil
	}
	if in.Noise != nil {
		return in, nil, fail.Usagef("train.neftune_noise_alpha", "leave it out", "noise on the embedded tokens of a model with an encoder is not supported")
	}
	if in.Seq == nil {
		in.Seq = []int32{0, int32(len(in.IDs))}
	}
	source, own := &Inputs{Seq: []int32{0}}, Inputs{Seq: []int32{0}}
	for s := 1; s < len(in.Seq); s++ {
		lo, hi := int(in.Seq[s-1]), int(in.Seq[s])
		n := (hi - lo) / 2
		if in.From != nil {
			n = int(in.From[s-1])
		}
		if n < 1 || n >= hi-lo {
			return in, nil, fail.Inputf("tokens", "give a prompt and its answer", "a text of %d tokens has %d for the encoder and %d to answer with: a model with an encoder needs both", hi-lo, n, hi-lo-n)
		}
		first := int32(len(own.IDs))
		for range n - 1 {
			rows = append(rows, first)
		}
		for i := lo + n; i < hi; i++ {
			rows = append(rows, int32(len(own.IDs)))
			id := m.Spec.Start
			if i > lo+n {
				id = in.IDs[i-1]
			}
			own.IDs = append(own.IDs, id)
		}
		rows = append(rows, first)
		source.IDs = append(source.IDs, in.IDs[lo:lo+n]...)
		if in.Key != nil {
			source.Key, own.Key = append(source.Key, in.Key[lo:lo+n]...), append(own.Key, in.Key[lo+n-1:hi-1]...)
		}
		source.Seq, own.Seq = append(source.Seq, int32(len(source.IDs))), append(own.Seq, int32(len(own.IDs)))
	}
	own.Source = source
	return own, rows, nil
}

// Cross ends an encoder: x [N, C] is what its last block made, s the state its blocks
// read. It returns the input of the block behind them, and the state that this and
// the following read. x stays the caller's to mark as Done.
func (m *Model) Cross(t *autograd.Tape, x *autograd.Tensor, s *State) (*autograd.Tensor, *State) {
	d := s.Behind(t, m.Encoder.Norm.ForwardWide(t, x))
	return m.Begin(t, d), d
}

// Behind is the state that blocks behind the encoder read, where s is what Prepare
// returned and made [N, C] what the encoder made of its text, normed.
func (s *State) Behind(t *autograd.Tape, made *autograd.Tensor) *State {
	d := s.after
	d.Memory = made
	t.Keep(made)
	return d
}

// near are the rows of a table of what scores get by distance, which make it Rel of
// attention over n tokens, and the one of distance 0; both says that tokens see keys ahead
// of them.
func (m *Model) near(t *autograd.Tape, n int, both bool) (rows *autograd.Tensor, zero int) {
	d := m.Spec.Distances
	n = min(n, d.Far+1) // farther keys share the last row
	if both {
		zero = n - 1
	}
	ids := make([]int32, zero+n)
	for i := range ids {
		ids[i] = int32(d.Row(i-zero, both))
	}
	return t.Upload(ids, len(ids)), zero
}
