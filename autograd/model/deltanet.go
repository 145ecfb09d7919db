package model

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// deltaNet is a gated delta net (Yang et al. 2024, arXiv:2412.06464): queries,
// keys and values pass a short convolution, queries and keys get length 1, a
// state is updated and read by the gated delta rule, and each head of the result
// is normalised and multiplied by a gate. In Kimi Delta Attention (Kimi Team 2025,
// arXiv:2510.26692) every channel of a key decays by itself; its decays and gates are
// of low rank.
type deltaNet struct {
	spec         *arch.DeltaNet
	in           []*nn.Linear    // read the input, as spec.In says
	out          *nn.Linear      // reads the result
	decayUp      *nn.Linear      // makes decays of their low-rank part; nil: there is none
	gateUp       *nn.Linear      // makes gates of theirs; nil
	w            *autograd.Param // [2·K·Dk+H·Dv, Taps], of queries, keys and values
	aLog, dtBias *autograd.Param // [H]
	norm         *nn.Norm        // of a head of the result
	seat         int             // of its states in a cache
}

func (l *loader) deltaNet(layer int, spec *arch.DeltaNet) *deltaNet {
	d := &deltaNet{spec: spec, seat: len(l.m.mixers)}
	for _, role := range spec.In.Roles() {
		d.in = append(d.in, l.linear(layer, role))
	}
	if spec.In == arch.LowRank {
		d.decayUp, d.gateUp = l.linear(layer, arch.MixDecayUp), l.linear(layer, arch.MixGateUp)
	}
	d.w, _ = l.conv(layer)
	d.aLog, d.dtBias = l.take(l.src.At(layer, arch.ALog)), l.take(l.src.At(layer, arch.DtBias))
	d.norm = l.mixNorm(layer, spec.NormEps)
	d.out = l.linear(layer, arch.MixOut)
	l.m.mixers = append(l.m.mixers, d)
	return d
}

// mixNorm is the norm of a mixer's result, whose weights are used as they are.
func (l *loader) mixNorm(layer int, eps float32) *nn.Norm {
	n := l.norm(layer, arch.MixNorm)
	n.Kind, n.Offset, n.Eps = kernels.RMSNorm, 0, eps
	return n
}

func (d *deltaNet) steps() []Step {
	if d.decayUp != nil {
		return d.lowRankSteps()
	}
	return []Step{
		{Linears: d.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{d.mix(t, in[0], s)}
		}},
		leave(d.out, 0),
	}
}

// lowRankSteps: the state after the first is what the scan reads, and the low-rank
// parts of gates and decays, [N, Dk] each; then the scan's result and that of gates.
func (d *deltaNet) lowRankSteps() []Step {
	return []Step{
		{Linears: d.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			p := d.project(t, in[0])
			q, k, v, beta := d.prepare(t, p, s)
			return tensors{q, k, v, beta, p.z, p.decay}
		}},
		{Linears: []*nn.Linear{d.decayUp}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			decay := d.decayUp.ForwardWide(t, in[5])
			o := d.scan(t, in[0], in[1], in[2], in[3], decay, s)
			t.Done(decay)
			return tensors{o, in[4]}
		}},
		{Linears: []*nn.Linear{d.gateUp}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{d.gated(t, d.gateUp.Forward(t, in[1]), d.norm.Forward(t, in[0]))}
		}},
		leave(d.out, 0),
	}
}

func (d *deltaNet) readers() []*nn.Linear { return d.in }

// smooth: the norm of the result lies between the maps, and heads share its weights;
// low-rank parts are small already.
func (d *deltaNet) smooth() []Pair { return nil }

// projected is what the maps of the input make.
type projected struct {
	q, k, v, z  *autograd.Tensor // [N, K·Dk], [N, K·Dk], [N, H·Dv], [N, H·Dv]
	beta, decay *autograd.Tensor // [N, H] f32, before sigmoid and softplus
	// With LowRank, z and decay are the parts [N, Dk] that those are made of.
}

// project runs the maps of the input.
func (d *deltaNet) project(t *autograd.Tape, x *autograd.Tensor) projected {
	s := d.spec
	q, v, r := s.K*s.Dk, s.H*s.Dv, s.H/s.K
	switch s.In {
	case arch.ByKeyHead:
		all, ba := d.in[0].Forward(t, x), d.in[1].ForwardWide(t, x)
		w := 2 * (s.Dk + r*s.Dv)
		p := projected{q: t.HeadColumns(all, w, 0, s.Dk), k: t.HeadColumns(all, w, s.Dk, s.Dk), v: t.HeadColumns(all, w, 2*s.Dk, r*s.Dv),
			z: t.HeadColumns(all, w, 2*s.Dk+r*s.Dv, r*s.Dv), beta: t.HeadColumns(ba, 2*r, 0, r), decay: t.HeadColumns(ba, 2*r, r, r)}
		t.Done(all, ba)
		return p
	case arch.Joint:
		qkv := d.in[0].Forward(t, x)
		p := projected{q: t.Columns(qkv, 0, q), k: t.Columns(qkv, q, q), v: t.Columns(qkv, 2*q, v)}
		t.Done(qkv)
		p.z, p.beta, p.decay = d.in[1].Forward(t, x), d.in[2].ForwardWide(t, x), d.in[3].ForwardWide(t, x)
		return p
	}
	p := projected{q: d.in[0].Forward(t, x), k: d.in[1].Forward(t, x), v: d.in[2].Forward(t, x)}
	p.z, p.beta = d.in[3].Forward(t, x), d.in[4].ForwardWide(t, x)
	if s.In == arch.LowRank {
		p.decay = d.in[5].Forward(t, x)
	} else {
		p.decay = d.in[5].ForwardWide(t, x)
	}
	return p
}

// mix is the mixer up to the input of out.
func (d *deltaNet) mix(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	p := d.project(t, x)
	q, k, v, beta := d.prepare(t, p, s)
	o := d.scan(t, q, k, v, beta, p.decay, s)
	t.Done(q, k, v, p.decay, beta)
	n := d.norm.Forward(t, o)
	t.Done(o)
	return d.gated(t, p.z, n)
}

// gated is the normed result n times the gate of z; it takes both over.
func (d *deltaNet) gated(t *autograd.Tape, z, n *autograd.Tensor) *autograd.Tensor {
	y := t.Act(autograd.ActSpec{Kind: d.spec.Gate}, z, n)
	t.Done(z, n)
	return y
}

// prepare makes what the scan reads of the queries, keys, values and what is
// written, in their place.
func (d *deltaNet) prepare(t *autograd.Tape, p projected, s *State) (q, k, v, beta *autograd.Tensor) {
	qw := d.spec.K * d.spec.Dk
	q, k = d.unit(t, d.conv(t, p.q, 0, 0, s)), d.unit(t, d.conv(t, p.k, qw, 1, s))
	v = d.conv(t, p.v, 2*qw, 2, s)
	beta = t.Act(autograd.ActSpec{Kind: kernels.Sigmoid}, p.beta, nil)
	t.Done(p.beta)
	if d.spec.NegEigen {
		beta = scaled(t, beta, 2)
	}
	return q, k, v, beta
}

// scan is the gated delta rule. Vectors of unit have length √Dk; queries are also
// divided by √Dk.
func (d *deltaNet) scan(t *autograd.Tape, q, k, v, beta, decay *autograd.Tensor, s *State) *autograd.Tensor {
	length := math.Sqrt(float64(d.spec.Dk))
	return t.DeltaScan(q, k, v, decay, beta, autograd.DeltaSpec{H: d.spec.H, K: d.spec.K, Dk: d.spec.Dk, Dv: d.spec.Dv, Seq: s.Seq, PerChannel: d.decayUp != nil,
		ALog: d.aLog, DtBias: d.dtBias, Scale: float32(1 / (length * length)), KeyScale: float32(1 / length), State: s.recurrent(d.seat, 3)})
}

// conv is the convolution of x, whose channels are those of w from first on.
func (d *deltaNet) conv(t *autograd.Tape, x *autograd.Tensor, first, part int, s *State) *autograd.Tensor {
	return s.convolveAct(t, x, d.seat, part, autograd.ConvSpec{W: d.w, First: first}, d.spec.Act)
}

// unit gives every head the length √Dk: a root mean square of 1. The epsilon is
// of the sum of squares.
func (d *deltaNet) unit(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	y := t.Norm(x, autograd.NormSpec{Width: d.spec.Dk, Eps: 1e-6 / float32(d.spec.Dk)})
	t.Done(x)
	return y
}

// remember makes the mixer's part of a cache: the last inputs of the
// convolution, and the state of every head.
func (d *deltaNet) remember(dev kernels.Backend, slots, _ int) (memory, error) {
	s, q := d.spec, d.spec.K*d.spec.Dk
	return newStates(dev, slots, (s.Taps-1)*q, (s.Taps-1)*q, (s.Taps-1)*s.H*s.Dv, s.H*s.Dk*s.Dv)
}
