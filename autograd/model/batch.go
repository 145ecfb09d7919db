package model

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// Inputs are the tokens of a packed batch.
type Inputs struct {
	IDs []int32 // [N]
	Pos []int32 // [N] position of each token in its sequence; nil: restarting at each
	Seq []int32 // [S+1] sequence s is tokens Seq[s] … Seq[s+1]; nil: one sequence
	Key []int64 // [N] for dropout: sample<<32 | token; nil when no adapter has dropout
}

// Pack makes Inputs of whole sequences.
func Pack(seqs ...[]int32) Inputs {
	in := Inputs{Seq: []int32{0}}
	for _, s := range seqs {
		in.IDs = append(in.IDs, s...)
		in.Seq = append(in.Seq, int32(len(in.IDs)))
	}
	return in
}

// State is what every block needs beside its input: a batch's tables on the
// device, owned by the tape they were made on.
type State struct {
	N    int
	IDs  *autograd.Tensor // [N] int32
	Seq  *autograd.Tensor // [S+1] int32; nil with a cache
	Rope *autograd.Tensor // [N, rot/2, 2] cosines and sines

	cache     *Cache
	slot, pos *autograd.Tensor
}

// Prepare uploads what a pass over in needs. Errors in in become the tape's.
func (m *Model) Prepare(t *autograd.Tape, in Inputs) *State {
	n := len(in.IDs)
	if in.Seq == nil {
		in.Seq = []int32{0, int32(n)}
	}
	if in.Pos == nil {
		in.Pos = restart(in.Seq, n)
	}
	t.Fail(m.checkInputs(in))
	s := &State{N: n}
	if t.Err() != nil {
		return s
	}
	s.IDs = t.Upload(in.IDs, n)
	s.Seq = t.Upload(in.Seq, len(in.Seq))
	s.Rope = t.Upload(m.rope.rows(in.Pos, spans(in.Pos, in.Seq)), n, m.rope.rot/2, 2)
	if in.Key != nil {
		t.Key = t.Upload(in.Key, n)
	}
	return s
}

func (m *Model) checkInputs(in Inputs) error {
	n := len(in.IDs)
	if len(in.Pos) != n || in.Key != nil && len(in.Key) != n || in.Seq[0] != 0 || int(in.Seq[len(in.Seq)-1]) != n {
		panic("model: Pos, Key and Seq do not describe the tokens")
	}
	for i := 1; i < len(in.Seq); i++ {
		if in.Seq[i] < in.Seq[i-1] {
			panic("model: Seq decreases")
		}
	}
	return m.checkIDs(in.IDs)
}

func (m *Model) checkIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.Spec.V {
			return fail.Inputf("tokens", "is the tokenizer the model's own?", "token %d of the batch has id %d, the model has %d", i, id, m.Spec.V)
		}
	}
	return nil
}

func restart(seq []int32, n int) []int32 {
	pos := make([]int32, n)
	for s := 1; s < len(seq); s++ {
		for i := seq[s-1]; i < seq[s]; i++ {
			pos[i] = i - seq[s-1]
		}
	}
	return pos
}

// spans gives each token the length of its sequence up to its largest position.
func spans(pos, seq []int32) []int32 {
	out := make([]int32, len(pos))
	for s := 1; s < len(seq); s++ {
		last := int32(0)
		for _, p := range pos[seq[s-1]:seq[s]] {
			last = max(last, p+1)
		}
		for i := seq[s-1]; i < seq[s]; i++ {
			out[i] = last
		}
	}
	return out
}

// ropeTable makes cosines and sines on the host in float64 and keeps those
// that depend on the position alone.
type ropeTable struct {
	spec arch.RopeSpec
	rot  int
	freq []float64
	mag  float64
	kept []float32 // [positions, rot/2, 2]
}

// rows returns [N, rot/2, 2] for tokens at positions pos of sequences of
// lengths span. Dynamic scaling sees each sequence as if it were alone.
func (r *ropeTable) rows(pos, span []int32) []float32 {
	out := make([]float32, 0, len(pos)*r.rot)
	if r.spec.Type == "dynamic" {
		for i, p := range pos {
			if i == 0 || span[i] != span[i-1] {
				r.freq, r.mag = r.spec.Angles(r.rot, int(span[i]))
			}
			out = r.append(out, int(p))
		}
		return out
	}
	if r.freq == nil {
		r.freq, r.mag = r.spec.Angles(r.rot, 0)
	}
	for _, p := range pos {
		for len(r.kept) < (int(p)+1)*r.rot {
			r.kept = r.append(r.kept, len(r.kept)/r.rot)
		}
		out = append(out, r.kept[int(p)*r.rot:(int(p)+1)*r.rot]...)
	}
	return out
}

func (r *ropeTable) append(out []float32, pos int) []float32 {
	for _, f := range r.freq {
		sin, cos := math.Sincos(float64(pos) * f)
		out = append(out, float32(cos*r.mag), float32(sin*r.mag))
	}
	return out
}
