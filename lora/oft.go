package lora

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// OFT rotates a layer's inputs in blocks: W·Rᵀ (Qiu et al. 2023, arXiv:2306.07280;
// Qiu et al. 2025, arXiv:2506.19847). A block's rotation is the Cayley transform of a
// skew-symmetric Q, of which the upper triangle is stored row by row.
type OFT struct {
	Common        `yaml:",inline"`
	ByLayer       `yaml:",inline"`
	R             int      `yaml:"r,omitempty" json:"r" doc:"number of blocks, instead of their size" range:"[0,65536]" default:"0"`
	BlockSize     *int     `yaml:"oft_block_size,omitempty" json:"oft_block_size" doc:"inputs of a block; where it does not divide a layer's, the nearest that does" unset:"32, or what r gives" range:"[0,65536]"`
	COFT          bool     `yaml:"coft,omitempty" json:"coft" doc:"keep Q within eps/√blocks" default:"false"`
	Eps           *float64 `yaml:"eps,omitempty" json:"eps" doc:"largest norm of Q with coft, before the division" default:"6e-5" range:"(0,1e6]"`
	BlockShare    bool     `yaml:"block_share,omitempty" json:"block_share" doc:"one block for all of a layer" default:"false"`
	CayleyNeumann *bool    `yaml:"use_cayley_neumann,omitempty" json:"use_cayley_neumann" doc:"a series in place of the exact transform; it turns the other way" default:"true"`
	NeumannTerms  int      `yaml:"num_cayley_neumann_terms,omitempty" json:"num_cayley_neumann_terms" doc:"of that series" default:"5" range:"[1,64]"`
}

func (o *OFT) patterns() Config { return Config{Layers: o.Layers, LayersPattern: o.LayersPattern} }

func (o *OFT) resolve(place string) error {
	if o.BlockSize == nil {
		size := 32
		if o.R > 0 {
			size = 0
		}
		o.BlockSize = &size
	}
	if (o.R > 0) == (*o.BlockSize > 0) {
		return fail.Usagef(place+".r", "give one of them, the other is 0", "r is %d and oft_block_size %d: each follows from the other", o.R, *o.BlockSize)
	}
	return nil
}

func (o *OFT) words() string {
	out := fmt.Sprintf("%d blocks", o.R)
	if o.R == 0 {
		out = fmt.Sprintf("blocks of %d", *o.BlockSize)
	}
	return out + " on " + targeting(o).TargetModules.String()
}

// layout is the block size and number of blocks of a layer with so many inputs.
func (o *OFT) layout(in int) (n, blocks int) {
	if o.R > 0 {
		blocks = dividing(in, o.R)
		return in / blocks, blocks
	}
	n = dividing(in, *o.BlockSize)
	return n, in / n
}

// dividing is the divisor of dim that PEFT takes for n: n, or the nearest, the smaller
// of two.
func dividing(dim, n int) int {
	if n >= dim {
		return dim
	}
	above, below := n, n
	for dim%above != 0 {
		above++
	}
	for dim%below != 0 {
		below--
	}
	if n-below <= above-n {
		return below
	}
	return above
}

func (o *OFT) transform() cayley {
	if *o.CayleyNeumann {
		return cayley{o.NeumannTerms}
	}
	return cayley{}
}

// dims are those of a layer's oft_R.
func (o *OFT) dims(in int) (n, blocks int, dims []int) {
	n, blocks = o.layout(in)
	stored := blocks
	if o.BlockShare {
		stored = 1
	}
	return n, blocks, []int{stored, n * (n - 1) / 2}
}

// skew is Q of a stored triangle.
func skew(v []float32, n int) square {
	q := make(square, n*n)
	at := 0
	for i := range n {
		for j := i + 1; j < n; j++ {
			q[i*n+j], q[j*n+i] = float64(v[at]), -float64(v[at])
			at++
		}
	}
	return q
}

// project shortens the triangles of v to the norm that coft allows.
func (o *OFT) project(v []float32, n, stored int) {
	per, most := len(v)/stored, *o.Eps/math.Sqrt(float64(stored))
	for b := range stored {
		part, sum := v[b*per:(b+1)*per], 0.0
		for _, x := range part {
			sum += 2 * float64(x) * float64(x)
		}
		if norm := math.Sqrt(sum); norm > most {
			for i := range part {
				part[i] = float32(float64(part[i]) * (most / norm))
			}
		}
	}
}

// oft is the adapter of one layer.
type oft struct {
	direct
	o   *OFT
	rot rotation
}

func (o *OFT) attach(m *maker, layers []site) ([]variant, error) {
	return each(layers, func(s site) (variant, error) {
		n, blocks, dims := o.dims(s.linear.In())
		if n < 2 {
			return nil, fail.Usagef("train.oft", "take other blocks", "%s: a block of %d inputs does not turn", s.path, n)
		}
		p, err := m.param(s.path, "oft_R.weight", dims, nil)
		if err != nil {
			return nil, err
		}
		v := &oft{direct{[]Param{p}, s.linear}, o, rotation{n: n, blocks: blocks, share: o.BlockShare}}
		if v.rot.w, err = m.hold(s.path+".rotation", dims[0]*n, n, nil); err != nil {
			return nil, err
		}
		s.linear.Around = v
		return v, nil
	})
}

// Forward maps the rotated input.
func (v *oft) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	turned := v.rot.forward(t, x)
	defer t.Done(turned)
	return linear(turned)
}

func (v *oft) derived() []*autograd.Param { return []*autograd.Param{v.rot.w} }

func (v *oft) refresh(dev kernels.Backend) error {
	q, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	n, stored := v.rot.n, v.ps[0].Rows
	if v.o.COFT {
		v.o.project(q, n, stored)
		dev.Upload(v.ps[0].Buffer, kernels.Bytes(q))
	}
	w := make([]float32, stored*n*n)
	blocks(stored, func(b int) { v.o.transform().of(skew(q[b*v.ps[0].Cols:], n), n).store(w, b, n) })
	dev.Upload(v.rot.w.Buffer, kernels.Bytes(w))
	return nil
}

func (v *oft) finish(dev kernels.Backend) error {
	if !v.trains() {
		return nil
	}
	q, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	dw, err := values(dev, v.rot.w.Grad)
	if err != nil {
		return err
	}
	n, per := v.rot.n, v.ps[0].Cols
	dq := make([]float32, len(q))
	blocks(v.ps[0].Rows, func(b int) {
		g := v.o.transform().back(skew(q[b*per:], n), gradientOf(dw, b, n), n)
		at := b * per
		for i := range n {
			for j := i + 1; j < n; j++ {
				dq[at] = float32(g[i*n+j] - g[j*n+i])
				at++
			}
		}
	})
	dev.Upload(v.ps[0].Grad, kernels.Bytes(dq))
	return nil
}

func (o *OFT) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		n, _, dims := o.dims(s.in)
		q, err := f.take(s.path+".oft_R.weight", int64(dims[0]), int64(dims[1]))
		if err != nil {
			return edit{}, err
		}
		if o.COFT {
			o.project(q, n, dims[0])
		}
		r := make([]square, dims[0])
		blocks(len(r), func(b int) { r[b] = o.transform().of(skew(q[b*dims[1]:], n), n) })
		return edit{rows: func(row0 int, w []float32) {
			eachRow(row0, s.in, w, func(_ int, w []float32) { rotateRow(w, r, n) })
		}}, nil
	})
}
