package lora

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// BOFT rotates a layer's inputs by a product of block-diagonal rotations of permuted
// inputs, and multiplies its outputs: s∘(W·Bᵀ), B = B_m…B_1 (Liu et al. 2023,
// arXiv:2311.06243). A block is the exact Cayley transform of the skew part of a
// stored matrix [b, b].
//
// PEFT without its CUDA kernel trains one factor whatever its config says, and writes
// the config: where a file has one factor, one is meant.
type BOFT struct {
	Common    `yaml:",inline"`
	ByLayer   `yaml:",inline"`
	BlockSize *int `yaml:"boft_block_size,omitempty" json:"boft_block_size" doc:"inputs of a block" unset:"4, or what boft_block_num gives" range:"[0,65536]"`
	BlockNum  int  `yaml:"boft_block_num,omitempty" json:"boft_block_num" doc:"number of blocks, instead of their size" default:"0" range:"[0,65536]"`
	Factors   int  `yaml:"boft_n_butterfly_factor,omitempty" json:"boft_n_butterfly_factor" doc:"rotations one after another" default:"1" range:"[1,32]"`
}

func (o *BOFT) patterns() Config { return Config{Layers: o.Layers, LayersPattern: o.LayersPattern} }

func (o *BOFT) resolve(place string) error {
	if o.BlockSize == nil {
		size := 4
		if o.BlockNum > 0 {
			size = 0
		}
		o.BlockSize = &size
	}
	if (o.BlockNum > 0) == (*o.BlockSize > 0) {
		return fail.Usagef(place+".boft_block_size", "give one of them, the other is 0", "boft_block_size is %d and boft_block_num %d: each follows from the other", *o.BlockSize, o.BlockNum)
	}
	return nil
}

func (o *BOFT) words() string {
	out := fmt.Sprintf("%d blocks", o.BlockNum)
	if o.BlockNum == 0 {
		out = fmt.Sprintf("blocks of %d", *o.BlockSize)
	}
	return fmt.Sprintf("%s × %d on %s", out, o.Factors, targeting(o).TargetModules)
}

// layout is the block size and number of blocks of a layer; f is the folder that it
// may come from, with the number of factors it was trained with.
func (o *BOFT) layout(s shape, f *Folder) (n, blocks, m int, err error) {
	n, m = *o.BlockSize, o.Factors
	if o.BlockNum > 0 {
		if s.in%o.BlockNum != 0 {
			return 0, 0, 0, fail.Usagef("train.boft.boft_block_num", "take one that divides it", "boft_block_num %d does not divide the %d inputs of %s", o.BlockNum, s.in, s.path)
		}
		n = s.in / o.BlockNum
	}
	if f != nil {
		if t := f.tensors[s.path+".boft_R"]; t != nil && len(t.shape) == 4 && t.shape[0] == 1 {
			m = 1
		}
	}
	if n < 2 || s.in%n != 0 {
		return 0, 0, 0, fail.Usagef("train.boft.boft_block_size", "take one that divides it", "blocks of %d do not divide the %d inputs of %s", n, s.in, s.path)
	}
	blocks = s.in / n
	if m > 1 && (n%2 != 0 || blocks%(1<<(m-1)) != 0) {
		return 0, 0, 0, fail.Usagef("train.boft.boft_n_butterfly_factor", "use fewer factors, or smaller blocks of even size", "%d factors need blocks of even size, in a number that is a multiple of %d: %s has %d blocks of %d", m, 1<<(m-1), s.path, blocks, n)
	}
	return n, blocks, m, nil
}

// butterfly is the permutation of rotation i: within groups of 2^i blocks, half blocks
// of even number come first. p[r] is the input in place r; nil for none.
func butterfly(in, n, i int) []int {
	if i == 0 {
		return nil
	}
	half, group := n/2, n<<i
	halves := group / half
	p := make([]int, in)
	for r := range p {
		at := r % group / half // which half block of the group is here
		from := 2 * at
		if at >= halves/2 {
			from = 2*(at-halves/2) + 1
		}
		p[r] = r/group*group + from*half + r%half
	}
	return p
}

// boft is the adapter of one layer.
type boft struct {
	direct
	n, blocks int
	rots      []rotation
}

func (o *BOFT) attach(m *maker, layers []site) ([]variant, error) {
	return each(layers, func(s site) (variant, error) {
		n, count, factors, err := o.layout(s.shape(), m.from)
		if err != nil {
			return nil, err
		}
		r, err := m.param(s.path, "boft_R", []int{factors, count, n, n}, nil)
		if err != nil {
			return nil, err
		}
		scale, err := m.param(s.path, "boft_s", []int{s.linear.Out(), 1}, ones)
		if err != nil {
			return nil, err
		}
		scale.Mat.Rows, scale.Mat.Cols, scale.Mat.Of = 1, scale.Len(), 1
		v := &boft{direct: direct{[]Param{r, scale}, s.linear}, n: n, blocks: count}
		for i := range factors {
			w, err := m.hold(s.path+".rotation", count*n, n, nil)
			if err != nil {
				return nil, err
			}
			v.rots = append(v.rots, rotation{n: n, blocks: count, perm: inverted(butterfly(s.linear.In(), n, i)), w: w})
		}
		s.linear.Around, s.linear.Scale = v, scale.Param
		return v, nil
	})
}

// inverted is the inverse of a permutation.
func inverted(p []int) []int {
	if p == nil {
		return nil
	}
	out := make([]int, len(p))
	for i, x := range p {
		out[x] = i
	}
	return out
}

// Forward maps the input after the rotations, the last one first; the layer's Scale
// does the rest.
func (v *boft) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	turned := x
	for i := len(v.rots) - 1; i >= 0; i-- {
		next := v.rots[i].forward(t, turned)
		if turned != x {
			t.Done(turned)
		}
		turned = next
	}
	defer t.Done(turned)
	return linear(turned)
}

func (v *boft) derived() []*autograd.Param {
	var out []*autograd.Param
	for _, r := range v.rots {
		out = append(out, r.w)
	}
	return out
}

func (v *boft) detach() { v.linear.Around, v.linear.Scale = nil, nil }

// skewPart is (A - Aᵀ)/2 of a stored matrix.
func skewPart(a []float32, n int) square {
	q := make(square, n*n)
	for i := range q {
		q[i] = (float64(a[i]) - float64(a[i%n*n+i/n])) / 2
	}
	return q
}

func (v *boft) refresh(dev kernels.Backend) error {
	a, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	n, size := v.n, v.blocks*v.n*v.n
	for i, r := range v.rots {
		w, part := make([]float32, size), a[i*size:(i+1)*size]
		blocks(v.blocks, func(b int) { cayley{}.of(skewPart(part[b*n*n:], n), n).store(w, b, n) })
		dev.Upload(r.w.Buffer, kernels.Bytes(w))
	}
	return nil
}

func (v *boft) finish(dev kernels.Backend) error {
	if !v.trains() {
		return nil
	}
	a, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	n, size := v.n, v.blocks*v.n*v.n
	da := make([]float32, len(a))
	for i, r := range v.rots {
		dw, err := values(dev, r.w.Grad)
		if err != nil {
			return err
		}
		blocks(v.blocks, func(b int) {
			at := i*size + b*n*n
			g := cayley{}.back(skewPart(a[at:], n), gradientOf(dw, b, n), n)
			for j := range g {
				da[at+j] = float32((g[j] - g[j%n*n+j/n]) / 2)
			}
		})
	}
	dev.Upload(v.ps[0].Grad, kernels.Bytes(da))
	return nil
}

func (o *BOFT) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		n, count, m, err := o.layout(s, f)
		if err != nil {
			return edit{}, err
		}
		a, err := f.take(s.path+".boft_R", int64(m), int64(count), int64(n), int64(n))
		if err != nil {
			return edit{}, err
		}
		scale, err := f.take(s.path+".boft_s", int64(s.out), 1)
		if err != nil {
			return edit{}, err
		}
		r := make([]square, m*count)
		blocks(len(r), func(b int) { r[b] = cayley{}.of(skewPart(a[b*n*n:], n), n) })
		return edit{rows: func(row0 int, w []float32) {
			eachRow(row0, s.in, w, func(row int, w []float32) {
				for i := range m { // W·B_1ᵀ·…·B_mᵀ
					rotatePermuted(w, r[i*count:(i+1)*count], n, inverted(butterfly(s.in, n, i)))
				}
				for i := range w {
					w[i] *= scale[row]
				}
			})
		}}, nil
	})
}

// rotatePermuted is rotateRow of a row whose element perm[c] is in place c; nil: c.
func rotatePermuted(row []float32, r []square, n int, perm []int) {
	if perm == nil {
		rotateRow(row, r, n)
		return
	}
	sorted := make([]float32, len(row))
	for c, from := range perm {
		sorted[c] = row[from]
	}
	rotateRow(sorted, r, n)
	for c, from := range perm {
		row[from] = sorted[c]
	}
}
