package model

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// moe is a feed-forward part of routed experts, and maybe one for every token.
type moe struct {
	spec                 *arch.MoE
	router, gateUp, down *nn.Linear
	narrow, widen        *nn.Linear      // to the width of experts, and back; nil: it is that of the model
	selects              *autograd.Param // [1, E], added to scores where experts are chosen; nil: none
	pre, routerNorm      *nn.Norm        // of what experts and router read; nil: none
	table                []int32         // [V·K], the experts of each token; nil: the router chooses
	scale                *autograd.Param // [E], factors on the experts' weights; nil: none
	shared               *mlp            // nil: none
	share                *nn.Linear      // how much of it a token takes, [1, C]; nil: all
}

func (l *loader) moe(layer int, spec *arch.MoE) *moe {
	m := &moe{spec: spec, router: l.linear(layer, arch.Router), gateUp: l.linear(layer, arch.ExpertGateUp), down: l.linear(layer, arch.ExpertDown)}
	if spec.Narrow > 0 {
		m.narrow, m.widen = l.linear(layer, arch.ExpertIn), l.linear(layer, arch.ExpertOut)
	}
	if spec.Select {
		m.selects = l.take(l.src.At(layer, arch.RouteBias))
	}
	if m.pre = l.normOrNone(layer, spec.Pre); spec.RouterNorm {
		m.routerNorm = l.norm(layer, arch.RouterNorm)
	}
	if spec.Hashed {
		m.table = l.src.Table(layer)
	}
	if spec.Scaled {
		m.scale = l.take(l.src.At(layer, arch.ExpertScale))
	}
	if spec.SharedGated {
		m.share = l.linear(layer, arch.SharedRouter)
	}
	if spec.Shared > 0 {
		m.shared = &mlp{spec: &arch.MLP{F: spec.Shared, Act: spec.Act, ActParams: spec.ActParams}, up: l.linear(layer, arch.SharedUp), down: l.linear(layer, arch.SharedDown)}
		if !spec.Ungated {
			m.shared.gate = l.linear(layer, arch.SharedGate)
		}
	}
	return m
}

// steps: the state between the experts' maps is where tokens go, and rows by
// expert. What the shared expert needs, the input and its share, comes first in
// every state until it is used.
func (m *moe) steps() []Step {
	held := 0
	first := Step{Linears: []*nn.Linear{m.router}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
		logits := m.router.ForwardWide(t, in[len(in)-1])
		if m.table != nil {
			return tensors{in[0], m.chosen(t, s), logits}
		}
		return tensors{in[0], logits}
	}}
	switch {
	case m.routerNorm != nil:
		first.In = func(t *autograd.Tape, in tensors) tensors {
			x := scaled(t, m.routerNorm.ForwardWide(t, in[0]), float32(1/math.Sqrt(float64(in[0].Cols()))))
			if m.pre == nil {
				return tensors{in[0], x}
			}
			return tensors{m.pre.Forward(t, in[0]), x}
		}
	case m.share != nil:
		held = 2
		first = Step{Linears: []*nn.Linear{m.router, m.share}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			logits, raw := m.router.ForwardWide(t, in[0]), m.share.ForwardWide(t, in[0])
			share := t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, raw, nil)
			t.Done(raw)
			return tensors{in[0], share, logits}
		}}
	case m.shared != nil:
		held = 1
	}
	if m.narrow != nil {
		first = Step{Linears: []*nn.Linear{m.router, m.narrow}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return join(in[:held], tensors{m.narrow.Forward(t, in[0]), m.router.ForwardWide(t, in[0])})
		}}
	}
	steps := append([]Step{first}, m.expertSteps(held)...)
	if m.narrow != nil {
		steps = append(steps, Step{Linears: []*nn.Linear{m.widen}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return join(in[:held], tensors{m.widen.ForwardWide(t, in[held])})
		}})
	}
	if m.shared != nil {
		steps = append(steps, m.sharedSteps()...)
	}
	return steps
}

// chosen are the experts that the table has for the tokens, [N, K].
func (m *moe) chosen(t *autograd.Tape, s *State) *autograd.Tensor {
	k := m.spec.K
	list := make([]int32, 0, s.N*k)
	for _, id := range s.ids {
		list = append(list, m.table[int(id)*k:(int(id)+1)*k]...)
	}
	return t.Upload(list, s.N, k)
}

// route sends tokens to experts by their logits, the last of in, or as the tensor before
// them says.
func (m *moe) route(t *autograd.Tape, in tensors) *autograd.Routed {
	a, logits := m.spec.Route, in[len(in)-1]
	a.K = m.spec.K
	if m.table != nil {
		a.Chosen = in[len(in)-2].Data
	}
	if m.selects != nil {
		a.Bias = m.selects.Buffer
	}
	return t.Route(logits, a)
}

// expertSteps are the routed experts'. They begin with the input, first (the narrower one
// behind what is held), and the logits, last, and end with held tensors and the output.
func (m *moe) expertSteps(held int) []Step {
	routed := func(in tensors) *autograd.Routed { return autograd.RoutedOf(in[held : len(in)-1]) }
	act := autograd.ActSpec{Kind: m.spec.Act, Layout: kernels.Halves, ActParams: m.spec.ActParams}
	switch {
	case m.spec.Ungated:
		act.Layout = kernels.Separate
	case m.spec.InTurn:
		act.Layout = kernels.Interleaved
	}
	read := 0
	if m.narrow != nil {
		read = held
	}
	return []Step{
		{Linears: []*nn.Linear{m.gateUp}, Routed: routed, In: func(t *autograd.Tape, in tensors) tensors {
			r := m.route(t, in)
			rows := t.Rows(in[read], r.Token)
			if m.spec.WeighInput {
				x, w := rows, m.weights(t, in[len(in)-1], r)
				rows = t.Mul(x, w, kernels.ByRow)
				t.Done(x, w)
			}
			return append(join(in[:held], r.Tensors()), rows)
		}, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			last := len(in) - 1
			h := m.gateUp.ForwardExperts(t, in[last], routed(in))
			a := t.Act(act, h, nil)
			t.Done(h)
			return join(in[:last], tensors{a})
		}},
		{Linears: []*nn.Linear{m.down}, Routed: routed, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			r := routed(in)
			rows := m.weighed(t, m.down.ForwardExpertsWide(t, in[len(in)-1], r), r)
			weight := r.Weight
			if m.spec.WeighInput {
				weight = nil
			}
			y := t.Combine(rows, r.Place, weight)
			t.Done(rows)
			return join(in[:held], tensors{y})
		}},
	}
}

// weights are those of the experts' rows [N·K, 1]. Of one choice a token the weight lies
// where the token does; of several each is the sigmoid of its expert's logit, which a map
// of the expert's own, a row of the unit matrix, takes out of the token's.
func (m *moe) weights(t *autograd.Tape, logits *autograd.Tensor, r *autograd.Routed) *autograd.Tensor {
	if m.spec.K == 1 {
		return t.Rows(r.Weight, r.Token)
	}
	e := m.spec.E
	unit := make([]float32, e*e)
	for i := range e {
		unit[i*e+i] = 1
	}
	score := t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, logits, nil)
	rows, one := t.Rows(score, r.Token), t.Upload(unit, e, e)
	w := t.ExpertLinearWide(rows, r, &autograd.Param{Name: m.router.Path + ".unit", Mat: kernels.Mat{Buffer: one.Data, Rows: e, Cols: e, Of: e}}, nil)
	if t.Done(score, rows); !t.Record { // else its gradient reads it, too
		t.Done(one)
	}
	return w
}

// weighed multiplies what experts made by their factors, in place of rows.
func (m *moe) weighed(t *autograd.Tape, rows *autograd.Tensor, r *autograd.Routed) *autograd.Tensor {
	if m.scale == nil {
		return rows
	}
	ones := make([]float32, rows.Rows())
	for i := range ones {
		ones[i] = 1
	}
	one := t.Upload(ones, len(ones), 1)
	// An expert's factor is a map of one number to one.
	p := m.scale
	by := t.ExpertLinearWide(one, r, &autograd.Param{Name: p.Name, Mat: kernels.Mat{Buffer: p.Buffer, Rows: p.Cols, Cols: 1, Of: p.Cols}, Grad: p.Grad}, nil)
	y := t.Mul(rows, by, kernels.ByRow)
	t.Done(rows, one, by)
	return y
}

// sharedSteps are the shared expert's, from input, share (where there is one) and
// the others' output.
func (m *moe) sharedSteps() []Step {
	part := float32(1)
	if m.spec.Average {
		part = 0.5
	}
	return []Step{
		{Linears: m.shared.readers(), In: func(_ *autograd.Tape, in tensors) tensors {
			return join(in[1:], in[:1])
		}, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			last := len(in) - 1
			return join(in[:last], tensors{m.shared.inner(t, in[last])})
		}},
		{Linears: []*nn.Linear{m.shared.down}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			last := len(in) - 1
			own := m.shared.down.ForwardWide(t, in[last])
			if m.share != nil {
				whole := own
				own = t.Mul(whole, in[0], kernels.ByRow)
				t.Done(whole)
			}
			y := t.Add(in[last-1], own, part, part)
			t.Done(own)
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
