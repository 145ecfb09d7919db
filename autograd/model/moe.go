package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// moe is a feed-forward part of routed experts, and maybe one for every token.
type moe struct {
	spec                 *arch.MoE
	router, gateUp, down *nn.Linear
	shared               *mlp       // nil: none
	share                *nn.Linear // how much of it a token takes, [1, C]
}

func (l *loader) moe(layer int, spec *arch.MoE) *moe {
	m := &moe{spec: spec, router: l.linear(layer, arch.Router), gateUp: l.linear(layer, arch.ExpertGateUp), down: l.linear(layer, arch.ExpertDown)}
	if spec.Shared > 0 {
		m.share = l.linear(layer, arch.SharedRouter)
		m.shared = &mlp{spec: &arch.MLP{F: spec.Shared, Act: spec.Act}, gate: l.linear(layer, arch.SharedGate), up: l.linear(layer, arch.SharedUp), down: l.linear(layer, arch.SharedDown)}
	}
	return m
}

// steps: the state between the experts' maps is where tokens go, and rows by
// expert. What the shared expert needs, the input and its share, comes first in
// every state until it is used.
func (m *moe) steps() []Step {
	held := 0
	steps := []Step{{Linears: []*nn.Linear{m.router}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
		return tensors{in[0], m.router.ForwardWide(t, in[0])}
	}}}
	if m.shared != nil {
		held = 2
		steps[0] = Step{Linears: []*nn.Linear{m.router, m.share}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			logits, raw := m.router.ForwardWide(t, in[0]), m.share.ForwardWide(t, in[0])
			share := t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, raw, nil)
			t.Done(raw)
			return tensors{in[0], share, logits}
		}}
	}
	steps = append(steps, m.expertSteps(held)...)
	if m.shared != nil {
		steps = append(steps, m.sharedSteps()...)
	}
	return steps
}

// expertSteps are the routed experts'. They begin with the input, first, and the
// logits, last, and end with held tensors and the output.
func (m *moe) expertSteps(held int) []Step {
	routed := func(in tensors) *autograd.Routed { return autograd.RoutedOf(in[held : len(in)-1]) }
	return []Step{
		{Linears: []*nn.Linear{m.gateUp}, Routed: routed, In: func(t *autograd.Tape, in tensors) tensors {
			r := t.Route(in[len(in)-1], kernels.RouteArgs{Kind: m.spec.Route, K: m.spec.K, Renorm: m.spec.Renorm})
			return append(join(in[:held], r.Tensors()), t.Rows(in[0], r.Token))
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
			return join(in[:held], tensors{y})
		}},
	}
}

// sharedSteps are the shared expert's, from input, share and the others' output.
func (m *moe) sharedSteps() []Step {
	return []Step{
		{Linears: m.shared.readers(), In: func(_ *autograd.Tape, in tensors) tensors {
			return tensors{in[1], in[2], in[0]}
		}, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{in[0], in[1], m.shared.inner(t, in[2])}
		}},
		{Linears: []*nn.Linear{m.shared.down}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			whole := m.shared.down.ForwardWide(t, in[2])
			part := t.Mul(whole, in[0], kernels.ByRow)
			y := t.Add(in[1], part, 1, 1)
			t.Done(whole, part)
			return tensors{y}
		}},
	}
}

// readers: none, for the router reads the input too and stays as it is.
func (m *moe) readers() []*nn.Linear { return nil }

func (m *moe) smooth() []Pair {
	if m.shared == nil {
		return nil
	}
	return m.shared.smooth()
}
