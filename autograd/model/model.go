// Package model runs transformers: it loads the weights that package arch
// describes, makes hidden states, logits and losses of packed batches on a
// tape, generates with a cache, and lets a caller push activations through
// block by block.
package model

import (
	"iter"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Options say how weights are held.
type Options struct {
	// Hold quantizes the linear weights of the blocks in memory on loading,
	// e.g. dtype.NF4Double; embedding and head stay as they are. nil: every
	// weight is held in the type its file has.
	Hold *dtype.Type
	// Trainable holds every weight as float32 in one flat buffer, for training
	// all of them. It excludes Hold.
	Trainable bool
	// Reward takes a reward model, whose head is not one of words, and no other.
	Reward bool
	// Stream keeps no block in memory, for who takes one after another between
	// Acquire and Release. Without it as many blocks stay as the device's limit
	// leaves room for, all where it has none.
	Stream bool
	// Exact leaves the inputs of linear maps as they are where the file says that
	// they are rounded.
	Exact bool
}

// Model is a transformer with its weights on a device: a decoder, alone or behind an encoder. It is used
// by one goroutine at a time.
type Model struct {
	Spec   arch.Spec
	Dev    kernels.Backend
	Embed  *nn.Embedding
	Blocks []*Block // the layers
	Norm   *nn.Norm // final; nil: none
	Head   *nn.Linear

	// Of some families, else nil: see arch.Spec.
	Positions             *nn.Embedding
	EmbedNorm             *nn.Norm
	ProjectIn, ProjectOut *nn.Linear
	Parts                 *Parts
	Apart                 *nn.Embedding
	Encoder               *Encoder
	Near                  *nn.Embedding // of the decoder: see arch.Spec.Distances
	Streams               *Streams
	hyper                 *hyper

	// Flat [Σ Len of Params] f32 holds all weights one after another in the
	// order of Params when Options.Trainable was set, else nil.
	Flat kernels.Buffer
	// GradientCheckpointing keeps one tensor a block for the gradient and runs
	// each block twice.
	GradientCheckpointing bool
	// RecomputeBlocks does that for the first so many blocks only: less memory
	// for a part of the work. The gradients are the same bits.
	RecomputeBlocks int
	// Fast lets Step round the operands of products as kernels.LinearArgs.Fast
	// says. Everything else on the model computes as its tape asks.
	Fast bool

	src     *arch.Source
	options Options
	stay    residency
	params  []*autograd.Param
	tensors map[*autograd.Param]*arch.Tensor
	owned   map[*autograd.Param]bool // has memory of its own
	covered map[*autograd.Param]*cover
	mixers  []mixer
	ropes   []ropeTable // as Spec.Ropes
}

// Params lists every weight once (a tied head is the embedding), in file order:
// embedding, blocks, final norm, head.
func (m *Model) Params() []*autograd.Param { return m.params }

// TensorOf says what a weight of the model is and how its checkpoint stores it;
// nil for parameters that are not the model's own.
func (m *Model) TensorOf(p *autograd.Param) *arch.Tensor { return m.tensors[p] }

// Linears lists the linear maps of the blocks.
func (m *Model) Linears() iter.Seq[*nn.Linear] {
	return func(yield func(*nn.Linear) bool) {
		for _, b := range m.Blocks {
			for _, l := range b.Linears() {
				if !yield(l) {
					return
				}
			}
		}
	}
}

// Ports lists the places where adapters attach, with their paths on the hub:
// the linear maps of the blocks, those around them, the embeddings, and the head, whose matrix is
// the embedding's where they are tied.
func (m *Model) Ports() iter.Seq[nn.Port] {
	return func(yield func(nn.Port) bool) {
		for l := range m.Linears() {
			s := nn.Port{Path: l.Path, Linear: l}
			if t := m.tensors[l.W]; t != nil { // nil: another weight is in its place
				if module, name := t.Parameter(); name != "" {
					s.Path, s.Param = module, name
				}
			}
			if !yield(s) {
				return
			}
		}
		around, tables := []*nn.Linear{m.ProjectIn, m.ProjectOut}, []*nn.Embedding{m.Embed, m.Positions}
		if m.Parts != nil {
			around, tables = append(around, m.Parts.Project), append(tables, m.Parts.Table)
		}
		if m.Encoder != nil {
			tables = append(tables, m.Encoder.Embed, m.Encoder.Near, m.Near)
		}
		if m.Streams != nil {
			around = append(append(around, m.Streams.In...), m.Streams.Out...)
		}
		for _, e := range tables {
			if e != nil && !yield(nn.Port{Path: e.Path, Embed: e}) {
				return
			}
		}
		for _, l := range around {
			if l != nil && !yield(nn.Port{Path: l.Path, Linear: l}) {
				return
			}
		}
		yield(nn.Port{Path: m.Head.Path, Linear: m.Head, Head: true})
	}
}

// Close gives the weights' memory back. Adapters belong to whoever made them.
func (m *Model) Close() {
	for _, p := range m.params {
		if m.owned[p] {
			m.Dev.Free(m.place(p).Buffer)
			delete(m.owned, p)
		}
	}
	for _, h := range m.stay.staged {
		h.Release()
	}
	m.stay.staged, m.stay.ahead = nil, false
	m.Dev.Free(m.Flat)
	m.Flat, m.params = nil, nil
}

// Decode returns a weight as float32 values [p.Rows·p.Cols].
func (m *Model) Decode(p *autograd.Param) ([]float32, error) {
	out := make([]float32, p.Len())
	err := m.Dev.Run(func() error {
		b, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(out))
		if err != nil {
			return err
		}
		defer m.Dev.Free(b)
		return m.With(p, func() error {
			m.Dev.Dequantize(b, p.Mat)
			return m.Dev.Download(kernels.Bytes(out), b)
		})
	})
	return out, err
}

// Source is the file that m's weights come from.
func (m *Model) Source() *arch.Source { return m.src }
