package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// shortConv is the gated short convolution of LFM2: in makes b, c and x, and
// out reads c·conv(b·x).
type shortConv struct {
	spec     *arch.ShortConv
	in, out  *nn.Linear
	w, bias  *autograd.Param // [C, Taps], [C] or nil
	seat     int             // of its state in a cache
	channels int
}

func (l *loader) shortConv(layer int, spec *arch.ShortConv) *shortConv {
	c := &shortConv{spec: spec, in: l.linear(layer, arch.MixIn), seat: len(l.m.mixers), channels: l.m.Spec.C}
	c.w, c.bias = l.conv(layer)
	c.out = l.linear(layer, arch.MixOut)
	l.m.mixers = append(l.m.mixers, c)
	return c
}

// conv are the weights of a mixer's convolution and its bias or nil.
func (l *loader) conv(layer int) (w, bias *autograd.Param) {
	return l.take(l.src.At(layer, arch.Conv)), l.take(l.src.BiasAt(layer, arch.Conv))
}

func (c *shortConv) steps() []Step {
	return []Step{
		{Linears: c.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{c.mix(t, in[0], s)}
		}},
		leave(c.out, 0),
	}
}

func (c *shortConv) readers() []*nn.Linear { return []*nn.Linear{c.in} }

// smooth: what is between the maps multiplies three parts of one.
func (c *shortConv) smooth() []Pair { return nil }

// mix is the mixer up to the input of out.
func (c *shortConv) mix(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	all, n := c.in.Forward(t, x), c.channels
	b, gate, v := t.Columns(all, 0, n), t.Columns(all, n, n), t.Columns(all, 2*n, n)
	t.Done(all)
	bx := t.Mul(b, v, kernels.ByElement)
	t.Done(b, v)
	y := s.convolve(t, bx, c.seat, 0, autograd.ConvSpec{W: c.w, Bias: c.bias})
	o := t.Mul(y, gate, kernels.ByElement)
	t.Done(y, gate)
	return o
}

// remember makes the mixer's part of a cache: the last inputs of the convolution.
func (c *shortConv) remember(dev kernels.Backend, slots, _ int) (memory, error) {
	return newStates(dev, slots, (c.spec.Taps-1)*c.channels)
}
