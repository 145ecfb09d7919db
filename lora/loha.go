package lora

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// LoHa adds the elementwise product of two low-rank products: W + s·(A1·B1)∘(A2·B2)
// with A [out, r], B [r, in] and s = alpha/r (Hyeon-Woo et al. 2021,
// arXiv:2108.06098, section 2.2).
type LoHa struct {
	Common  `yaml:",inline"`
	ByLayer `yaml:",inline"`
	Ranked  `yaml:",inline"`
}

// Ranked are the keys of the kinds that have a rank by module.
type Ranked struct {
	R            int     `yaml:"r,omitempty" json:"r" doc:"rank" default:"8" range:"[1,65536]"`
	Alpha        float64 `yaml:"alpha,omitempty" json:"alpha" doc:"scale is alpha/r" default:"8" range:"(0,1e9]"`
	RankPattern  Pattern `yaml:"rank_pattern,omitempty" json:"rank_pattern" type:"mapping" doc:"module (regex) to rank"`
	AlphaPattern Pattern `yaml:"alpha_pattern,omitempty" json:"alpha_pattern" type:"mapping" doc:"module (regex) to alpha"`
}

func (r *Ranked) config(l ByLayer) Config {
	return Config{R: r.R, Alpha: r.Alpha, RankPattern: r.RankPattern, AlphaPattern: r.AlphaPattern, Layers: l.Layers, LayersPattern: l.LayersPattern}
}

func (o *LoHa) patterns() Config { return o.config(o.ByLayer) }

func (o *LoHa) resolve(string) error { return o.patterns().checkPatterns() }

func (o *LoHa) words() string {
	return fmt.Sprintf("r%d α%g on %s", o.R, o.Alpha, targeting(o).TargetModules)
}

// loha is the adapter of one layer. (A1·B1)∘(A2·B2) is a product of rank r²: column
// i·r+j of its left factor is column i of A1 times column j of A2, and its right
// factor's rows are made of B1 and B2 likewise. So it runs, and drops out of
// memory, as LoRA does.
type loha struct {
	direct
	low *nn.LoRA
	r   int
}

func (o *LoHa) attach(m *maker, layers []site) ([]variant, error) {
	return each(layers, func(s site) (variant, error) {
		r, alpha, err := o.patterns().rankAlpha(s.path)
		if err != nil {
			return nil, err
		}
		in, out := s.linear.In(), s.linear.Out()
		v := &loha{direct{linear: s.linear}, &nn.LoRA{Scale: float32(alpha / float64(r))}, r}
		normal := func(sigma float64) func(stream, int) []float32 {
			return func(s stream, n int) []float32 { return s.normal(n, sigma) }
		}
		for _, p := range []struct {
			name string
			dims []int
			fill func(stream, int) []float32
		}{
			{"hada_w1_a", []int{out, r}, normal(0.1)}, {"hada_w1_b", []int{r, in}, normal(1)},
			{"hada_w2_a", []int{out, r}, nil}, {"hada_w2_b", []int{r, in}, normal(1)},
		} {
			made, err := m.param(s.path, p.name, p.dims, p.fill)
			if err != nil {
				return nil, err
			}
			v.ps = append(v.ps, made)
		}
		if v.low.A, err = m.hold(s.path+".loha_A", r*r, in, nil); err != nil {
			return nil, err
		}
		if v.low.B, err = m.hold(s.path+".loha_B", out, r*r, nil); err != nil {
			return nil, err
		}
		s.linear.Adapters = append(s.linear.Adapters, v.low)
		return v, nil
	})
}

func (v *loha) derived() []*autograd.Param { return []*autograd.Param{v.low.A, v.low.B} }

func (v *loha) detach() { removeLoRA(v.linear, v.low) }

// refresh makes the two factors. Rows i·r … of the right one are B2 times row i of B1.
func (v *loha) refresh(dev kernels.Backend) error {
	in, out, r := v.low.A.Cols, v.low.B.Rows, v.r
	return v.inParts(dev, func(column, part kernels.Buffer, i int) {
		dev.Mul(kernels.To(dev.Slice(v.low.A.Buffer, i*r*in, r*in)), v.rowsOf(dev, i))
		dev.Copy2D(kernels.To(column), &kernels.Copy2DArgs{Rows: out, Cols: 1, X: v.ps[0].Buffer, XOff: i, XStride: r, YStride: 1})
		dev.Mul(kernels.To(part), &kernels.MulArgs{N: out, C: r, By: kernels.ByRow, X: v.ps[2].Buffer, S: column})
		dev.Copy2D(kernels.To(v.low.B.Buffer), &kernels.Copy2DArgs{Rows: out, Cols: r, X: part, XStride: r, YOff: i * r, YStride: r * r})
	})
}

// rowsOf are the operands of rows i·r … of the right factor.
func (v *loha) rowsOf(dev kernels.Backend, i int) *kernels.MulArgs {
	in := v.low.A.Cols
	return &kernels.MulArgs{N: v.r, C: in, By: kernels.ByCol, X: v.ps[3].Buffer, S: dev.Slice(v.ps[1].Buffer, i*in, in)}
}

// inParts calls f for each i of the rank with memory for a column [out] and a part [out, r].
func (v *loha) inParts(dev kernels.Backend, f func(column, part kernels.Buffer, i int)) error {
	out := v.low.B.Rows
	column, err := scratch(dev, out)
	if err != nil {
		return err
	}
	defer dev.Free(column)
	part, err := scratch(dev, out*v.r)
	if err != nil {
		return err
	}
	defer dev.Free(part)
	for i := range v.r {
		f(column, part, i)
	}
	return nil
}

func (v *loha) finish(dev kernels.Backend) error {
	if !v.trains() {
		return nil
	}
	in, out, r := v.low.A.Cols, v.low.B.Rows, v.r
	slope, err := scratch(dev, out)
	if err != nil {
		return err
	}
	defer dev.Free(slope)
	return v.inParts(dev, func(column, part kernels.Buffer, i int) {
		ds := kernels.Into(dev.Slice(v.ps[1].Grad, i*in, in))
		dev.MulBackward(kernels.Into(v.ps[3].Grad), ds, kernels.Dst{}, dev.Slice(v.low.A.Grad, i*r*in, r*in), v.rowsOf(dev, i))
		dev.Copy2D(kernels.To(column), &kernels.Copy2DArgs{Rows: out, Cols: 1, X: v.ps[0].Buffer, XOff: i, XStride: r, YStride: 1})
		dev.Copy2D(kernels.To(part), &kernels.Copy2DArgs{Rows: out, Cols: r, X: v.low.B.Grad, XOff: i * r, XStride: r * r, YStride: r})
		args := &kernels.MulArgs{N: out, C: r, By: kernels.ByRow, X: v.ps[2].Buffer, S: column}
		dev.MulBackward(kernels.Into(v.ps[2].Grad), kernels.To(slope), kernels.Dst{}, part, args)
		dev.Copy2D(kernels.Into(v.ps[0].Grad), &kernels.Copy2DArgs{Rows: out, Cols: 1, X: slope, XStride: 1, YOff: i, YStride: r})
	})
}

func (o *LoHa) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		r, alpha, err := o.patterns().rankAlpha(s.path)
		if err != nil {
			return edit{}, err
		}
		var w [4][]float32
		for i, name := range []string{"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} {
			dims := []int64{int64(s.out), int64(r)}
			if i%2 == 1 {
				dims = []int64{int64(r), int64(s.in)}
			}
			if w[i], err = f.take(s.path+"."+name, dims...); err != nil {
				return edit{}, err
			}
		}
		scale := alpha / float64(r)
		return edit{rows: func(row0 int, m []float32) {
			eachRow(row0, s.in, m, func(row int, m []float32) {
				for i := range m {
					var a, b float64
					for k := range r {
						a += float64(w[0][row*r+k]) * float64(w[1][k*s.in+i])
						b += float64(w[2][row*r+k]) * float64(w[3][k*s.in+i])
					}
					m[i] += float32(scale * a * b)
				}
			})
		}}, nil
	})
}
