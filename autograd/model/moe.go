package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// moe is a feed-forward part of routed experts.
type moe struct {
	spec                 *arch.MoE
	router, gateUp, down *nn.Linear
}

func (l *loader) moe(layer int, spec *arch.MoE) *moe {
	return &moe{spec, l.linear(layer, arch.Router), l.linear(layer, arch.ExpertGateUp), l.linear(layer, arch.ExpertDown)}
}

// steps: the state between the experts' maps is where tokens go, and rows by
// expert.
func (m *moe) steps() []Step {
	routed := func(in tensors) *autograd.Routed { return autograd.RoutedOf(in[:len(in)-1]) }
	return []Step{
		{Linears: []*nn.Linear{m.router}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{in[0], m.router.ForwardWide(t, in[0])}
		}},
		{Linears: []*nn.Linear{m.gateUp}, Routed: routed, In: func(t *autograd.Tape, in tensors) tensors {
			r := t.Route(in[1], kernels.RouteArgs{Kind: m.spec.Route, K: m.spec.K, Renorm: m.spec.Renorm})
			return append(r.Tensors(), t.Rows(in[0], r.Token))
		}, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			last := len(in) - 1
			h := m.gateUp.ForwardExperts(t, in[last], routed(in))
			a := t.Act(autograd.ActSpec{Kind: m.spec.Act, Layout: kernels.Halves}, h, nil)
			t.Done(h)
			return join(in[:last], tensors{a})
		}},
		{Linears: []*nn.Linear{m.down}, Routed: routed, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			r := routed(in)
			rows := m.down.ForwardExpertsWide(t, in[len(in)-1], r)
			y := t.Combine(rows, r.Place, r.Weight)
			t.Done(rows)
			return tensors{y}
		}},
	}
}

// readers: none, for the router reads the input too and stays as it is.
func (m *moe) readers() []*nn.Linear { return nil }

func (m *moe) smooth() []Pair { return nil }
