package lora

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
)

// VeRA multiplies two random projections that all layers share by trained vectors:
// W + diag(b)·B·diag(d)·A (Kopiczko et al. 2023, arXiv:2310.11454). A layer takes
// the first columns of A [r, largest in] and the first rows of B [largest out, r].
type VeRA struct {
	Common         `yaml:",inline"`
	ByLayer        `yaml:",inline"`
	R              int      `yaml:"r,omitempty" json:"r" doc:"rank of the projections" default:"256" range:"[1,65536]"`
	DInitial       *float64 `yaml:"d_initial,omitempty" json:"d_initial" doc:"first value of d" default:"0.1" range:"[-1000,1000]"`
	PRNGKey        *int64   `yaml:"projection_prng_key,omitempty" json:"projection_prng_key" doc:"seed of the projections" default:"0"`
	SaveProjection *bool    `yaml:"save_projection,omitempty" json:"save_projection" doc:"keep the projections in the adapter's file; else they are made again from the key" default:"true"`
}

func (o *VeRA) patterns() Config {
	return Config{R: o.R, Layers: o.Layers, LayersPattern: o.LayersPattern}
}

func (o *VeRA) resolve(place string) error {
	if k := *o.PRNGKey; k < math.MinInt32 || k > math.MaxUint32 {
		return fail.Usagef(place+".projection_prng_key", "", "projection_prng_key is %d, it must fit into 32 bits", k)
	}
	return nil
}

func (o *VeRA) words() string {
	return "r" + strconv.Itoa(o.R) + " on " + targeting(o).TargetModules.String()
}

// veraA and veraB are the names of the shared projections in PEFT's file.
const veraA, veraB = "vera_A", "vera_B"

// projections returns A [r, in] and B [out, r], from the file or made from the key
// as PyTorch makes them.
func (o *VeRA) projections(f *Folder, out, in int) (a, b []float32, err error) {
	if f != nil && (*o.SaveProjection || f.tensors[veraA] != nil) {
		if a, err = f.take(veraA, int64(o.R), int64(in)); err != nil {
			return nil, nil, err
		}
		b, err = f.take(veraB, int64(out), int64(o.R))
		return a, b, err
	}
	if f != nil { // before memory is taken for what a number in its settings says
		for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
			if t := f.tensors[name]; strings.HasSuffix(name, ".vera_lambda_d") && (len(t.shape) != 1 || t.shape[0] != int64(o.R)) {
				return nil, nil, fail.Inputf(f.Dir, "is adapter_config.json its own?", "%s has shape %v, with r %d", name, t.shape, o.R)
			}
		}
	}
	g := newTwister(uint32(*o.PRNGKey))
	return g.kaiming(o.R*in, in), g.kaiming(out*o.R, o.R), nil
}

// largest are the sizes of the shared projections.
func largest(layers []shape) (out, in int) {
	for _, s := range layers {
		out, in = max(out, s.out), max(in, s.in)
	}
	return out, in
}

// firstColumns are the first n columns of a [rows, cols].
func firstColumns(a []float32, cols, n int) []float32 {
	var out []float32
	for r := 0; r < len(a); r += cols {
		out = append(out, a[r:r+n]...)
	}
	return out
}

// vera is the adapter of one layer.
type vera struct {
	direct
	a, b *autograd.Param // its parts of the projections, not trained
}

func (o *VeRA) attach(m *maker, layers []site) ([]variant, error) {
	var shapes []shape
	for _, s := range layers {
		shapes = append(shapes, s.shape())
	}
	maxOut, maxIn := largest(shapes)
	a, b, err := o.projections(m.from, maxOut, maxIn)
	if err != nil {
		return nil, err
	}
	pb, err := m.hold(veraB, maxOut, o.R, b)
	if err != nil {
		return nil, err
	}
	byIn := map[int]*autograd.Param{}
	partA := func(in int) (*autograd.Param, error) {
		if byIn[in] == nil {
			p, err := m.hold(veraA, o.R, in, firstColumns(a, maxIn, in))
			if err != nil {
				return nil, err
			}
			byIn[in] = p
		}
		return byIn[in], nil
	}
	pa, err := partA(maxIn)
	if err != nil {
		return nil, err
	}
	if *o.SaveProjection {
		pa.Name, pb.Name = "base_model."+veraA, "base_model."+veraB
		m.ad.shared = []Param{{Param: pa, Shape: []int{o.R, maxIn}}, {Param: pb, Shape: []int{maxOut, o.R}}}
	}
	return each(layers, func(s site) (variant, error) {
		lb, err := m.param(s.path, "vera_lambda_b", []int{s.linear.Out()}, nil)
		if err != nil {
			return nil, err
		}
		ld, err := m.param(s.path, "vera_lambda_d", []int{o.R}, func(_ stream, n int) []float32 {
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(*o.DInitial)
			}
			return v
		})
		if err != nil {
			return nil, err
		}
		v := &vera{direct: direct{[]Param{lb, ld}, s.linear}}
		if v.a, err = partA(s.linear.In()); err != nil {
			return nil, err
		}
		v.b = &autograd.Param{Name: pb.Name, Mat: pb.RowsOf(0, s.linear.Out())}
		s.linear.Around = v
		return v, nil
	})
}

// Forward adds b∘(B·(d∘(A·x))).
func (v *vera) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	y := linear(x)
	down := t.Linear(x, v.a, nil)
	mid := t.MulColumns(down, v.ps[1].Param, nil)
	t.Done(down)
	up := t.Linear(mid, v.b, nil)
	t.Done(mid)
	change := t.MulColumns(up, v.ps[0].Param, nil)
	t.Done(up)
	defer t.Done(y, change)
	return t.Add(y, change, 1, 1)
}

func (o *VeRA) merge(f *Folder, layers []shape) ([]edit, error) {
	maxOut, maxIn := largest(layers)
	a, b, err := o.projections(f, maxOut, maxIn)
	if err != nil {
		return nil, err
	}
	return eachEdit(layers, func(s shape) (edit, error) {
		lb, err := f.take(s.path+".vera_lambda_b", int64(s.out))
		if err != nil {
			return edit{}, err
		}
		ld, err := f.take(s.path+".vera_lambda_d", int64(o.R))
		return edit{rows: func(row0 int, w []float32) {
			eachRow(row0, s.in, w, func(row int, w []float32) {
				for k, d := range ld {
					c := lb[row] * b[row*o.R+k] * d
					if c == 0 {
						continue
					}
					for i, x := range a[k*maxIn : k*maxIn+s.in] {
						w[i] += float32(c * x)
					}
				}
			})
		}}, err
	})
}

// twister is the generator MT19937 (Matsumoto, Nishimura 1998), which PyTorch draws
// from on a CPU.
type twister struct {
	state [624]uint32
	at    int
}

func newTwister(seed uint32) *twister {
	g := &twister{at: 624}
	g.state[0] = seed
	for i := 1; i < len(g.state); i++ {
		g.state[i] = 1812433253*(g.state[i-1]^g.state[i-1]>>30) + uint32(i)
	}
	return g
}

func (g *twister) next() uint32 {
	const n, m = 624, 397
	if g.at == n {
		for i := range n {
			y := g.state[i]&0x80000000 | g.state[(i+1)%n]&0x7fffffff
			g.state[i] = g.state[(i+m)%n] ^ y>>1
			if y&1 == 1 {
				g.state[i] ^= 0x9908b0df
			}
		}
		g.at = 0
	}
	y := g.state[g.at]
	g.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// kaiming draws n numbers as PEFT's _kaiming_init does for rows of fanIn elements:
// uniform in ±√3·√2/√fanIn, from the low 24 bits of each draw.
func (g *twister) kaiming(n, fanIn int) []float32 {
	bound := math.Sqrt(3) * (math.Sqrt2 / math.Sqrt(float64(fanIn)))
	from, to := float32(-bound), float32(bound)
	v := make([]float32, n)
	for i := range v {
		u := float32(g.next()&(1<<24-1)) / (1 << 24)
		v[i] = float32(u*(to-from)) + from
	}
	return v
}
