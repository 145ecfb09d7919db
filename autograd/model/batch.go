package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
)

// Inputs are the tokens of a packed batch.
type Inputs struct {
	IDs []int32 // [N]
	Pos []int32 // [N] position of each token in its sequence; nil: restarting at each
	Seq []int32 // [S+1] sequence s is tokens Seq[s] … Seq[s+1]; nil: one sequence
	Key []int64 // [N] for dropout: sample<<32 | token; nil when no adapter has dropout
	// Noise [N, width of the embedding] is added to the embedded tokens; nil: none.
	Noise []float32

	// Of a model with an encoder: From [S] is how many of a sequence's first tokens the
	// encoder reads; the decoder answers with the others; nil: half of them. Or Source is
	// what the encoder reads, as many sequences, and IDs are what the decoder does.
	From   []int32
	Source *Inputs
}

// Border stands in a sequence of tokens where what an encoder reads ends and the
// answer begins.
const Border = -1

// Pack makes Inputs of whole sequences, of which all or none have a Border.
func Pack(seqs ...[]int32) Inputs {
	in := Inputs{Seq: []int32{0}}
	for _, s := range seqs {
		if at := slices.Index(s, Border); at >= 0 {
			in.From = append(in.From, int32(at))
			in.IDs = append(in.IDs, s[:at]...)
			s = s[at+1:]
		}
		in.IDs = append(in.IDs, s...)
		in.Seq = append(in.Seq, int32(len(in.IDs)))
	}
	return in
}

// passTokens is how many tokens are packed into one pass over a model. It is a
// constant: results must not depend on the machine.
const passTokens = 2048

// Passes splits items, in order, into runs for one pass over a model each, by
// their sizes in tokens: at most 2,048 together, or one longer item alone. The
// runs share items' memory.
func Passes[T any](items []T, size func(T) int) [][]T {
	var out [][]T
	from, n := 0, 0
	for i, x := range items {
		if i > from && n+size(x) > passTokens {
			out, from, n = append(out, items[from:i]), i, 0
		}
		n += size(x)
	}
	if from < len(items) {
		out = append(out, items[from:])
	}
	return out
}

// State is what every block needs beside its input: a batch's tables on the
// device, owned by the tape they were made on.
type State struct {
	N     int
	IDs   *autograd.Tensor   // [N] int32
	Seq   *autograd.Tensor   // [S+1] int32: where sequences, or with a cache its pieces, begin
	Ropes []*autograd.Tensor // [N, Dim/2, 2] each: cosines and sines, as in arch.Spec.Ropes

	Places *autograd.Tensor // [N] int32: rows of the table of positions; nil: the model has none
	Rel    *autograd.Tensor // [span, H]: what scores lose or get by distance; nil: nothing
	Temper *autograd.Tensor // [N]: factors of queries by position; nil: none
	Parts  *autograd.Tensor // [N, layers·P]: what every layer gets of its own; nil: nothing

	Key *autograd.Tensor // [N] int64: see Inputs; nil: none

	// Memory [M, C] is what the encoder made for the blocks behind it; nil for others.
	Memory *autograd.Tensor

	after     *State           // of an encoder: that of the blocks behind it
	memorySeq *autograd.Tensor // [S+1] int32: sequences of Memory; nil with a cache
	memoryKey *autograd.Tensor // [M] int64: as Key
	// With a cache: where the tokens of Memory go in it, [M] int32 each, and for each
	// token [N] the last there is in its slot.
	memorySlot, memoryPos, memoryLast *autograd.Tensor

	joint   *joint           // for attention to both; nil: there is none
	bothKey *autograd.Tensor // [N+M] int64: as Key, in the order of joint
	// apart and others [N] are 1 and 0 for tokens whose embedding lies apart, and the
	// other way round; nil where there is no such token.
	apart, others *autograd.Tensor

	encoder   bool               // it is that of an encoder
	near      *autograd.Tensor   // [span] int32: what Rel is made of where layers have tables of their own; nil without distances
	relZero   int                // row of Rel of a token's own position
	noise     *autograd.Tensor   // [N, width of the embedding], for Begin; nil: none
	ids       []int32            // of the tokens, as they are embedded
	lent      []*autograd.Tensor // what earlier layers lend: see lend
	runs      []autograd.PickRun // the sequences, for what picks keys
	cache     *Cache
	slot, pos *autograd.Tensor // [N] int32; nil without a cache
	slots     *autograd.Tensor // [S] int32: the slot of each piece; nil without a cache
}

// Tensors lists all tensors of s: what a block reads beside its input.
func (s *State) Tensors() []*autograd.Tensor {
	var out []*autograd.Tensor
	s.visit(func(x **autograd.Tensor) { out = append(out, *x) })
	return out
}

// with is s with ts in place of its tensors, in the order of Tensors.
func (s *State) with(ts []*autograd.Tensor) *State {
	c := *s
	c.Ropes, c.lent, c.joint = slices.Clone(s.Ropes), slices.Clone(s.lent), s.joint.clone()
	c.visit(func(x **autograd.Tensor) { *x, ts = ts[0], ts[1:] })
	return &c
}

// visit calls f with every tensor that s has.
func (s *State) visit(f func(x **autograd.Tensor)) {
	all := []**autograd.Tensor{&s.IDs, &s.Seq, &s.Places, &s.Rel, &s.near, &s.Temper, &s.Parts, &s.Key, &s.Memory, &s.memorySeq, &s.memoryKey, &s.memorySlot, &s.memoryPos, &s.memoryLast, &s.bothKey, &s.apart, &s.others, &s.slot, &s.pos, &s.slots}
	for i := range s.Ropes {
		all = append(all, &s.Ropes[i])
	}
	for i := range s.lent {
		all = append(all, &s.lent[i])
	}
	for _, x := range all {
		if *x != nil {
			f(x)
		}
	}
	if s.joint != nil {
		s.joint.visit(f)
	}
}

// Prepare uploads what a pass over in needs: of a model with an encoder, what its
// blocks read; see Cross. What is wrong with in becomes the tape's error.
func (m *Model) Prepare(t *autograd.Tape, in Inputs) *State {
	in, _, err := m.parted(in)
	t.Fail(err)
	if m.Spec.Encoder == 0 || in.Source == nil {
		return m.prepare(t, in, false)
	}
	source, own := in.Source.filled(), in.filled()
	s, after := m.prepare(t, source, true), m.prepare(t, own, false)
	s.after, after.memorySeq, after.memoryKey = after, s.Seq, s.Key
	if t.Err() != nil {
		return s
	}
	if len(source.Seq) != len(own.Seq) {
		panic("model: the encoder and the decoder have texts of their own numbers")
	}
	m.join(t, after, &own, &source)
	return s
}

// filled is in with what its zero values stand for.
func (in Inputs) filled() Inputs {
	n := len(in.IDs)
	if in.Seq == nil {
		in.Seq = []int32{0, int32(n)}
	}
	if in.Pos == nil {
		in.Pos = restart(in.Seq, n)
	}
	return in
}

// prepare uploads what the blocks of one kind need.
func (m *Model) prepare(t *autograd.Tape, in Inputs, encoder bool) *State {
	n := len(in.IDs)
	in = in.filled()
	t.Fail(m.checkInputs(in))
	s := &State{N: n, encoder: encoder}
	if t.Err() != nil {
		return s
	}
	s.IDs = t.Upload(m.embedded(in.IDs), n)
	m.markApart(t, s, in.IDs)
	s.Seq = t.Upload(in.Seq, len(in.Seq))
	for i := 1; i < len(in.Seq); i++ {
		from, to := int(in.Seq[i-1]), int(in.Seq[i])
		s.runs = append(s.runs, autograd.PickRun{From: from, To: to, First: from, Keys: to - from})
	}
	if in.Key != nil {
		s.Key = t.Upload(in.Key, n)
		t.Key = s.Key
	}
	if in.Noise != nil {
		s.noise = t.Input(in.Noise, n, len(in.Noise)/max(n, 1))
	}
	m.position(t, s, m.embedded(in.IDs), in.Pos, spans(in.Pos, in.Seq), encoder)
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
	if err := m.checkPositions(in.Pos); err != nil {
		return err
	}
	return m.CheckIDs(in.IDs)
}

// checkPositions returns an error where a position has no row in the model's table.
func (m *Model) checkPositions(pos []int32) error {
	rows := m.Spec.Positions - m.Spec.PosOffset
	for _, p := range pos {
		if m.Spec.Positions > 0 && int(p) >= rows {
			return fail.Inputf("tokens", "cut the texts, or take a model with a longer context", "a text goes beyond position %d, the last in the model's table", rows-1)
		}
	}
	return nil
}

// CheckIDs returns an error where an id is no token of the model.
func (m *Model) CheckIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.Spec.V {
			return fail.Inputf("tokens", "is the tokenizer the model's own?", "token %d of the batch has id %d, the model has %d", i, id, m.Spec.V)
		}
	}
	return nil
}

// embedded are the tokens whose embeddings ids have: themselves, but for those that
// stand for what is no text.
func (m *Model) embedded(ids []int32) []int32 {
	if len(m.Spec.Stand) == 0 {
		return ids
	}
	out := slices.Clone(ids)
	for i, id := range ids {
		if slices.Contains(m.Spec.Stand, id) {
			out[i] = m.Spec.StandAs
		}
	}
	return out
}

// CheckPrompt returns an error where a prompt has ids that are no tokens, or leaves no
// room for an answer in the model's context.
func (m *Model) CheckPrompt(ids []int32) error {
	if n := m.Spec.Context(); n > 0 && len(ids) >= n {
		return fail.Inputf("prompt", "shorten it, or take a model with a longer context", "%d tokens leave no room for an answer: the model's context is %d", len(ids), n)
	}
	return m.CheckIDs(ids)
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
