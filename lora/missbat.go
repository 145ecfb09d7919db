package lora

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// bat is MiSS whose blocks [r, r], one for each group of r outputs, also multiply
// the weight: tile [r, r] becomes tile + tile·M + M. The last term is LoRA whose B is
// the blocks one below another; tile·M is held as a matrix of the weight's size, made
// again with every step.
type bat struct {
	miss
	r      int
	m      *maker
	change *autograd.Param // [out, in]: tile·M
}

// newBat attaches what v has the block of.
func newBat(m *maker, v *miss, r int) (variant, error) {
	b := &bat{miss: *v, r: r, m: m}
	b.low.B = v.ps[0].Param
	var err error
	if b.change, err = m.hold("miss_change", v.linear.Out(), v.linear.In(), nil); err != nil {
		return nil, err
	}
	v.linear.Adapters = append(v.linear.Adapters, b.low)
	v.linear.Around = b
	return b, nil
}

// Forward adds the product with tile·M.
func (v *bat) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	y, change := linear(x), t.Linear(x, v.change, nil)
	defer t.Done(y, change)
	return t.Add(y, change, 1, 1)
}

func (v *bat) derived() []*autograd.Param { return []*autograd.Param{v.change} }

func (v *bat) detach() {
	v.miss.detach()
	v.linear.Around = nil
}

// tiles calls f with the operands of tile·M as a product of rows of r elements, those
// of one group of outputs together, with transposed blocks.
func (v *bat) tiles(dev kernels.Backend, f func(a *kernels.LinearArgs) error) error {
	in, out := v.linear.In(), v.linear.Out()
	block, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	var made []kernels.Buffer
	defer func() {
		for _, b := range made {
			dev.Free(b)
		}
	}()
	hold := func(n int) (b kernels.Buffer, err error) {
		if b, err = scratch(dev, n); err == nil {
			made = append(made, b)
		}
		return b, err
	}
	w, err := hold(out * in)
	if err != nil {
		return err
	}
	if err := v.m.ad.model.With(v.linear.W, func() error { dev.Dequantize(w, v.linear.W.Mat); return nil }); err != nil {
		return err
	}
	turned, err := hold(len(block))
	if err != nil {
		return err
	}
	dev.Upload(turned, kernels.Bytes(transposed(block, out/v.r, v.r, v.r)))
	group := make([]int32, out/v.r+1)
	for i := range group {
		group[i] = int32(i * in)
	}
	g, err := dev.Alloc(kernels.Scratch, dtype.Of(dtype.I32), len(group))
	if err != nil {
		return err
	}
	made = append(made, g)
	dev.Upload(g, kernels.Bytes(group))
	return f(&kernels.LinearArgs{N: out * in / v.r, X: w, W: kernels.Mat{Buffer: turned, Rows: out, Cols: v.r, Of: out}, Group: g, Experts: out / v.r})
}

func (v *bat) refresh(dev kernels.Backend) error {
	return v.tiles(dev, func(a *kernels.LinearArgs) error {
		dev.Linear(kernels.To(v.change.Buffer), a)
		return nil
	})
}

// finish adds to the gradient of the blocks, which LoRA's B has, that of tile·M.
func (v *bat) finish(dev kernels.Backend) error {
	if !v.trains() {
		return nil
	}
	return v.tiles(dev, func(a *kernels.LinearArgs) error {
		slope, err := scratch(dev, v.ps[0].Len())
		if err != nil {
			return err
		}
		defer dev.Free(slope)
		dev.LinearBackward(kernels.Dst{}, kernels.To(slope), kernels.Dst{}, v.change.Grad, a)
		g, err := values(dev, slope)
		if err != nil {
			return err
		}
		dev.Upload(slope, kernels.Bytes(transposed(g, v.linear.Out()/v.r, v.r, v.r)))
		dev.Add(kernels.Into(v.ps[0].Grad), &kernels.AddArgs{N: v.ps[0].Len(), A: slope, Alpha: 1})
		return nil
	})
}

// batRows changes rows row0 … of a weight with in columns as bat does.
func batRows(block []float32, r, row0, in int, w []float32) {
	eachRow(row0, in, w, func(row int, w []float32) {
		m := block[row/r*r*r:][:r*r]
		add := make([]float64, r)
		for tile := 0; tile < in; tile += r {
			for j := range add {
				add[j] = float64(m[row%r*r+j])
				for c := range r {
					add[j] += float64(w[tile+c]) * float64(m[c*r+j])
				}
			}
			for j, x := range add {
				w[tile+j] = float32(float64(w[tile+j]) + x)
			}
		}
	})
}
