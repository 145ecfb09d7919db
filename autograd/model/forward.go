package model

import (
	"cmp"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Begin returns the input of the first block [N, Spec.Width()]: the embedded tokens.
func (m *Model) Begin(t *autograd.Tape, s *State) *autograd.Tensor {
	if t.Err() != nil {
		return t.New(s.N, m.Spec.Width())
	}
	embed := m.Embed
	if s.encoder && m.Encoder.Embed != nil {
		embed = m.Encoder.Embed
	}
	x := m.apart(t, scaled(t, embed.Forward(t, s.IDs), m.Spec.EmbedScale), s)
	if s.noise != nil {
		raw := x
		x = t.Add(raw, s.noise, 1, 1)
		t.Done(raw, s.noise)
	}
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
	switch {
	case m.hyper != nil:
		x = m.hyper.spread(t, x)
	case m.Streams != nil:
		x = m.Streams.begin(t, x)
	}
	return x
}

// finish makes of the last block's output what the head reads. x stays the
// caller's to mark as Done; the result may be x.
func (m *Model) finish(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	x, own := m.single(t, x), x
	h := x
	if m.Norm != nil {
		h = m.Norm.ForwardWide(t, x)
		release(t, tensors{x}, nil, own)
	}
	if m.ProjectOut != nil {
		normed := h
		h = m.ProjectOut.ForwardWide(t, normed)
		release(t, tensors{normed}, nil, own)
	}
	return h
}

// single is the one stream of x [N, Spec.Width()] that the final norm reads, x itself
// where it is one.
func (m *Model) single(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	switch {
	case m.hyper != nil:
		return m.hyper.end(t, x)
	case m.Streams != nil:
		return m.Streams.end(t, x)
	}
	return x
}

// Hidden returns the hidden states after the final norm [N, C], ready for
// LogProb or Logits. Of a model with an encoder, row n is what predicts the token
// behind token n of in; rows that predict none hold another's.
func (m *Model) Hidden(t *autograd.Tape, in Inputs) *autograd.Tensor {
	in, rows, err := m.parted(in)
	t.Fail(err)
	s := m.Prepare(t, in)
	x := tensors{m.Begin(t, s)}
	if t.Err() != nil {
		return x[0]
	}
	for i, b := range m.Blocks {
		if m.Crosses(i) {
			var y *autograd.Tensor
			y, s = m.Cross(t, stream(x), s)
			t.Done(x...)
			x = tensors{y}
		}
		y := m.run(t, b, x, s)
		release(t, x, y)
		x = y
	}
	h := m.finish(t, stream(x))
	release(t, x, tensors{h})
	if rows != nil {
		own := h
		h = t.Rows(own, t.Upload(rows, len(rows)))
		t.Done(own)
	}
	return h
}

// Crosses reports whether block i is the first behind an encoder.
func (m *Model) Crosses(i int) bool { return i > 0 && i == m.Spec.Encoder }

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

// States returns the input of every block [N, Spec.Width()], what the final norm reads
// and, at the end, the hidden states behind it [N, C]: Layers+2 tensors. Of a model
// with an encoder there are two more, where its blocks end: their output, and that
// after its norm.
func (m *Model) States(t *autograd.Tape, in Inputs) []*autograd.Tensor {
	s := m.Prepare(t, in)
	x := tensors{m.Begin(t, s)}
	out := slices.Clone(x)
	if t.Err() != nil {
		return out
	}
	for i, b := range m.Blocks {
		if m.Crosses(i) {
			var y *autograd.Tensor
			y, s = m.Cross(t, stream(x), s)
			out, x = append(out, s.Memory, y), tensors{y}
		}
		x = m.forward(t, b, x, s)
		out = append(out, stream(x))
	}
	out[len(out)-1] = m.single(t, stream(x))
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
	return m.LogProbAs(t, h, target, coef, Reading{Temperature: 1})
}

// Reading is how a loss reads logits: divided by Temperature, and with label smoothing
// (1-Smooth)·(-log p) and Smooth times the mean of -log p over the vocabulary.
type Reading struct{ Temperature, Smooth float32 }

// LogProbAs is LogProb of logits read as r says.
func (m *Model) LogProbAs(t *autograd.Tape, h *autograd.Tensor, target []int32, coef []float32, r Reading) autograd.LogProbs {
	n := h.Rows()
	w := m.Head.W
	adapted := len(m.Head.Adapters) > 0 && !t.Base
	if adapted {
		w = m.adaptedHead(t, coef != nil)
		defer func() {
			m.Dev.Free(w.Grad)
			m.Dev.Free(w.Buffer)
		}()
	}
	tg := t.Upload(target, n)
	var c *autograd.Tensor
	if coef != nil {
		c = t.Upload(coef, n)
	}
	head := autograd.HeadSpec{W: w, Bias: m.Head.BiasOf(t), Scale: m.Spec.LogitScale, SoftCap: m.Spec.LogitCap, Smooth: r.Smooth}
	if r.Temperature != 1 {
		if head.Bias != nil {
			t.Fail(fail.Usagef(m.Head.Path, "use temperature: 1", "the head has a bias, which a temperature of %v is not applied to", r.Temperature))
		}
		head.Scale, head.SoftCap = cmp.Or(head.Scale, 1)/r.Temperature, head.SoftCap/r.Temperature
	}
	out := t.LogProb(h, head, tg, c)
	if adapted && w.Grad != nil && t.Err() == nil {
		m.headGradients(w.Grad)
	}
	return out
}

// adaptedHead is the head's matrix with its adapters in it, float32, in memory
// that the caller frees; trains: with a place for its gradient, where one of its
// adapters has one.
func (m *Model) adaptedHead(t *autograd.Tape, trains bool) *autograd.Param {
	w := m.Head.W
	out := &autograd.Param{Name: w.Name, Mat: kernels.Mat{Rows: w.Rows, Cols: w.Cols, Of: w.Rows}}
	alloc := func() kernels.Buffer {
		b, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), w.Len())
		if err != nil {
			t.Fail(err)
			return nil
		}
		return b
	}
	if out.Buffer = alloc(); t.Err() != nil {
		out.Buffer = nil
		return out
	}
	m.Dev.Dequantize(out.Buffer, w.Mat)
	for _, a := range m.Head.Adapters {
		m.Dev.Gemm(kernels.Into(out.Buffer), &kernels.GemmArgs{A: a.B.Buffer, B: a.A.Buffer, M: w.Rows, N: w.Cols, K: a.R(), Alpha: a.Scale})
		if a.Dropout > 0 && t.Record {
			t.Fail(fail.Usagef(m.Head.Path, "leave "+m.Head.Path+" out of the target modules, or use dropout: 0", "an adapter of the head cannot be trained with dropout"))
		}
		trains = trains && t.Record
		if trains && a.B.Grad != nil && out.Grad == nil && t.Err() == nil {
			if g := alloc(); g != nil {
				m.Dev.Fill(g, 0)
				out.Grad = g
			}
		}
	}
	return out
}

// headGradients adds to the gradients of the head's adapters what dw [V, C], that of
// the matrix with them in it, gives: s·dw·Aᵀ and s·Bᵀ·dw.
func (m *Model) headGradients(dw kernels.Buffer) {
	for _, a := range m.Head.Adapters {
		v, c, r := a.B.Rows, a.A.Cols, a.R()
		if a.B.Grad != nil {
			m.Dev.Gemm(kernels.Into(a.B.Grad), &kernels.GemmArgs{A: dw, B: a.A.Buffer, TB: true, M: v, N: r, K: c, Alpha: a.Scale})
		}
		if a.A.Grad != nil {
			m.Dev.Gemm(kernels.Into(a.A.Grad), &kernels.GemmArgs{A: a.B.Buffer, TA: true, B: dw, M: r, N: c, K: v, Alpha: a.Scale})
		}
	}
}
