package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// mamba2 is the mixer of Mamba-2 (Dao, Gu 2024, arXiv:2405.21060): in makes gate,
// input, its two projections and time steps; all but gate and steps pass a short
// convolution; a selective scan follows, and a gate with or without a norm.
type mamba2 struct {
	spec               *arch.Mamba2
	in, out            *nn.Linear
	w, bias            *autograd.Param // [H·P+2·G·S, Taps], and its bias or nil
	aLog, dtBias, skip *autograd.Param // [H]
	norm               *autograd.Param // [H·P], in G parts; nil: none
	seat               int             // of its states in a cache
}

func (l *loader) mamba2(layer int, spec *arch.Mamba2) *mamba2 {
	m := &mamba2{spec: spec, in: l.linear(layer, arch.MixIn), seat: len(l.m.mixers)}
	m.w, m.bias = l.conv(layer)
	m.aLog, m.dtBias, m.skip = l.take(l.src.At(layer, arch.ALog)), l.take(l.src.At(layer, arch.DtBias)), l.take(l.src.At(layer, arch.Skip))
	if spec.Norm != arch.NoMixNorm {
		m.norm = l.take(l.src.At(layer, arch.MixNorm))
	}
	m.out = l.linear(layer, arch.MixOut)
	l.m.mixers = append(l.m.mixers, m)
	return m
}

func (m *mamba2) steps() []Step {
	return []Step{
		{Linears: m.readers(), In: scaledBy(m.spec.InScale), Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{m.mix(t, in[0], s)}
		}},
		leave(m.out, m.spec.OutScale),
	}
}

func (m *mamba2) readers() []*nn.Linear { return []*nn.Linear{m.in} }

// smooth: the parts of in go through a convolution, a scan and a norm.
func (m *mamba2) smooth() []Pair { return nil }

// mix is the mixer up to the input of out.
func (m *mamba2) mix(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	c := m.spec
	inner, bc := c.H*c.P, c.G*c.S
	all := m.in.Forward(t, x)
	first := 0
	part := func(i, n int) *autograd.Tensor {
		y := scaled(t, t.Columns(all, first, n), c.PartScales[i])
		first += n
		return y
	}
	z, u, b, k, dt := part(0, inner), part(1, inner), part(2, bc), part(3, bc), part(4, c.H)
	t.Done(all)
	u, b, k = m.conv(t, u, 0, 0, s), m.conv(t, b, inner, 1, s), m.conv(t, k, inner+bc, 2, s)
	y := t.SSMScan(u, b, k, dt, autograd.SSMSpec{H: c.H, P: c.P, G: c.G, S: c.S, Seq: s.Seq, ALog: m.aLog, DtBias: m.dtBias, D: m.skip,
		DtMin: c.DtMin, DtMax: c.DtMax, State: s.recurrent(m.seat, 3)})
	t.Done(u, b, k, dt)
	return m.gated(t, y, z)
}

// gated is y·silu(z) with its norm, before or behind the product.
func (m *mamba2) gated(t *autograd.Tape, y, z *autograd.Tensor) *autograd.Tensor {
	if m.spec.Norm == arch.NormThenGate {
		y = m.normed(t, y)
	}
	o := t.Act(autograd.ActSpec{}, z, y)
	t.Done(y, z)
	if m.spec.Norm == arch.GateThenNorm {
		o = m.normed(t, o)
	}
	return o
}

// normed is y with each of its G parts normalised by itself.
func (m *mamba2) normed(t *autograd.Tape, y *autograd.Tensor) *autograd.Tensor {
	n := t.Norm(y, autograd.NormSpec{W: m.norm, Heads: m.spec.G, Eps: m.spec.NormEps})
	t.Done(y)
	return n
}

// conv is the convolution of x, whose channels are those of w from first on.
func (m *mamba2) conv(t *autograd.Tape, x *autograd.Tensor, first, part int, s *State) *autograd.Tensor {
	return s.convolveAct(t, x, m.seat, part, autograd.ConvSpec{W: m.w, Bias: m.bias, First: first}, m.spec.Act)
}

// remember makes the mixer's part of a cache: the last inputs of the
// convolution, and the state of every head.
func (m *mamba2) remember(dev kernels.Backend, slots, _ int) (memory, error) {
	c := m.spec
	return newStates(dev, slots, (c.Taps-1)*c.H*c.P, (c.Taps-1)*c.G*c.S, (c.Taps-1)*c.G*c.S, c.H*c.P*c.S)
}
