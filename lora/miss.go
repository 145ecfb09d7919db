package lora

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// MiSS adds one block [r, out] to every group of r inputs: column i of the weight
// gets row i mod r of it (Kang, Yin 2024, arXiv:2409.15371). With init_weights: mini
// the block is [r, mini_r] and repeats along the outputs; with bat each group of r
// outputs has a block [r, r] that also multiplies the weight's own: see missbat.go.
type MiSS struct {
	Common  `yaml:",inline"`
	ByLayer `yaml:",inline"`
	R       int  `yaml:"r,omitempty" json:"r" doc:"inputs of a group" default:"64" range:"[1,65536]"`
	MiniR   int  `yaml:"mini_r,omitempty" json:"mini_r" doc:"columns of the block of mini" default:"1" range:"[1,65536]"`
	Init    Init `yaml:"init_weights,omitempty" json:"init_weights" doc:"true, mini or bat" default:"true"`
}

// The layouts of MiSS that are none of LoRA's initialisations.
const (
	missBat  Init = "bat"
	missMini Init = "mini"
)

func (o *MiSS) patterns() Config {
	return Config{R: o.R, Layers: o.Layers, LayersPattern: o.LayersPattern}
}

// unread: PEFT looks at mini_r with mini alone.
func (o *MiSS) unread() {
	if o.Init != missMini {
		o.MiniR = 1
	}
}

func (o *MiSS) resolve(place string) error {
	if o.Init != missMini && o.MiniR != 1 {
		return fail.Usagef(place+".mini_r", "use init_weights: mini", "mini_r belongs to init_weights: mini, not %s", string(o.Init))
	}
	return oneOf(place+".init_weights", string(o.Init), "true", "mini", "bat")
}

func (o *MiSS) words() string {
	out := fmt.Sprintf("r%d on %s", o.R, targeting(o).TargetModules)
	if o.Init != InitKaiming {
		out += ", " + string(o.Init)
	}
	return out
}

// dims are the dimensions of a layer's block.
func (o *MiSS) dims(s shape) ([]int, error) {
	switch o.Init {
	case missBat:
		if s.out%o.R != 0 || s.in%o.R != 0 {
			return nil, fail.Usagef("train.miss.r", "take an r that divides both", "r %d does not divide %s, %d×%d", o.R, s.path, s.out, s.in)
		}
		return []int{s.out / o.R, o.R, o.R}, nil
	case missMini:
		if s.out%o.MiniR != 0 {
			return nil, fail.Usagef("train.miss.mini_r", "take one that divides it", "mini_r %d does not divide the %d outputs of %s", o.MiniR, s.out, s.path)
		}
		return []int{o.R, o.MiniR}, nil
	}
	return []int{o.R, s.out}, nil
}

// miss is the adapter of one layer: LoRA whose A sums the groups and whose B [out, r]
// is made of the block.
type miss struct {
	direct
	low *nn.LoRA
}

func (o *MiSS) attach(m *maker, layers []site) ([]variant, error) {
	sums := map[int]*autograd.Param{} // by inputs
	return each(layers, func(s site) (variant, error) {
		dims, err := o.dims(s.shape())
		if err != nil {
			return nil, err
		}
		p, err := m.param(s.path, "miss_block", dims, nil)
		if err != nil {
			return nil, err
		}
		in := s.linear.In()
		if sums[in] == nil {
			a := make([]float32, o.R*in)
			for i := range in {
				a[i%o.R*in+i] = 1
			}
			if sums[in], err = m.hold("miss_A", o.R, in, a); err != nil {
				return nil, err
			}
		}
		v := &miss{direct{[]Param{p}, s.linear}, &nn.LoRA{A: sums[in], Scale: 1}}
		if o.Init == missBat {
			return newBat(m, v, o.R)
		}
		if v.low.B, err = m.hold(s.path+".miss_B", s.linear.Out(), o.R, nil); err != nil {
			return nil, err
		}
		s.linear.Adapters = append(s.linear.Adapters, v.low)
		return v, nil
	})
}

func (v *miss) derived() []*autograd.Param { return []*autograd.Param{v.low.B} }

func (v *miss) detach() { removeLoRA(v.linear, v.low) }

// refresh makes B: element [o, j] is the block's [j, o mod its columns].
func (v *miss) refresh(dev kernels.Backend) error {
	b, err := values(dev, v.ps[0].Buffer)
	if err != nil {
		return err
	}
	r, cols := v.ps[0].Rows, v.ps[0].Cols
	out := make([]float32, v.low.B.Len())
	for i := range out {
		out[i] = b[i%r*cols+i/r%cols]
	}
	dev.Upload(v.low.B.Buffer, kernels.Bytes(out))
	return nil
}

func (v *miss) finish(dev kernels.Backend) error {
	if !v.trains() {
		return nil
	}
	g, err := values(dev, v.low.B.Grad)
	if err != nil {
		return err
	}
	r, cols := v.ps[0].Rows, v.ps[0].Cols
	sum := make([]float64, r*cols)
	for i, x := range g {
		sum[i%r*cols+i/r%cols] += float64(x)
	}
	out := make([]float32, len(sum))
	for i, x := range sum {
		out[i] = float32(x)
	}
	dev.Upload(v.ps[0].Grad, kernels.Bytes(out))
	return nil
}

func (o *MiSS) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		dims, err := o.dims(s)
		if err != nil {
			return edit{}, err
		}
		want := make([]int64, len(dims))
		for i, d := range dims {
			want[i] = int64(d)
		}
		block, err := f.take(s.path+".miss_block", want...)
		if o.Init == missBat {
			return edit{rows: func(row0 int, w []float32) { batRows(block, o.R, row0, s.in, w) }}, err
		}
		cols := dims[1]
		return edit{rows: func(row0 int, w []float32) {
			eachRow(row0, s.in, w, func(row int, w []float32) {
				for i := range w {
					w[i] += block[i%o.R*cols+row%cols]
				}
			})
		}}, err
	})
}
