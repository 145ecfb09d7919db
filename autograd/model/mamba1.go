package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// mamba1 is the mixer of Mamba (Gu, Dao 2023, arXiv:2312.00752) with Jamba's
// norms: in makes input and gate; the input passes a short convolution and tells
// the scan its time steps, of low rank, and its two projections.
type mamba1 struct {
	spec                      *arch.Mamba1
	in, parts, out            *nn.Linear
	step                      *nn.Linear      // time steps of all channels; no place for adapters, and never quantized
	w, bias                   *autograd.Param // [I, Taps], and its bias or nil
	aLog                      *autograd.Param // [I, S]
	skip                      *autograd.Param // [I]
	stepNorm, inNorm, outNorm *nn.Norm
	seat                      int // of its states in a cache
}

func (l *loader) mamba1(layer int, spec *arch.Mamba1) *mamba1 {
	m := &mamba1{spec: spec, in: l.linear(layer, arch.MixIn), parts: l.linear(layer, arch.StepParts), step: l.linear(layer, arch.StepUp), out: l.linear(layer, arch.MixOut), seat: len(l.m.mixers)}
	m.w, m.bias = l.conv(layer)
	m.aLog, m.skip = l.take(l.src.At(layer, arch.ALog)), l.take(l.src.At(layer, arch.Skip))
	m.stepNorm, m.inNorm, m.outNorm = l.norm(layer, arch.StepNorm), l.norm(layer, arch.BNorm), l.norm(layer, arch.CNorm)
	l.m.mixers = append(l.m.mixers, m)
	return m
}

// steps: the state after the first is the gate and the convolved input.
func (m *mamba1) steps() []Step {
	return []Step{
		{Linears: m.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			both, n := m.in.Forward(t, in[0]), m.spec.I
			x, z := t.Columns(both, 0, n), t.Columns(both, n, n)
			t.Done(both)
			u := s.convolveAct(t, x, m.seat, 0, autograd.ConvSpec{W: m.w, Bias: m.bias}, m.spec.Act)
			return tensors{z, u}
		}},
		{Linears: []*nn.Linear{m.parts}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			y := m.scan(t, in[1], s)
			o := t.Act(autograd.ActSpec{}, in[0], y)
			t.Done(y)
			return tensors{o}
		}},
		leave(m.out, 0),
	}
}

func (m *mamba1) readers() []*nn.Linear { return []*nn.Linear{m.in} }

// smooth: the parts of in go through a convolution, a scan and a gate.
func (m *mamba1) smooth() []Pair { return nil }

// scan is the selective scan of u [N, I], every channel a head of its own.
func (m *mamba1) scan(t *autograd.Tape, u *autograd.Tensor, s *State) *autograd.Tensor {
	c, all := m.spec, m.parts.Forward(t, u)
	part := func(first, n int, norm *nn.Norm) *autograd.Tensor {
		raw := t.Columns(all, first, n)
		x := norm.Forward(t, raw)
		t.Done(raw)
		return x
	}
	low, b, k := part(0, c.R, m.stepNorm), part(c.R, c.S, m.inNorm), part(c.R+c.S, c.S, m.outNorm)
	dt := m.step.ForwardWide(t, low)
	y := t.SSMScan(u, b, k, dt, autograd.SSMSpec{H: c.I, P: 1, G: 1, S: c.S, Seq: s.Seq, PerState: true, ALog: m.aLog, D: m.skip, State: s.recurrent(m.seat, 1)})
	t.Done(all, low, b, k, dt)
	return y
}

// remember makes the mixer's part of a cache: the last inputs of the
// convolution, and the state of every channel.
func (m *mamba1) remember(dev kernels.Backend, slots, _ int) (memory, error) {
	return newStates(dev, slots, (m.spec.Taps-1)*m.spec.I, m.spec.I*m.spec.S)
}
