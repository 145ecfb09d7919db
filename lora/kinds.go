package lora

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Kinds are the sections of a train stage for the adapters that are not LoRA,
// by the name that `adapter` has there. Keys, meanings and defaults are PEFT's.
type Kinds struct {
	IA3  IA3  `yaml:"ia3,omitempty" doc:"factors of keys, values and feed-forward inputs (adapter: ia3)"`
	VeRA VeRA `yaml:"vera,omitempty" doc:"factors of random projections that all layers share (adapter: vera)"`
	LoHa LoHa `yaml:"loha,omitempty" doc:"elementwise product of two low-rank products (adapter: loha)"`
	LoKr LoKr `yaml:"lokr,omitempty" doc:"Kronecker product (adapter: lokr)"`
	OFT  OFT  `yaml:"oft,omitempty" doc:"rotations of blocks of inputs (adapter: oft)"`
	BOFT BOFT `yaml:"boft,omitempty" doc:"butterfly rotations of inputs (adapter: boft)"`
	MiSS MiSS `yaml:"miss,omitempty" doc:"one block that all groups of inputs share (adapter: miss)"`
}

// kinds lists them: what people call it, PEFT's peft_type, its tensors, the place of
// its options in Kinds, the usual learning rate (0: LoRA's), and keys of PEFT's file
// that have one value here.
var kinds = map[string]kind{
	"ia3":  {"IA³", "IA3", `ia3_l`, func(k *Kinds) Options { return &k.IA3 }, 3e-3, map[string]any{"fan_in_fan_out": false, "init_ia3_weights": true}},
	"vera": {"VeRA", "VERA", `vera_lambda_[bd]`, func(k *Kinds) Options { return &k.VeRA }, 4e-3, map[string]any{"bias": "none", "fan_in_fan_out": false, "init_weights": true, "vera_dropout": 0.0}},
	"loha": {"LoHa", "LOHA", `hada_w[12]_[ab]`, func(k *Kinds) Options { return &k.LoHa }, 0, map[string]any{"init_weights": true, "module_dropout": 0.0, "rank_dropout": 0.0, "use_effective_conv2d": false}},
	"lokr": {"LoKr", "LOKR", `lokr_w[12](?:_[ab])?`, func(k *Kinds) Options { return &k.LoKr }, 0, map[string]any{"module_dropout": 0.0, "rank_dropout": 0.0, "rank_dropout_scale": false, "use_effective_conv2d": false}},
	"oft":  {"OFT", "OFT", `oft_R`, func(k *Kinds) Options { return &k.OFT }, 0, map[string]any{"bias": "none", "fan_in_fan_out": false, "init_weights": true, "module_dropout": 0.0}},
	"boft": {"BOFT", "BOFT", `boft_[Rs]`, func(k *Kinds) Options { return &k.BOFT }, 0, map[string]any{"bias": "none", "boft_dropout": 0.0, "fan_in_fan_out": false, "init_weights": true}},
	"miss": {"MiSS", "MISS", `miss_block`, func(k *Kinds) Options { return &k.MiSS }, 0, map[string]any{"bias": "none", "miss_dropout": 0.0}},
}

type kind struct {
	word   string
	peft   string
	stored string // the tensors of a layer, a regular expression
	at     func(k *Kinds) Options
	rate   float64
	always map[string]any
}

// KindWord is what people call an adapter by its name in a recipe.
func KindWord(name string) string {
	switch name {
	case "", "lora":
		return "LoRA"
	case "qlora":
		return "QLoRA"
	}
	return kinds[name].word
}

// Words describe the shape of a kind's adapter in a line.
func Words(o Options) string { return o.words() }

// KindNames lists the adapters that are not LoRA.
func KindNames() []string { return slices.Sorted(maps.Keys(kinds)) }

// Rate is the usual learning rate of a kind; 0: that of LoRA.
func Rate(kind string) float64 { return kinds[kind].rate }

// Only refuses the sections of other adapters than kind.
func (k Kinds) Only(kind string) error {
	for _, name := range KindNames() {
		if name != kind && !reflect.ValueOf(kinds[name].at(&k)).Elem().IsZero() {
			return fail.Usagef("train."+name, "leave it out, or use adapter: "+name, "%s is given with adapter: %s", name, kind)
		}
	}
	return nil
}

// Of returns the options of a kind with every default filled in; nil for "lora"
// and whatever else is none of Kinds. A value that is impossible is an error.
func (k *Kinds) Of(kind string) (Options, error) {
	row, ok := kinds[kind]
	if !ok {
		return nil, nil
	}
	o := row.at(k)
	schema.Fill(o)
	if err := schema.Check("train."+kind, o); err != nil {
		return nil, err
	}
	return o, o.resolve("train." + kind)
}

// readsLess is a kind that puts aside what PEFT's file says and PEFT does not read.
type readsLess interface{ unread() }

// forPEFT is a kind whose options PEFT's file has in other words: of keys, for the
// chosen layers.
type forPEFT interface {
	forPEFT(keys map[string]any, chosen []string) error
}

// Options are the settings of one kind of adapter.
type Options interface {
	common() *Common
	// resolve checks what tags cannot say, and fills in what depends on other keys.
	resolve(place string) error
	// patterns are what chooses rank and alpha by module; zero where the kind has none.
	patterns() Config
	// words describe the shape in a line.
	words() string
	// attach makes the adapters of all chosen layers.
	attach(m *maker, layers []site) ([]variant, error)
	// merge returns what each chosen layer's weight becomes, from the tensors of f.
	merge(f *Folder, layers []shape) ([]edit, error)
}

// Common are the keys that the kinds share.
type Common struct {
	TargetModules  Targets `yaml:"target_modules,omitempty" json:"target_modules" type:"text or list" doc:"all-linear, names, or one regex" unset:"all-linear"`
	ExcludeModules Targets `yaml:"exclude_modules,omitempty" json:"exclude_modules" type:"text or list" doc:"names or one regex"`
	ModulesToSave  Strings `yaml:"modules_to_save,omitempty" json:"modules_to_save" doc:"modules trained whole"`
	InitFrom       string  `yaml:"init_from,omitempty" json:"-" doc:"start from this PEFT adapter folder"`
}

func (c *Common) common() *Common  { return c }
func (c *Common) patterns() Config { return Config{} }

// Saved is what o trains whole, as the settings of a LoRA that does the same.
func Saved(o Options) Config { return Config{ModulesToSave: o.common().ModulesToSave} }

// InitOf is where o names the folder to start from.
func InitOf(o Options) *string { return &o.common().InitFrom }

// ByLayer are the keys of the kinds that can be kept to some layers.
type ByLayer struct {
	Layers        Ints    `yaml:"layers_to_transform,omitempty" json:"layers_to_transform" doc:"layer numbers only"`
	LayersPattern Strings `yaml:"layers_pattern,omitempty" json:"layers_pattern" doc:"name before the layer number" unset:"any"`
}

// targeting is what chooses modules, in LoRA's terms.
func targeting(o Options) Config {
	c, out := o.common(), o.patterns()
	out.TargetModules, out.ExcludeModules, out.ModulesToSave, out.Bias = c.TargetModules, c.ExcludeModules, c.ModulesToSave, "none"
	if out.TargetModules.Empty() {
		out.TargetModules = Targets{All: true}
	}
	return out
}

// site is a layer that gets an adapter.
type site struct {
	path   string
	linear *nn.Linear
}

// shape is the same of a weight in a file.
type shape struct {
	path    string
	out, in int
}

func (s site) shape() shape { return shape{s.path, s.linear.Out(), s.linear.In()} }

// edit changes rows row0 … of a layer's weight, w [rows, in], in place; scale, where
// it is set, also multiplies each element of the layer's bias.
type edit struct {
	rows  func(row0 int, w []float32)
	scale []float32
}

// variant is the adapter of one layer.
type variant interface {
	params() []Param
	// refresh brings what is derived from the parameters up to date.
	refresh(dev kernels.Backend) error
	// finish turns the gradients of what is derived into those of the parameters.
	finish(dev kernels.Backend) error
	// derived lists what a forward pass reads in place of the parameters.
	derived() []*autograd.Param
	detach()
}

// direct is a variant whose parameters are what the forward pass reads.
type direct struct {
	ps     []Param
	linear *nn.Linear
}

func (d *direct) params() []Param               { return d.ps }
func (d *direct) refresh(kernels.Backend) error { return nil }
func (d *direct) finish(kernels.Backend) error  { return nil }
func (d *direct) derived() []*autograd.Param    { return nil }
func (d *direct) detach()                       { d.linear.Around = nil }

// trains reports whether the parameters have places for gradients.
func (d *direct) trains() bool { return len(d.ps) > 0 && d.ps[0].Grad != nil }

// maker makes the parameters of an adapter: new ones, or those of a folder.
type maker struct {
	ad   *Adapter
	from *Folder
	seed uint64
}

// param makes a parameter that is stored with the given shape, of which the last
// dimension is its row. fill makes its first values, nil: zeros.
func (m *maker) param(path, name string, dims []int, fill func(s stream, n int) []float32) (Param, error) {
	full, n := path+"."+name, 1
	want := make([]int64, len(dims))
	for i, d := range dims {
		n *= d
		want[i] = int64(d)
	}
	var v []float32
	var err error
	switch {
	case m.from != nil:
		v, err = m.from.take(full, want...)
	case fill != nil:
		v = fill(newStream(m.seed, full), n)
	default:
		v = make([]float32, n)
	}
	if err != nil {
		return Param{}, err
	}
	cols := dims[len(dims)-1]
	p, err := m.hold(full, n/cols, cols, v)
	return Param{Param: p, Shape: dims, Decay: true}, err
}

// hold makes a matrix [rows, cols] that the adapter owns; v nil: its values come later.
func (m *maker) hold(name string, rows, cols int, v []float32) (*autograd.Param, error) {
	if v == nil {
		v = make([]float32, rows*cols)
	}
	p, err := newParam(m.ad.dev, name, rows, cols, v)
	if err == nil {
		m.ad.owned = append(m.ad.owned, p)
	}
	return p, err
}

// ones are n ones.
func ones(_ stream, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// Begin attaches an adapter that is no LoRA to m: new, or the one of the folder
// that o names in init_from. o comes from Kinds.Of.
func Begin(m *model.Model, kind string, o Options, seed uint64) (*Adapter, error) {
	c := o.common()
	if c.InitFrom != "" {
		f, err := ReadFolder(c.InitFrom)
		if err != nil {
			return nil, err
		}
		return f.goOn(m, kind, o)
	}
	mods, ports := modules(m)
	conf := targeting(o)
	chosen, err := Match(conf, mods)
	if err != nil {
		return nil, err
	}
	ad := &Adapter{Config: conf, Kind: kind, Options: o, Modules: mods, dev: m.Dev, model: m}
	if err := ad.buildKind(ports, chosen, &maker{ad: ad, seed: seed}); err != nil {
		return nil, err
	}
	return ad, nil
}

// goOn attaches f to be trained on with the settings it was made with, which those
// of o must not contradict.
func (f *Folder) goOn(m *model.Model, kind string, o Options) (*Adapter, error) {
	if f.Kind != kind {
		return nil, fail.Usagef("train.adapter", "use adapter: "+f.word(), "adapter: %s cannot go on from %s, which is of kind %s", kind, f.Dir, f.word())
	}
	if f.dropout != "" {
		return nil, fail.Usagef("train."+kind+".init_from", "set it to 0 in adapter_config.json", "%s was trained with %s, which is not supported in training", f.Dir, f.dropout)
	}
	given, there := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	var none Kinds
	usual, err := none.Of(kind)
	if err != nil {
		return nil, err
	}
	plain := map[string]json.RawMessage{}
	for _, p := range []struct {
		from any
		to   map[string]json.RawMessage
	}{{o, given}, {f.Options, there}, {usual, plain}} {
		b, err := json.Marshal(p.from)
		if err == nil {
			err = json.Unmarshal(b, &p.to)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if !bytes.Equal(given[k], plain[k]) && !bytes.Equal(given[k], there[k]) {
			return nil, fail.Usagef("train."+kind+"."+k, "leave it out: it comes from the adapter", "%s is %s here, %s in %s", k, given[k], there[k], f.Dir)
		}
	}
	return f.attachToTrain(m, f.Config, "train."+kind+".init_from")
}

// word is the name of f's kind in a recipe.
func (f *Folder) word() string {
	if f.Kind == "" {
		return "lora"
	}
	return f.Kind
}

// buildKind attaches a variant to every chosen layer. After an error nothing is
// attached.
func (ad *Adapter) buildKind(ports []nn.Port, chosen []Module, m *maker) (err error) {
	defer func() {
		if err != nil {
			ad.Close()
		}
	}()
	var sites []site
	for _, mod := range chosen {
		p := ports[mod.index]
		if p.Linear == nil || p.Head || p.Linear.Experts > 0 || mod.Param != "" {
			return fail.Usagef("train."+ad.Kind+".target_modules", "name linear layers of the blocks", "adapter %s on %s: the embedding, the head, experts and routers are not supported", ad.Kind, mod.name())
		}
		if p.Linear.Around != nil || p.Linear.Scale != nil || len(p.Linear.Adapters) > 0 {
			return fail.Usagef("train."+ad.Kind+".target_modules", "merge one of them first", "%s has an adapter already", p.Path)
		}
		sites = append(sites, site{p.Path, p.Linear})
	}
	ad.adapted = sites
	if ad.variants, err = ad.Options.attach(m, sites); err != nil {
		return err
	}
	if err := ad.takeModules(ports); err != nil {
		return err
	}
	return ad.Refresh()
}

// each makes the variants of layers one by one.
func each(layers []site, one func(s site) (variant, error)) ([]variant, error) {
	var out []variant
	for _, s := range layers {
		v, err := one(s)
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

// eachEdit is each for edits.
func eachEdit(layers []shape, one func(s shape) (edit, error)) ([]edit, error) {
	var out []edit
	for _, s := range layers {
		e, err := one(s)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// takeKind finds the place of an adapter that is no LoRA.
func (m *merger) takeKind(w Weighted, chosen []Module, tensors []*arch.Tensor) error {
	f := w.Folder
	if w.Weight != 1 {
		return fail.Inputf(f.Dir, "give it weight 1", "weight %g: an adapter of kind %s has no part of itself", w.Weight, f.Kind)
	}
	var layers []shape
	for _, mod := range chosen {
		t := tensors[mod.index]
		if t == nil || mod.Kind == EmbeddingModule || mod.Head || mod.Param != "" || t.Experts > 0 {
			return fail.Inputf(f.Dir, "merge the adapter in PEFT", "adapter %s on %s: the embedding, the head, experts and routers are not supported", f.Kind, mod.name())
		}
		layers = append(layers, shape{mod.Path, t.Rows, t.Cols})
	}
	edits, err := f.Options.merge(f, layers)
	if err != nil {
		return f.blame(err)
	}
	for i, mod := range chosen {
		name := tensors[mod.index].Name
		if m.edits[name].rows != nil || m.layers[name] != nil {
			return fail.Inputf(f.Dir, "merge them one after the other", "%s cannot be combined with another adapter of %s", f.Kind, mod.Path)
		}
		m.edits[name], m.norms[name] = edits[i], &MergedLayer{Name: name}
		if s := edits[i].scale; s != nil {
			if bias := m.src.Named(mod.Path + ".bias"); bias != nil {
				m.edits[bias.Name] = edit{rows: func(_ int, w []float32) {
					for i := range w {
						w[i] *= s[i]
					}
				}}
			}
		}
	}
	return nil
}

// refreshKind is Refresh of an adapter that is no LoRA. What is derived gets a place
// for its gradient once the parameters have one.
func (ad *Adapter) refreshKind() error {
	return ad.dev.Run(func() error {
		for _, v := range ad.variants {
			trains := false
			for _, p := range v.params() {
				trains = trains || p.Grad != nil
			}
			for _, p := range v.derived() {
				if !trains || p.Grad != nil {
					continue
				}
				g, err := ad.dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), p.Len())
				if err != nil {
					return err
				}
				ad.dev.Fill(g, 0)
				p.Grad = g
			}
			if err := v.refresh(ad.dev); err != nil {
				return err
			}
		}
		return nil
	})
}

// ClearGradients begins a step: the gradients of what is derived from the
// parameters become zero. Those of Params are the trainer's to clear.
func (ad *Adapter) ClearGradients() error {
	return ad.eachDerived(func(p *autograd.Param) { ad.dev.Fill(p.Grad, 0) })
}

// eachDerived calls f for what has a gradient beside the parameters.
func (ad *Adapter) eachDerived(f func(p *autograd.Param)) error {
	return ad.dev.Run(func() error {
		for _, v := range ad.variants {
			for _, p := range v.derived() {
				if p.Grad != nil {
					f(p)
				}
			}
		}
		return nil
	})
}

// scratch is memory for n float32 that the caller frees.
func scratch(dev kernels.Backend, n int) (kernels.Buffer, error) {
	return dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n)
}

// upload is scratch that holds v.
func upload(dev kernels.Backend, v []float32) (kernels.Buffer, error) {
	b, err := scratch(dev, len(v))
	if err == nil {
		dev.Upload(b, kernels.Bytes(v))
	}
	return b, err
}

// scaledProduct is dst = or += scale·b·a of a [r, cols] and b [rows, r].
func scaledProduct(dev kernels.Backend, dst kernels.Dst, a, b []float32, r, cols int, scale float32) error {
	fa, err := upload(dev, a)
	if err != nil {
		return err
	}
	defer dev.Free(fa)
	fb, err := upload(dev, b)
	if err != nil {
		return err
	}
	defer dev.Free(fb)
	dev.Gemm(dst, &kernels.GemmArgs{A: fb, B: fa, M: len(b) / r, N: cols, K: r, Alpha: scale})
	return nil
}

// removeLoRA takes one adapter off a layer.
func removeLoRA(l *nn.Linear, low *nn.LoRA) { l.Adapters = without(l.Adapters, low) }

// without is list without one of its elements.
func without(list []*nn.LoRA, low *nn.LoRA) []*nn.LoRA {
	return slices.DeleteFunc(list, func(a *nn.LoRA) bool { return a == low })
}

// eachRow calls f for every row of w, which begins at row row0 of its matrix, in
// parallel.
func eachRow(row0, cols int, w []float32, f func(row int, w []float32)) {
	par.For(len(w)/cols, 16, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			f(row0+r, w[r*cols:(r+1)*cols])
		}
	})
}

// oneOf refuses a word that is none of known.
func oneOf(place, word string, known ...string) error {
	if slices.Contains(known, word) {
		return nil
	}
	return fail.Usagef(place, "known are "+strings.Join(known, ", "), "%s %q is not supported", place[strings.LastIndexByte(place, '.')+1:], word)
}

// values downloads a buffer of float32.
func values(dev kernels.Backend, b kernels.Buffer) ([]float32, error) {
	v := make([]float32, b.Len())
	return v, dev.Download(kernels.Bytes(v), b)
}
