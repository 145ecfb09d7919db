package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
)

// mlp is a gated feed-forward part: down(act(gate(x))·up(x)).
type mlp struct {
	spec           *arch.MLP
	gate, up, down *nn.Linear
}

func (l *loader) mlp(layer int, spec *arch.MLP) *mlp {
	return &mlp{spec, l.linear(layer, arch.Gate), l.linear(layer, arch.Up), l.linear(layer, arch.Down)}
}

func (m *mlp) steps() []Step {
	return []Step{
		{Linears: m.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{m.gated(t, in[0])}
		}},
		{Linears: []*nn.Linear{m.down}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{scaled(t, m.down.ForwardWide(t, in[0]), m.spec.OutScale)}
		}},
	}
}

func (m *mlp) readers() []*nn.Linear { return []*nn.Linear{m.gate, m.up} }

func (m *mlp) smooth() []Pair {
	return []Pair{{Prev: m.up, Next: []*nn.Linear{m.down}, Part: alone(m.down)}}
}

// gated is the part up to the input of down.
func (m *mlp) gated(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	g, u := m.gate.Forward(t, x), m.up.Forward(t, x)
	g = scaled(t, g, m.spec.GateScale)
	a := t.Act(autograd.ActSpec{Kind: m.spec.Act}, g, u)
	t.Done(g, u)
	return a
}
