package lora

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
)

// LoKr adds a Kronecker product: W + s·kron(w1, w2) with w1 [l, m], w2 [k, n],
// l·k = out, m·n = in and s = alpha/r; each factor is whole, or a product of rank r
// (Yeh et al. 2023, arXiv:2309.14859, section 3.3). As in PEFT the scale is alpha/r
// also where both are whole.
type LoKr struct {
	Common          `yaml:",inline"`
	ByLayer         `yaml:",inline"`
	Ranked          `yaml:",inline"`
	DecomposeBoth   bool     `yaml:"decompose_both,omitempty" json:"decompose_both" doc:"w1 may be a product of rank r, too" default:"false"`
	DecomposeFactor *int     `yaml:"decompose_factor,omitempty" json:"decompose_factor" doc:"the smaller part of a dimension; -1: closest to its root" default:"-1" range:"[-1,65536]"`
	Init            LoKrInit `yaml:"init_weights,omitempty" json:"init_weights" doc:"which factor begins as zeros: true (w1) or lycoris (w2)" default:"true"`
}

// LoKrInit is init_weights of LoKr: true, false or lycoris.
type LoKrInit = Init

func (o *LoKr) patterns() Config { return o.config(o.ByLayer) }

func (o *LoKr) resolve(place string) error {
	if err := oneOf(place+".init_weights", string(o.Init), "true", "lycoris"); err != nil {
		return err
	}
	if f := *o.DecomposeFactor; f < -1 || f == 0 {
		return fail.Usagef(place+".decompose_factor", "-1 takes the split closest to the root", "decompose_factor is %d", f)
	}
	return o.patterns().checkPatterns()
}

func (o *LoKr) words() string {
	return fmt.Sprintf("r%d α%g on %s", o.R, o.Alpha, targeting(o).TargetModules)
}

// factors splits a dimension in two as LyCORIS does: by factor where that divides
// it, else so that the parts' sum is small and the first is at most factor.
func factors(dim, factor int) (m, n int) {
	if factor > 0 && dim%factor == 0 {
		return factor, dim / factor
	}
	if factor < 0 {
		factor = dim
	}
	m, n = 1, dim
	for length := m + n; m < n; {
		a := m + 1
		for dim%a != 0 {
			a++
		}
		b := dim / a
		if a+b > length || a > factor {
			break
		}
		m, n = a, b
	}
	return min(m, n), max(m, n)
}

// kron is the layout of one layer's factors.
type kron struct {
	l, k, m, n, r int  // w1 [l, m], w2 [k, n]
	low1, low2    bool // they are products of rank r
	scale         float32
}

func (o *LoKr) kron(s shape) (kron, error) {
	r, alpha, err := o.patterns().rankAlpha(s.path)
	k := kron{r: r, scale: float32(alpha / float64(r))}
	k.m, k.n = factors(s.in, *o.DecomposeFactor)
	k.l, k.k = factors(s.out, *o.DecomposeFactor)
	k.low1 = o.DecomposeBoth && 2*r < max(k.l, k.m)
	k.low2 = 2*r < max(k.k, k.n)
	return k, err
}

// tensors are the names and shapes of a layer's factors in PEFT's file: w1, then w2.
func (k kron) tensors() (one, two []lokrTensor) {
	return lokrTensors("lokr_w1", k.low1, k.l, k.m, k.r), lokrTensors("lokr_w2", k.low2, k.k, k.n, k.r)
}

type lokrTensor struct {
	name string
	dims []int
}

func lokrTensors(name string, low bool, rows, cols, r int) []lokrTensor {
	if low {
		return []lokrTensor{{name + "_a", []int{rows, r}}, {name + "_b", []int{r, cols}}}
	}
	return []lokrTensor{{name, []int{rows, cols}}}
}

// lokr is the adapter of one layer. The product with kron(w1, w2) is one with w2 and
// one with w1, between which rows are regrouped.
type lokr struct {
	direct
	kron
	one, two []Param
}

func (o *LoKr) attach(m *maker, layers []site) ([]variant, error) {
	return each(layers, func(s site) (variant, error) {
		k, err := o.kron(s.shape())
		if err != nil {
			return nil, err
		}
		v := &lokr{direct: direct{linear: s.linear}, kron: k}
		one, two := k.tensors()
		zero := one[0].name // a factor of zeros makes the product nothing
		if o.Init == "lycoris" {
			zero = two[0].name
		}
		for i, list := range [][]lokrTensor{one, two} {
			for _, t := range list {
				fill := func(s stream, n int) []float32 { return s.uniform(n, 1/math.Sqrt(float64(t.dims[1]))) }
				if t.name == zero {
					fill = nil
				}
				p, err := m.param(s.path, t.name, t.dims, fill)
				if err != nil {
					return nil, err
				}
				if v.ps = append(v.ps, p); i == 0 {
					v.one = append(v.one, p)
				} else {
					v.two = append(v.two, p)
				}
			}
		}
		s.linear.Around = v
		return v, nil
	})
}

// product is x with a factor, whole or of two parts.
func product(t *autograd.Tape, x *autograd.Tensor, f []Param) *autograd.Tensor {
	y := t.Linear(x, f[len(f)-1].Param, nil)
	if len(f) == 1 {
		return y
	}
	defer t.Done(y)
	return t.Linear(y, f[0].Param, nil)
}

// Forward adds s·kron(w1, w2)·x.
func (v *lokr) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	rows := x.Rows()
	y := linear(x)
	each := regroup(t, x, v.n, v.n, rows*v.m, func(i int) int { return i })
	inner := product(t, each, v.two) // [N·m, k]
	t.Done(each)
	byK := regroup(t, inner, 1, v.m, rows*v.k*v.m, func(i int) int { return (i/(v.k*v.m)*v.m+i%v.m)*v.k + i/v.m%v.k })
	t.Done(inner)
	outer := product(t, byK, v.one) // [N·k, l]
	t.Done(byK)
	change := regroup(t, outer, 1, v.l*v.k, rows*v.l*v.k, func(i int) int { return (i/(v.l*v.k)*v.k+i%v.k)*v.l + i/v.k%v.l })
	t.Done(outer)
	defer t.Done(y, change)
	return t.Add(y, change, 1, v.scale)
}

// regroup is Tape.Regroup of count pieces, piece i of which is piece at(i) of x.
func regroup(t *autograd.Tape, x *autograd.Tensor, n, cols, count int, at func(i int) int) *autograd.Tensor {
	idx := make([]int32, count)
	for i := range idx {
		idx[i] = int32(at(i))
	}
	up := t.Upload(idx, count)
	defer t.Done(up)
	return t.Regroup(x, up, n, cols)
}

func (o *LoKr) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		k, err := o.kron(s)
		if err != nil {
			return edit{}, err
		}
		one, two := k.tensors()
		w1, err := takeFactor(f, s.path, one)
		if err != nil {
			return edit{}, err
		}
		w2, err := takeFactor(f, s.path, two)
		return edit{rows: func(row0 int, w []float32) {
			eachRow(row0, s.in, w, func(row int, w []float32) {
				for i := range w {
					w[i] += float32(k.scale * float32(w1[row/k.k*k.m+i/k.n]*w2[row%k.k*k.n+i%k.n]))
				}
			})
		}}, err
	})
}

// takeFactor returns a factor of a folder as one matrix.
func takeFactor(f *Folder, path string, list []lokrTensor) ([]float32, error) {
	var parts [][]float32
	for _, t := range list {
		v, err := f.take(path+"."+t.name, int64(t.dims[0]), int64(t.dims[1]))
		if err != nil {
			return nil, err
		}
		parts = append(parts, v)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	rows, r, cols := list[0].dims[0], list[0].dims[1], list[1].dims[1]
	out := make([]float32, rows*cols)
	for i := range out {
		sum := 0.0
		for k := range r {
			sum += float64(parts[0][i/cols*r+k]) * float64(parts[1][k*cols+i%cols])
		}
		out[i] = float32(sum)
	}
	return out, nil
}
