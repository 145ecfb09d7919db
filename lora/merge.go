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
	Reward bool          `json:"reward,omitempty"` // the result is a reward model
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
	m := &merger{dev: dev, src: src, o: o, layers: map[string][]factor{}, edits: map[string]edit{}, whole: map[string][]float32{}, from: map[string]*Folder{}, norms: map[string]*MergedLayer{}}
	for _, a := range adapters {
		if err := a.Folder.checkTying(src.Spec.Tied || m.tied); err != nil {
			return nil, err
		}
		if err := Grow(src, a.Folder); err != nil {
			return nil, err
		}
		if src.Spec.Tied && a.Folder.unties(src.At(-1, arch.Embed).Path(), src.HeadPath()) {
			src.Untie()
			m.tied = true
		}
	}
	for _, a := range adapters {
		if err := m.take(a); err != nil {
			return nil, err
		}
	}
	release, err := dev.Host(m.memory())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := o.Write(ctx, dev, src, m); err != nil {
		return nil, err
	}
	r := &MergeReport{Reward: src.Spec.Reward, Whole: slices.Sorted(maps.Keys(m.whole))}
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
	dev     kernels.Backend
	src     *arch.Source
	o       MergeOptions
	layers  map[string][]factor  // by weight name
	edits   map[string]edit      // of adapters that are no LoRA, by tensor name
	whole   map[string][]float32 // by tensor name
	from    map[string]*Folder   // whose whole is
	folders []*Folder
	norms   map[string]*MergedLayer
	tied    bool      // the base, before an adapter made two of embedding and head
	held    []float32 // the tensor in work as held in training, where asked for
}

// factor is scale·B·A of one adapter.
type factor struct {
	a, b  []float32
	r     int
	parts int // experts, each with rows of its own in a and b
	scale float32
	m     []float32 // DoRA's magnitude; nil: none
	turns int       // of LoftQ, to hold the weight as in training
}

// take puts every tensor of an adapter where it belongs.
func (m *merger) take(w Weighted) error {
	f := w.Folder
	m.folders = append(m.folders, f)
	for _, t := range f.tensors {
		t.used = false
	}
	mods, tensors := sourceModules(m.src)
	chosen, err := f.choose(f.Config, mods)
	if err != nil {
		return f.blame(err)
	}
	if f.Kind != "" {
		if err := m.takeKind(w, chosen, tensors); err != nil {
			return err
		}
		chosen = nil
	}
	stored := storedPaths(chosen)
	for i, mod := range chosen {
		if err := m.takeLayer(w, tensors[mod.index], mod, stored[i]); err != nil {
			return err
		}
	}
	if err := m.takeTokens(w, mods); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		if f.tensors[name].used || strings.Contains(name, ".lora_") {
			continue // the second is left over
		}
		if err := m.takeWhole(w, name); err != nil {
			return err
		}
	}
	m.shareTables(w)
	return f.leftover()
}

func (m *merger) takeLayer(w Weighted, t *arch.Tensor, mod Module, path string) error {
	f := w.Folder
	if (mod.Kind == EmbeddingModule || mod.Head) && (f.Config.UseDoRA || f.Config.InitWeights.onResidual()) {
		return fail.Inputf(f.Dir, "merge the adapter in PEFT", "an adapter on %s with use_dora or init_lora_weights: %s is not supported", mod.Path, string(f.Config.InitWeights))
	}
	if t == nil { // a tied head without tensors of its own
		return f.missing(path + ".lora_A.weight")
	}
	name, parts := t.Name, max(t.Experts, 1)
	r, alpha, err := f.Config.rankAlpha(mod.name())
	if err != nil {
		return err
	}
	var a, b []float32
	if mod.Kind == EmbeddingModule { // its rows are tokens: the factors change sides
		b, a, err = f.table(path, r, t.Rows, t.Cols)
		a = transposed(a, 1, t.Cols, r)
	} else {
		a, b, err = f.layer(path, r, t.Rows/parts, t.Cols, t.Experts, t.Turned)
	}
	if err != nil {
		return err
	}
	one := factor{a: a, b: b, r: r, parts: parts, scale: float32(w.Weight) * f.Config.scale(r, alpha), turns: f.Config.turns()}
	if f.Config.UseDoRA {
		if one.m, err = f.take(path+".lora_magnitude_vector", int64(t.Rows)); err != nil {
			return err
		}
	}
	if f.Config.LoRABias {
		if err := m.takeBias(w, mod.Path, path, one.scale); err != nil {
			return err
		}
	}
	if f.Config.InitWeights == InitLoftQ && !(m.o.Trained && m.o.TrainedAs != nil && m.o.TrainedAs.Kind == dtype.NF4) && (t.Type.Kind != dtype.NF4 || one.turns > 1) {
		return fail.Inputf(f.Dir, "merge into the weights as trained (--trained-nf4 --base trained; base: trained)", "init_lora_weights is loftq: the adapter belongs on weights quantized to NF4")
	}
	if f.Config.InitWeights.onResidual() {
		first, err := m.residualOf(f, t, r, f.Config.scale(r, alpha))
		if err != nil {
			return err
		}
		first.scale, first.turns = -one.scale, one.turns
		m.layers[name] = append(m.layers[name], first)
	}
	if m.edits[name].rows != nil {
		return fail.Inputf(f.Dir, "merge them one after the other", "LoRA cannot be combined with another kind of adapter of %s", path)
	}
	m.layers[name] = append(m.layers[name], one)
	if n := len(m.layers[name]); m.layers[name][0].m != nil && (n > 1 || w.Weight != 1) || n > 1 && one.m != nil {
		return fail.Inputf(f.Dir, "merge the DoRA adapter alone, with weight 1, and the others into the result", "use_dora: %s cannot be combined: its magnitudes are of the whole weight", path)
	}
	if before := m.layers[name][0]; one.turns != before.turns || one.turns > 1 && one.r != before.r {
		return fail.Inputf(f.Dir, "merge it alone", "loftq_iter: %s belongs on other weights than those of the adapter before", path)
	}
	m.norms[name] = &MergedLayer{Name: name}
	return nil
}

// takeWhole finds the place of a tensor that replaces one of the base.
func (m *merger) takeWhole(w Weighted, stored string) error {
	f, name := w.Folder, baseName(stored)
	t, embed := m.src.Named(name), m.src.At(-1, arch.Embed)
	if m.src.Spec.Tied && name == m.src.HeadPath()+".weight" { // the embedding's, under the name of the head
		if err := f.tieTables(embed.Path(), m.src.HeadPath()); err != nil {
			return err
		}
		t, name = embed, embed.Name
	}
	if t == nil {
		return fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base), "tensor %s%s has no place in this model", prefix, stored)
	}
	v, err := f.takeWhole(stored, ofTokens(t), t.Shape()...)
	if err != nil {
		return err
	}
	if by, twice := m.from[name]; twice && by != f || w.Weight != 1 {
		return fail.Inputf(f.Dir, "merge this adapter alone, with weight 1", "%s is stored whole and cannot be combined", name)
	}
	m.whole[name], m.from[name] = v, f
	return nil
}

// shareTables gives a table that PEFT stored by itself to the other one, too,
// where the base tied them and the adapter does not.
func (m *merger) shareTables(w Weighted) {
	if !m.tied {
		return
	}
	embed, head := m.src.At(-1, arch.Embed), m.src.At(-1, arch.Head)
	for _, p := range [][2]*arch.Tensor{{embed, head}, {head, embed}} {
		v, other := m.whole[p[0].Name], m.whole[p[1].Name]
		if v != nil && other == nil && m.from[p[0].Name] == w.Folder && !w.Folder.Config.peftSaves(p[0].Path()) && !w.Folder.Config.peftSaves(p[1].Path()) {
			m.whole[p[1].Name], m.from[p[1].Name] = v, w.Folder
		}
	}
}

// memory is what the adapters take, and the largest weight as held in training.
func (m *merger) memory() int64 {
	n := 0
	for _, list := range m.layers {
		for _, f := range list {
			n += 4 * (len(f.a) + len(f.b) + len(f.m))
		}
	}
	for _, v := range m.whole {
		n += 4 * len(v)
	}
	for _, f := range m.folders {
		if f.Kind != "" || len(f.Config.TrainableTokenIndices) > 0 {
			for _, t := range f.tensors {
				n += 4 * len(t.data)
			}
		}
	}
	return int64(n) + heldMemory(m.src, m.o.TrainedAs, func(t *arch.Tensor) bool { return m.norms[t.Name] != nil })
}

// heldMemory is what held takes for the largest of src's chosen tensors; nothing
// without a type.
func heldMemory(src *arch.Source, typ *dtype.Type, chosen func(t *arch.Tensor) bool) (n int64) {
	for _, t := range src.Tensors() {
		if typ != nil && chosen(t) {
			n = max(n, int64(4*t.Len()+dtype.Size(*typ, t.Rows, t.Cols)))
		}
	}
	return n
}

// MergeMemory is the bytes of memory that Merge takes beside the device's, for an
// adapter with so many values on every linear map of src's blocks.
func MergeMemory(src *arch.Source, o MergeOptions, values int64) int64 {
	return 4*values + heldMemory(src, o.TrainedAs, blockLinear) + arch.CopyMemory(src, o.Plan(src), linearEdit{})
}

func blockLinear(t *arch.Tensor) bool { return t.Layer >= 0 && t.IsLinear() }

// linearEdit stands for an adapter that is yet to be trained.
type linearEdit struct{}

func (linearEdit) Touches(t *arch.Tensor) bool { return blockLinear(t) }
func (linearEdit) Apply(*arch.Tensor, int, []float32) error {
	panic("lora: an adapter that does not exist")
}

// Touches reports whether an adapter changes the tensor.
func (m *merger) Touches(t *arch.Tensor) bool {
	return m.layers[t.Name] != nil || m.whole[t.Name] != nil || m.edits[t.Name].rows != nil
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
	if e := m.edits[t.Name]; e.rows != nil {
		m.edited(t, e, row0, w)
		return nil
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
	l.Weight, l.Delta = l.Weight+sumSquares(w), l.Delta+sumSquares(delta)
	for i := range w {
		w[i] += delta[i]
	}
	stored, _ := m.o.TypeOf(t)
	l.Rounding += lost(stored, w)
	return nil
}

// edited changes rows as an adapter that is no LoRA says, and measures by how much.
func (m *merger) edited(t *arch.Tensor, e edit, row0 int, w []float32) {
	before := slices.Clone(w)
	e.rows(row0, w)
	l := m.norms[t.Name]
	if l == nil { // a bias
		return
	}
	l.Weight += sumSquares(before)
	for i := range before {
		before[i] = w[i] - before[i]
	}
	stored, _ := m.o.TypeOf(t)
	l.Delta, l.Rounding = l.Delta+sumSquares(before), l.Rounding+lost(stored, w)
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
				if err := scaledProduct(m.dev, dst, a, f.b[at*f.r:(at+n)*f.r], f.r, cols, f.scale); err != nil {
					return err
				}
				at += n
			}
		}
		return m.dev.Download(kernels.Bytes(delta), sum)
	})
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
		if m.held, err = held(m.held, m.src, t, *m.o.TrainedAs); err != nil {
			return err
		}
		if l := m.layers[t.Name]; len(l) > 0 && l[0].turns > 1 {
			if err = m.alternated(t, *m.o.TrainedAs, m.held, l[0].r, l[0].turns); err != nil {
				return err
			}
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

// held is a weight as it was held in training: quantized to typ and decoded. It
// lies in memory where that has room.
func held(memory []float32, src *arch.Source, t *arch.Tensor, typ dtype.Type) ([]float32, error) {
	m, _, err := src.Read(t)
	if err != nil {
		return nil, err
	}
	w := memory[:0]
	if cap(w) < t.Len() {
		w = make([]float32, 0, t.Len())
	}
	w = w[:t.Len()]
	block.DecodeAll(w, m)
	q := block.New(typ, t.Rows, t.Cols)
	if err := block.Encode(q, w, nil); err != nil {
		return nil, fmt.Errorf("%s as %v: %w", t.Name, typ, err)
	}
	block.DecodeAll(w, q)
	return w, nil
}

func sumSquares(v []float32) float64 {
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
	return o.Write(ctx, m.Dev, src, e)
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
