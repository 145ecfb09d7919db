package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// mlp is a feed-forward part: down(act(gate(x))·up(x)), or down(act(up(x))).
type mlp struct {
	spec           *arch.MLP
	gate, up, down *nn.Linear // gate nil: it is not gated, or gateUp makes both
	gateUp         *nn.Linear
	xielu          *xielu // nil: another activation
}

func (l *loader) mlp(layer int, spec *arch.MLP) *mlp {
	m := &mlp{spec: spec, down: l.linear(layer, arch.Down)}
	switch {
	case spec.Fused:
		m.gateUp = l.linear(layer, arch.GateUp)
	case spec.Ungated:
		m.up = l.linear(layer, arch.Up)
	default:
		m.gate, m.up = l.linear(layer, arch.Gate), l.linear(layer, arch.Up)
	}
	if spec.XIELU != nil {
		m.xielu = l.xielu(layer, spec.XIELU)
	}
	return m
}

func (m *mlp) steps() []Step {
	return []Step{
		{Linears: m.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{m.inner(t, in[0])}
		}},
		leave(m.down, m.spec.OutScale),
	}
}

func (m *mlp) readers() []*nn.Linear {
	switch {
	case m.gateUp != nil:
		return []*nn.Linear{m.gateUp}
	case m.gate == nil:
		return []*nn.Linear{m.up}
	}
	return []*nn.Linear{m.gate, m.up}
}

// smooth: without a gate the activation stands between up and down, and does not
// let scales through; nor can a part of one map take them up.
func (m *mlp) smooth() []Pair {
	if m.gate == nil {
		return nil
	}
	return []Pair{{Prev: m.up, Next: []*nn.Linear{m.down}, Part: alone(m.down)}}
}

// inner is the part up to the input of down.
func (m *mlp) inner(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	if m.gateUp != nil {
		both := m.gateUp.Forward(t, x)
		a := t.Act(autograd.ActSpec{Kind: m.spec.Act, Layout: kernels.Halves}, both, nil)
		t.Done(both)
		return a
	}
	if m.gate == nil {
		u := m.up.Forward(t, x)
		defer t.Done(u)
		if m.xielu != nil {
			return m.xielu.forward(t, u)
		}
		return t.Act(autograd.ActSpec{Kind: m.spec.Act}, u, nil)
	}
	g, u := m.gate.Forward(t, x), m.up.Forward(t, x)
	if g = scaled(t, g, m.spec.GateScale); m.spec.Sparse {
		g = sparse(t, g, m.spec.Cut)
	}
	a := t.Act(autograd.ActSpec{Kind: m.spec.Act, ActParams: m.spec.ActParams}, g, u)
	t.Done(g, u)
	return a
}
