package lora

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Weighted is an adapter and the factor its change is taken with.
type Weighted struct {
	Folder *Folder
	Weight float64 // 1: as trained
}

// MergeOptions say what is merged into what.
type MergeOptions struct {
	arch.Dense
	// TrainedAs is how linear weights were held in training (dtype.NF4Double),
	// nil: as in the file. Trained merges into those weights instead of the
	// original ones; either way the report compares the two.
	TrainedAs *dtype.Type
	Trained   bool
}

// MergeReport says what merging did to each layer.
type MergeReport struct {
	Layers []MergedLayer `json:"layers"`
	Whole  []string      `json:"whole,omitempty"` // modules and biases replaced as a whole
	Bytes  int64         `json:"bytes"`
}

// MergedLayer are Frobenius norms of one layer.
type MergedLayer struct {
	Name     string  `json:"name"`
	Weight   float64 `json:"weight"`                 // of the base's weight
	Delta    float64 `json:"delta"`                  // of what the adapters add
	Rounding float64 `json:"rounding"`               // of what storing loses of the sum
	Quant    float64 `json:"quantization,omitempty"` // of original minus as held in training
}

// QuantOverDelta is ‖quantization‖/‖delta‖: above 1 the base's quantization
// moved the layer further than training did.
func (l MergedLayer) QuantOverDelta() float64 { return l.Quant / l.Delta }

// Merge adds adapters to src's weights and writes the result: W + Σ weight·s·B·A
// in float32, rounded once to the stored type. Every tensor of every adapter is
// used, or it is an error. Tensors stream one at a time.
func Merge(ctx context.Context, dev kernels.Backend, src *arch.Source, adapters []Weighted, o MergeOptions) (*MergeReport, error) {
	m := &merger{dev: dev, src: src, o: o, layers: map[string][]factor{}, whole: map[string][]float32{}, norms: map[string]*MergedLayer{}}
	for _, a := range adapters {
		if err := m.take(a); err != nil {
			return nil, err
		}
	}
	if err := o.Write(ctx, src, m); err != nil {
		return nil, err
	}
	r := &MergeReport{Whole: slices.Sorted(maps.Keys(m.whole))}
	for _, p := range o.Plan(src) {
		r.Bytes += p.Bytes()
		if l, ok := m.norms[p.Name]; ok {
			l.Delta, l.Weight, l.Rounding, l.Quant = math.Sqrt(l.Delta), math.Sqrt(l.Weight), math.Sqrt(l.Rounding), math.Sqrt(l.Quant)
			r.Layers = append(r.Layers, *l)
		}
	}
	return r, nil
}

// merger is the edit that adds low-rank products.
type merger struct {
	dev    kernels.Backend
	src    *arch.Source
	o      MergeOptions
	layers map[string][]factor  // by weight name
	whole  map[string][]float32 // by tensor name
	norms  map[string]*MergedLayer
	held   []float32 // the tensor in work as held in training, where asked for
}

// factor is scale·B·A of one adapter.
type factor struct {
	a, b  []float32
	r     int
	parts int // experts, each with rows of its own in a and b
	scale float32
	m     []float32 // DoRA's magnitude; nil: none
}

// take puts every tensor of an adapter where it belongs.
func (m *merger) take(w Weighted) error {
	f := w.Folder
	for _, t := range f.tensors {
		t.used = false
	}
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		if path, ok := strings.CutSuffix(name, ".lora_A.weight"); ok {
			if err := m.takeLayer(w, path); err != nil {
				return err
			}
			continue
		}
		if strings.HasSuffix(name, ".lora_magnitude_vector") && f.Config.UseDoRA {
			continue // with its A; one that has none is left over
		}
		if path, ok := strings.CutSuffix(name, ".lora_B.weight"); ok {
			if f.tensors[path+".lora_A.weight"] == nil {
				return f.missing(path + ".lora_A.weight")
			}
			continue
		}
		if err := m.takeWhole(w, name); err != nil {
			return err
		}
	}
	return f.leftover()
}

func (m *merger) takeLayer(w Weighted, path string) error {
	f, pattern := w.Folder, path
	t := m.src.Named(path + ".weight")
	if p := f.parameters(m.src)[path]; p != nil {
		module, name := p.Parameter()
		t, pattern = p, module+"."+name
	}
	if t == nil || t.Vector {
		return fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base), "was made for another base: it has no layer %s", path)
	}
	name, parts := t.Name, max(t.Experts, 1)
	r, alpha, err := f.Config.rankAlpha(pattern)
	if err != nil {
		return err
	}
	a, b, err := f.layer(path, r, t.Rows/parts, t.Cols, t.Experts)
	if err != nil {
		return err
	}
	one := factor{a: a, b: b, r: r, parts: parts, scale: float32(w.Weight) * f.Config.scale(r, alpha)}
	if f.Config.UseDoRA {
		if one.m, err = f.take(path+".lora_magnitude_vector", int64(t.Rows)); err != nil {
			return err
		}
	}
	m.layers[name] = append(m.layers[name], one)
	if n := len(m.layers[name]); m.layers[name][0].m != nil && (n > 1 || w.Weight != 1) || n > 1 && one.m != nil {
		return fail.Inputf(f.Dir, "merge a DoRA adapter alone, with weight 1", "use_dora: %s cannot be combined", path)
	}
	m.norms[name] = &MergedLayer{Name: name}
	return nil
}

// parameters are the tensors of src that are parameters by themselves and have
// an adapter in f, by the path under which PEFT keeps it.
func (f *Folder) parameters(src *arch.Source) map[string]*arch.Tensor {
	m := &matcher{c: f.Config, used: map[string]bool{}}
	var chosen []Module
	var found []*arch.Tensor
	for _, t := range src.Tensors() {
		module, name := t.Parameter()
		mod := Module{Path: module, Param: name}
		if name != "" && (m.parameter(mod) || f.adaptsRouter(mod)) {
			chosen, found = append(chosen, mod), append(found, t)
		}
	}
	out := map[string]*arch.Tensor{}
	for i, path := range storedPaths(chosen) {
		out[path] = found[i]
	}
	return out
}

// takeWhole finds the place of a tensor that replaces one of the base.
func (m *merger) takeWhole(w Weighted, stored string) error {
	f := w.Folder
	name := strings.Replace(stored, ".base_layer.", ".", 1)
	t := m.src.Named(name)
	if t == nil {
		return fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base), "tensor %s%s has no place in this model", prefix, stored)
	}
	if _, twice := m.whole[name]; twice || w.Weight != 1 {
		return fail.Inputf(f.Dir, "merge this adapter alone, with weight 1", "%s is stored whole and cannot be combined", name)
	}
	v, err := f.take(stored, t.Shape()...)
	m.whole[name] = v
	return err
}

// Touches reports whether an adapter changes the tensor.
func (m *merger) Touches(t *arch.Tensor) bool {
	return m.layers[t.Name] != nil || m.whole[t.Name] != nil
}

// Apply adds the deltas to the rows w, or puts the whole values in their place.
func (m *merger) Apply(t *arch.Tensor, row0 int, w []float32) error {
	if v, ok := m.whole[t.Name]; ok {
		copy(w, v[row0*t.Cols:])
	} else if m.o.TrainedAs != nil {
		if err := m.requantized(t, row0, w); err != nil {
			return err
		}
	}
	if len(m.layers[t.Name]) == 0 {
		return nil
	}
	delta := make([]float32, len(w))
	if err := m.delta(t.Name, row0, t.Cols, delta); err != nil {
		return err
	}
	if g := m.layers[t.Name][0].m; g != nil {
		magnitude(g[row0:], t.Cols, w, delta)
	}
	l := m.norms[t.Name]
	l.Weight, l.Delta = l.Weight+square(w), l.Delta+square(delta)
	for i := range w {
		w[i] += delta[i]
	}
	stored, _ := m.o.TypeOf(t)
	l.Rounding += lost(stored, w)
	return nil
}

// magnitude makes delta what DoRA adds to w: (m/‖w+delta‖)·(w+delta) - w by row.
func magnitude(m []float32, cols int, w, delta []float32) {
	for r := range len(w) / cols {
		w, d := w[r*cols:(r+1)*cols], delta[r*cols:(r+1)*cols]
		sum := 0.0
		for i := range w {
			v := float64(w[i] + d[i])
			sum += float64(v * v)
		}
		g := float32(0) // a row of zeros stays one
		if sum != 0 {
			g = float32(float64(m[r]) / math.Sqrt(sum))
		}
		for i := range w {
			d[i] = float32(g*(w[i]+d[i])) - w[i]
		}
	}
}

// delta computes the rows row0 … of Σ scale·B·A on the device.
func (m *merger) delta(name string, row0, cols int, delta []float32) error {
	rows := len(delta) / cols
	f32 := dtype.Of(dtype.F32)
	return m.dev.Run(func() error {
		sum, err := m.dev.Alloc(kernels.Scratch, f32, len(delta))
		if err != nil {
			return err
		}
		defer m.dev.Free(sum)
		for i, f := range m.layers[name] {
			size := len(f.b) / f.r / f.parts // rows of one expert
			for at := row0; at < row0+rows; {
				e := at / size
				n := min(row0+rows, (e+1)*size) - at
				dst := kernels.Dst{Buffer: m.dev.Slice(sum, (at-row0)*cols, n*cols), Add: i > 0}
				a := f.a[e*f.r*cols : (e+1)*f.r*cols]
				if err := m.product(dst, a, f.b[at*f.r:(at+n)*f.r], f, cols); err != nil {
					return err
				}
				at += n
			}
		}
		return m.dev.Download(kernels.Bytes(delta), sum)
	})
}

// product is scale·b·a of some rows.
func (m *merger) product(dst kernels.Dst, fa, fb []float32, f factor, cols int) error {
	a, err := m.upload(fa)
	if err != nil {
		return err
	}
	defer m.dev.Free(a)
	b, err := m.upload(fb)
	if err != nil {
		return err
	}
	defer m.dev.Free(b)
	m.dev.Gemm(dst, &kernels.GemmArgs{A: b, B: a, M: len(fb) / f.r, N: cols, K: f.r, Alpha: f.scale})
	return nil
}

func (m *merger) upload(v []float32) (kernels.Buffer, error) {
	b, err := m.dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(v))
	if err == nil {
		m.dev.Upload(b, kernels.Bytes(v))
	}
	return b, err
}

// requantized measures how far the weight was from its original in training,
// and puts the trained-on values into w where these are merged into.
func (m *merger) requantized(t *arch.Tensor, row0 int, w []float32) error {
	norm := m.norms[t.Name]
	if norm == nil {
		return nil
	}
	if row0 == 0 {
		var err error
		if m.held, err = held(m.src, t, *m.o.TrainedAs); err != nil {
			return err
		}
	}
	h := m.held[row0*t.Cols : row0*t.Cols+len(w)]
	for i := range w {
		d := float64(w[i] - h[i])
		norm.Quant += d * d
	}
	if m.o.Trained {
		copy(w, h)
	}
	return nil
}

// held is a weight as it was held in training: quantized to typ and decoded.
func held(src *arch.Source, t *arch.Tensor, typ dtype.Type) ([]float32, error) {
	m, _, err := src.Read(t)
	if err != nil {
		return nil, err
	}
	w := make([]float32, t.Len())
	block.DecodeAll(w, m)
	q := block.New(typ, t.Rows, t.Cols)
	if err := block.Encode(q, w, nil); err != nil {
		return nil, fmt.Errorf("%s as %v: %w", t.Name, typ, err)
	}
	block.DecodeAll(w, q)
	return w, nil
}

func square(v []float32) float64 {
	return sums(len(v), func(i int) float64 { return float64(v[i]) })
}

// lost is the squared norm of what rounding w to t loses.
func lost(t dtype.Type, w []float32) float64 {
	switch t.Kind {
	case dtype.BF16:
		return sums(len(w), func(i int) float64 { return float64(w[i] - block.FromBF16(block.BF16(w[i]))) })
	case dtype.F16:
		return sums(len(w), func(i int) float64 { return float64(w[i] - block.FromF16(block.F16(w[i]))) })
	}
	return 0
}

// sums is Σ f(i)² over [0, n): pieces in parallel, added in order.
func sums(n int, f func(i int) float64) float64 {
	const grain = 1 << 14
	parts := make([]float64, (n+grain-1)/grain)
	par.For(n, grain, func(lo, hi int) {
		s := 0.0
		for i := lo; i < hi; i++ {
			v := f(i)
			s += float64(v * v)
		}
		parts[lo/grain] = s
	})
	s := 0.0
	for _, p := range parts {
		s += p
	}
	return s
}

// SaveModel writes a fully trained model: src's tensors with m's values.
func SaveModel(ctx context.Context, m *model.Model, src *arch.Source, o arch.Dense) error {
	e := &trained{m: m, params: map[string]kernels.Buffer{}}
	for _, p := range m.Params() {
		e.params[p.Name] = p.Buffer
	}
	return o.Write(ctx, src, e)
}

// trained is the edit that puts a trained model's values in place.
type trained struct {
	m      *model.Model
	params map[string]kernels.Buffer
}

// Touches reports whether the model trains the tensor.
func (e *trained) Touches(t *arch.Tensor) bool { return e.params[t.Name] != nil }

// Apply takes the rows from the device.
func (e *trained) Apply(t *arch.Tensor, row0 int, w []float32) error {
	return e.m.Dev.Run(func() error {
		return e.m.Dev.Download(kernels.Bytes(w), e.m.Dev.Slice(e.params[t.Name], row0*t.Cols, len(w)))
	})
}
