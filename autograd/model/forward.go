package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Begin returns the input of the first block [N, C]: the embedded tokens.
func (m *Model) Begin(t *autograd.Tape, s *State) *autograd.Tensor {
	if t.Err() != nil {
		return t.New(s.N, m.Spec.C)
	}
	x := scaled(t, m.Embed.Forward(t, s.IDs), m.Spec.EmbedScale)
	if m.ProjectIn != nil {
		raw := x
		x = m.ProjectIn.ForwardWide(t, raw)
		t.Done(raw)
	}
	if m.Positions != nil {
		raw, place := x, m.Positions.Forward(t, s.Places)
		x = t.Add(raw, place, 1, 1)
		t.Done(raw, place)
	}
	if m.EmbedNorm != nil {
		raw := x
		x = m.EmbedNorm.ForwardWide(t, raw)
		t.Done(raw)
	}
	return x
}

// finish makes of the last block's output what the head reads. x stays the
// caller's to mark as Done; the result may be x.
func (m *Model) finish(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	h := x
	if m.Norm != nil {
		h = m.Norm.ForwardWide(t, x)
	}
	if m.ProjectOut != nil {
		normed := h
		h = m.ProjectOut.ForwardWide(t, normed)
		release(t, tensors{normed}, nil, x)
	}
	return h
}

// Hidden returns the hidden states after the final norm [N, C], ready for
// LogProb or Logits.
func (m *Model) Hidden(t *autograd.Tape, in Inputs) *autograd.Tensor {
	s := m.Prepare(t, in)
	x := tensors{m.Begin(t, s)}
	if t.Err() != nil {
		return x[0]
	}
	for _, b := range m.Blocks {
		y := m.run(t, b, x, s)
		release(t, x, y)
		x = y
	}
	h := m.finish(t, stream(x))
	release(t, x, tensors{h})
	return h
}

// stream is the residual stream in a block's input or output.
func stream(x tensors) *autograd.Tensor { return x[len(x)-1] }

// run is one block, checkpointed where that is wanted or its weights do not stay.
func (m *Model) run(t *autograd.Tape, b *Block, x tensors, s *State) tensors {
	if !m.GradientCheckpointing && b.Index >= m.RecomputeBlocks && (b.Index < m.stay.kept || !t.Record) {
		return m.forward(t, b, x, s)
	}
	// The tables are inputs too: blocks that are not checkpointed would let them
	// go before this one runs again.
	return t.Checkpoint(join(x, s.Tensors()), func(t *autograd.Tape, in tensors) tensors {
		return m.forward(t, b, in[:len(x)], s.with(in[len(x):]))
	})
}

// forward is one block with its weights in memory: until the tape is freed when
// it records, as its gradient reads them.
func (m *Model) forward(t *autograd.Tape, b *Block, x tensors, s *State) tensors {
	if err := m.Acquire(b); err != nil {
		t.Fail(err)
	}
	if t.Err() != nil {
		return x
	}
	if t.Record {
		t.OnFree(func() { m.Release(b) })
	} else {
		defer m.Release(b)
	}
	return b.Forward(t, x, s)
}

// States returns the input of every block, the last block's output and, at the
// end, the hidden states after the final norm: Layers+2 tensors [N, C].
func (m *Model) States(t *autograd.Tape, in Inputs) []*autograd.Tensor {
	s := m.Prepare(t, in)
	x := tensors{m.Begin(t, s)}
	out := slices.Clone(x)
	if t.Err() != nil {
		return out
	}
	for _, b := range m.Blocks {
		x = m.forward(t, b, x, s)
		out = append(out, stream(x))
	}
	return append(out, m.finish(t, stream(x)))
}

// Logits returns the logits [N, V] of final hidden states h [N, C].
func (m *Model) Logits(t *autograd.Tape, h *autograd.Tensor) *autograd.Tensor {
	x := scaled(t, m.Head.ForwardWide(t, h), m.Spec.LogitScale)
	softCap := m.Spec.LogitCap
	if softCap == 0 {
		return x
	}
	x = scaled(t, x, 1/softCap)
	y := t.Act(autograd.ActSpec{Kind: kernels.Tanh}, x, nil)
	t.Done(x)
	return scaled(t, y, softCap)
}

// scaled is alpha·x (0: x) in place of x.
func scaled(t *autograd.Tape, x *autograd.Tensor, alpha float32) *autograd.Tensor {
	y := t.Scale(x, alpha)
	if y != x {
		t.Done(x)
	}
	return y
}

// LogProb returns log-probabilities of target [N] (-1: none) from final hidden
// states h. With coef [N] the loss is Σ coef·(-log p) and its gradients are
// added; see autograd.Tape.LogProb. Mark h as Done when no other call follows.
func (m *Model) LogProb(t *autograd.Tape, h *autograd.Tensor, target []int32, coef []float32) autograd.LogProbs {
	n := h.Rows()
	w := m.Head.W
	if len(m.Head.Adapters) > 0 && !t.Base {
		if t.Record {
			t.Fail(fail.Usagef(m.Head.Path, "leave "+m.Head.Path+" out of the target modules", "an adapter of the head cannot be trained"))
		} else {
			w = m.adaptedHead(t)
			defer m.Dev.Free(w.Buffer)
		}
	}
	tg := t.Upload(target, n)
	var c *autograd.Tensor
	if coef != nil {
		c = t.Upload(coef, n)
	}
	return t.LogProb(h, autograd.HeadSpec{W: w, Bias: m.Head.Bias, Scale: m.Spec.LogitScale, SoftCap: m.Spec.LogitCap}, tg, c)
}

// adaptedHead is the head's matrix with its adapters in it, float32, in memory
// that the caller frees.
func (m *Model) adaptedHead(t *autograd.Tape) *autograd.Param {
	w := m.Head.W
	buf, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), w.Len())
	if err != nil {
		t.Fail(err)
		return &autograd.Param{Mat: kernels.Mat{Rows: w.Rows, Cols: w.Cols}}
	}
	m.Dev.Dequantize(buf, w.Mat)
	for _, a := range m.Head.Adapters {
		m.Dev.Gemm(kernels.Into(buf), &kernels.GemmArgs{A: a.B.Buffer, B: a.A.Buffer, M: w.Rows, N: w.Cols, K: a.A.Rows, Alpha: a.Scale})
	}
	return &autograd.Param{Name: w.Name, Mat: kernels.Mat{Buffer: buf, Rows: w.Rows, Cols: w.Cols, Of: w.Rows}}
}
