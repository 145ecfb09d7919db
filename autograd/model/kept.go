package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Kept returns the bytes that each block keeps for its gradient while it is
// trained, with the low-rank adapters that it has, on seqs sequences of length
// tokens each. The numbers come from running the blocks on a backend that only
// counts.
func (m *Model) Kept(bf16 bool, seqs, length int) ([]int64, error) {
	g, err := m.ghost()
	if err != nil {
		return nil, err
	}
	batch := make([][]int32, seqs)
	for i := range batch {
		batch[i] = make([]int32, length)
	}
	t := &autograd.Tape{Dev: g.Dev, Record: true, BF16: bf16}
	defer t.Free()
	s := g.Prepare(t, Pack(batch...))
	x := tensors{t.Input(make([]float32, s.N*m.Spec.Width()), s.N, m.Spec.Width())}
	var out []int64
	for _, b := range g.Blocks {
		before := g.Dev.Info().Mem.Now[kernels.Activations]
		y := b.Forward(t, x, s)
		release(t, x, y)
		out = append(out, g.Dev.Info().Mem.Now[kernels.Activations]-before)
		x = y
	}
	return out, t.Err()
}

// ghost is m with its adapters on a backend that only counts. It needs no Close.
func (m *Model) ghost() (*Model, error) {
	g := newModel(dry.New(dry.Options{}), m.src, Options{})
	(&loader{m: g, src: m.src}).build()
	for i, p := range g.params {
		if err := shadow(g.Dev, p, m.params[i], m.HeldType(m.params[i])); err != nil {
			return nil, err
		}
	}
	for i, b := range g.Blocks {
		own := m.Blocks[i].Linears()
		for j, l := range b.Linears() {
			for _, a := range own[j].Adapters {
				c := &nn.LoRA{A: &autograd.Param{}, B: &autograd.Param{}, Scale: a.Scale}
				l.Adapters = append(l.Adapters, c)
				if err := shadow(g.Dev, c.A, a.A, a.A.Type()); err != nil {
					return nil, err
				}
				if err := shadow(g.Dev, c.B, a.B, a.B.Type()); err != nil {
					return nil, err
				}
			}
		}
	}
	return g, nil
}

// shadow makes p a weight of type t like own that is only counted.
func shadow(dev kernels.Backend, p, own *autograd.Param, t dtype.Type) (err error) {
	if p.Mat, err = dev.Load(kernels.Mapped, t, own.Rows, own.Cols, nil, kernels.Borrow); err == nil && own.Grad != nil {
		p.Grad, err = dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), own.Len())
	}
	return err
}
