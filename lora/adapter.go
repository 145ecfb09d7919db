package lora

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Adapter is a set of low-rank matrices attached to a model, with the whole
// modules and biases that were trained beside them.
type Adapter struct {
	Config  Config // resolved, as in adapter_config.json
	Layers  []Layer
	Modules []Module // every module of the model that could take an adapter

	// Of an adapter that is no LoRA, else "" and nil: its kind, settings and layers.
	Kind     string
	Options  Options
	tables   []*tableLoRA // of embeddings
	adapted  []site       // one for each of variants
	variants []variant
	owned    []*autograd.Param // memory of variants
	shared   []Param           // stored, not trained

	dev    kernels.Backend
	model  *model.Model
	whole  []*whole
	kept   []*whole // of a folder: weights of the base that PEFT stored beside; not trained
	seed   uint64   // of first values
	from   *Folder  // whose values it has; nil: it is new
	covers []func() // take what lies over weights of the base away again
	loaded bool     // from a folder, where all that counts is that each tensor has its place
}

// Layer is the adapter of one linear layer.
type Layer struct {
	Path   string // of its module
	R      int
	Alpha  float64
	Linear *nn.Linear
	LoRA   *nn.LoRA
	dora   *dora    // nil without use_dora
	minus  *nn.LoRA // what a residual lacks, not trained; nil: nothing
	param  string   // as Module.Param
	stored string   // the path under which PEFT keeps it
	turned bool     // as arch.Rule.Turned
}

// whole is a weight or bias of the base that is trained and stored whole.
type whole struct {
	name   string // as stored
	param  *autograd.Param
	set    func(*autograd.Param) // puts another parameter in its place
	base   *autograd.Param       // what was there before
	table  bool                  // embedding or head: as many rows as there are tokens
	vector bool
}

// Param is a trainable parameter of an adapter.
type Param struct {
	*autograd.Param                 // its Name is the one PEFT stores it under
	Shape           []int           // as stored
	Group           string          // A, B, magnitude, bias, whole: LoRA+ gives B its own rate
	Decay           bool            // weight decay applies: not to biases
	Table           bool            // of an adapter of an embedding, for which LoRA+ may have a rate
	experts         int             // of a B that holds one for each; stored as [out, r·E]
	first           *autograd.Param // of what is saved joined with what it began as: that; nil: it is saved as it is
	turned          int             // experts whose matrices [Rows/turned, Cols] are stored transposed, A as B and B as A; 0: none
}

// modules lists what can be adapted or saved in m.
func modules(m *model.Model) (mods []Module, ports []nn.Port) {
	for s := range m.Ports() {
		mod := Module{Path: s.Path, Param: s.Param, index: len(ports)}
		if s.Embed != nil {
			mod.Kind = EmbeddingModule
		} else {
			mod.Bias = s.Linear.Bias != nil
			mod.Head = s.Head
		}
		mods, ports = append(mods, mod), append(ports, s)
	}
	return mods, ports
}

// Apply attaches new adapters to the layers of m that c chooses. Their values
// depend on seed and the layer's path only. m's weights are untouched. Modules
// in modules_to_save are replaced by float32 copies that can be trained. The
// caller calls Close, which takes everything off again.
func Apply(m *model.Model, c Config, seed uint64) (*Adapter, error) {
	return ApplyOn(m, c, seed, nil)
}

// ApplyOn is Apply with samples for the initialisations that look at some.
func ApplyOn(m *model.Model, c Config, seed uint64, samples []Sample) (*Adapter, error) {
	c, err := c.Resolve()
	if err != nil {
		return nil, err
	}
	c = c.withHead(m)
	mods, ports := modules(m)
	chosen, err := Match(c, mods)
	if err != nil {
		return nil, err
	}
	var seen first
	if c.InitWeights.reads() {
		if m.Spec.Encoder > 0 {
			return nil, fail.Usagef("lora.init_lora_weights", "true", "init_lora_weights: %s is not supported for a model with an encoder", string(c.InitWeights))
		}
		if c, seen, err = fromData(m, c, chosen, ports, samples); err != nil {
			return nil, err
		}
		if chosen, err = Match(c, mods); err != nil {
			return nil, err
		}
	}
	ad := &Adapter{Config: c, Modules: mods, dev: m.Dev, model: m, seed: seed}
	err = ad.build(ports, chosen, func(l *Layer) (a, b []float32, err error) {
		if seen != nil {
			return seen[l.Path].a, seen[l.Path].b, nil
		}
		if c.InitWeights.onResidual() || c.InitWeights == InitLoftQ {
			return ad.fromWeight(l)
		}
		if c.InitWeights == InitOrthogonal && (l.R%2 > 0 || l.Linear.Experts > 0) {
			return nil, nil, fail.Usagef("lora.init_lora_weights", "an even rank, on layers without experts", "init_lora_weights: orthogonal halves the rank, which is %d on %s (%d experts)", l.R, l.Path, l.Linear.Experts)
		}
		a, b = initial(c.InitWeights, seed, l.stored, l.R, l.Linear.Experts, l.Linear.In(), l.Linear.Out())
		return a, b, nil
	})
	if err != nil {
		return nil, err
	}
	return ad, nil
}

// withHead is c with the head of a reward model among modules_to_save: it is new and
// must be trained, as PEFT does of itself.
func (c Config) withHead(m *model.Model) Config {
	if m.Spec.Reward && !c.Saves(m.Head.Path) {
		c.ModulesToSave = append(slices.Clone(c.ModulesToSave), m.Head.Path)
	}
	return c
}

// build attaches an adapter to every chosen layer, with values from fill. After
// an error nothing is attached.
func (ad *Adapter) build(ports []nn.Port, chosen []Module, fill func(*Layer) (a, b []float32, err error)) error {
	stored := storedPaths(chosen)
	var err error
	for i, mod := range chosen {
		if err = ad.attach(ports[mod.index], stored[i], uint32(i+1), fill); err != nil {
			break
		}
		if ad.Config.UseDoRA {
			if err = ad.addDoRA(&ad.Layers[len(ad.Layers)-1]); err != nil {
				break
			}
		}
		if ad.Config.LoRABias {
			if err = ad.addBias(&ad.Layers[len(ad.Layers)-1]); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = ad.takeBiases(ports, chosen)
	}
	if err == nil {
		err = ad.takeModules(ports)
	}
	if err == nil {
		err = ad.takeTokens(ports)
	}
	if err != nil {
		ad.Close()
	}
	return err
}

// attach makes the adapter of one port, which PEFT keeps under the path stored.
func (ad *Adapter) attach(s nn.Port, stored string, site uint32, fill func(*Layer) (a, b []float32, err error)) error {
	if s.Linear == nil {
		return ad.attachTable(s.Embed, stored, ad.seed, ad.from)
	}
	if s.Head && (ad.Config.UseDoRA || ad.Config.Dropout > 0 && !ad.loaded) {
		return fail.Usagef("lora.target_modules", "modules_to_save trains the whole head", "an adapter on the head %s is not supported with use_dora, nor trained with dropout", s.Path)
	}
	if s.Linear.Around != nil {
		return fail.Usagef("lora.target_modules", "merge one of them first", "%s has an adapter of another kind already", s.Path)
	}
	mod := Module{Path: s.Path, Param: s.Param}
	r, alpha, err := ad.Config.rankAlpha(mod.name())
	if err != nil {
		return err
	}
	l := Layer{Path: s.Path, R: r, Alpha: alpha, Linear: s.Linear, param: s.Param, stored: stored}
	if t := ad.model.TensorOf(s.Linear.W); t != nil {
		l.turned = t.Turned
	}
	e, turns := max(s.Linear.Experts, 1), ad.Config.turns()
	for _, other := range s.Linear.Adapters {
		if before := max(other.Turns, 1); turns != before || turns > 1 && other.A.Rows != r*e {
			return fail.Usagef("lora.loftq_config", "use it alone", "loftq_iter: %d on %s with rank %d belongs on other weights than those of the adapter before, with loftq_iter %d and rank %d", turns, s.Path, r, before, other.A.Rows/e)
		}
	}
	a, b, err := fill(&l)
	if err != nil {
		return err
	}
	l.LoRA = &nn.LoRA{Scale: ad.Config.scale(r, alpha), Dropout: float32(ad.Config.Dropout), Site: site, Turns: turns}
	nameA, nameB := stored+".lora_A.weight", stored+".lora_B.weight"
	if l.turned {
		nameA, nameB = nameB, nameA
	}
	if l.LoRA.A, err = newParam(ad.dev, nameA, e*r, s.Linear.In(), a); err != nil {
		return err
	}
	if l.LoRA.B, err = newParam(ad.dev, nameB, e*s.Linear.Out(), r, b); err != nil {
		ad.dev.Free(l.LoRA.A.Buffer)
		return err
	}
	s.Linear.Adapters = append(s.Linear.Adapters, l.LoRA)
	if ad.loaded && ad.Config.turns() > 1 { // it belongs on what the turns left
		_, _, err = ad.fromWeight(&l)
	}
	if ad.Config.InitWeights.onResidual() {
		if ad.loaded { // what the weight gives is what PEFT took from it
			a, b, err = ad.fromWeight(&l)
		}
		if err == nil {
			err = ad.subtract(&l, a, b)
		}
	}
	ad.Layers = append(ad.Layers, l)
	return err
}

// prefix is what PEFT puts before every name.
const prefix = "base_model.model."

// newParam makes a float32 parameter [rows, cols] with the values v.
func newParam(dev kernels.Backend, name string, rows, cols int, v []float32) (*autograd.Param, error) {
	buf, err := dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), rows*cols)
	if err != nil {
		return nil, err
	}
	err = dev.Run(func() error { dev.Upload(buf, kernels.Bytes(v)); return nil })
	return &autograd.Param{Name: prefix + name, Mat: kernels.Mat{Buffer: buf, Rows: rows, Cols: cols, Of: rows}}, err
}

// takeBiases lists the biases that bias: lora_only or all trains.
func (ad *Adapter) takeBiases(ports []nn.Port, chosen []Module) error {
	if ad.Config.Bias == "none" {
		return nil
	}
	for i, s := range ports {
		if s.Linear == nil || s.Linear.Bias == nil {
			continue
		}
		adapted := slices.ContainsFunc(chosen, func(m Module) bool { return m.index == i })
		name := s.Path + ".bias"
		if adapted {
			name = s.Path + ".base_layer.bias"
		} else if ad.Config.Bias == "lora_only" {
			continue
		}
		lin := s.Linear
		if err := ad.take(name, false, lin.Bias, func(p *autograd.Param) { lin.Bias = p }); err != nil {
			return err
		}
	}
	if len(ad.whole) == 0 && !ad.loaded {
		return fail.Usagef("lora.bias", "bias: none", "bias is %s, but no chosen layer has a bias", ad.Config.Bias)
	}
	return nil
}

// takeModules replaces the modules of modules_to_save by trainable copies; of a stored
// adapter those that PEFT takes for them.
func (ad *Adapter) takeModules(ports []nn.Port) error {
	taken := map[string]bool{}
	for _, name := range ad.Config.ModulesToSave {
		one, found := Config{ModulesToSave: Strings{name}}, false
		for _, s := range ports {
			if s.Param != "" || !one.Saves(s.Path) && !(ad.loaded && one.peftSaves(s.Path)) {
				continue
			}
			found = true
			if taken[s.Path] {
				continue // two names are one module's
			}
			taken[s.Path] = true
			if err := ad.takeModule(s); err != nil {
				return err
			}
		}
		if !found && !ad.loaded {
			return fail.Usagef("lora.modules_to_save", "modules are called "+examples(ad.Modules), "modules_to_save: %q matches no module", name)
		}
	}
	return nil
}

// takeModule replaces one module. Of an embedding and a head that are tied, the
// other one stays as it was: from then on they are two, as in PEFT.
func (ad *Adapter) takeModule(s nn.Port) error {
	if slices.ContainsFunc(ad.Layers, func(l Layer) bool { return l.Path == s.Path }) ||
		slices.ContainsFunc(ad.tables, func(l *tableLoRA) bool { return l.path == s.Path }) {
		return fail.Usagef("lora.modules_to_save", "name it in exclude_modules", "%s is in modules_to_save and has an adapter", s.Path)
	}
	table := s.Embed != nil || s.Head
	if s.Embed != nil {
		return ad.take(s.Path+".weight", table, s.Embed.W, func(p *autograd.Param) { s.Embed.W = p })
	}
	err := ad.take(s.Path+".weight", table, s.Linear.W, func(p *autograd.Param) { s.Linear.W = p })
	if err != nil || s.Linear.Bias == nil {
		return err
	}
	return ad.take(s.Path+".bias", false, s.Linear.Bias, func(p *autograd.Param) { s.Linear.Bias = p })
}

// take puts a float32 copy of p in its place.
func (ad *Adapter) take(name string, table bool, p *autograd.Param, set func(*autograd.Param)) error {
	if strings.HasPrefix(p.Name, prefix) {
		return fail.Inputf(name, "give one of the adapters, or merge them one after the other", "two adapters store it whole")
	}
	buf, err := ad.dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), p.Len())
	if err != nil {
		return err
	}
	err = ad.dev.Run(func() error {
		return ad.model.With(p, func() error { ad.dev.Dequantize(buf, p.Mat); return nil })
	})
	if err != nil {
		return err
	}
	own := &autograd.Param{Name: prefix + name, Mat: kernels.Mat{Buffer: buf, Rows: p.Rows, Cols: p.Cols, Of: p.Rows}}
	ad.whole = append(ad.whole, &whole{name: prefix + name, param: own, set: set, base: p, table: table})
	set(own)
	return nil
}

// Params lists everything the adapter trains, in a fixed order.
func (ad *Adapter) Params() []Param {
	var out []Param
	for _, l := range ad.Layers {
		e := max(l.Linear.Experts, 1)
		a := Param{Param: l.LoRA.A, Shape: []int{l.LoRA.A.Rows, l.LoRA.A.Cols}, Group: "A", Decay: true}
		b := Param{Param: l.LoRA.B, Shape: []int{l.LoRA.B.Rows / e, l.R * e}, Group: "B", Decay: true, experts: l.Linear.Experts}
		if l.turned {
			a.Shape, a.turned, a.experts = []int{l.LoRA.A.Cols, l.R * e}, e, e
			b.Shape, b.turned, b.experts = []int{l.R * e, l.LoRA.B.Rows / e}, e, 0
		}
		if l.minus != nil {
			a.first, b.first = l.minus.A, l.minus.B
		}
		out = append(out, a, b)
		if l.dora != nil {
			out = append(out, Param{Param: l.dora.m, Shape: []int{l.dora.m.Len()}, Group: "magnitude", Decay: true})
		}
	}
	for _, l := range ad.tables {
		out = append(out, l.params()...)
	}
	for _, w := range ad.whole {
		if strings.HasSuffix(w.name, ".bias") {
			out = append(out, Param{Param: w.param, Shape: []int{w.param.Len()}, Group: "bias"})
			continue
		}
		out = append(out, Param{Param: w.param, Shape: []int{w.param.Rows, w.param.Cols}, Group: "whole", Decay: true})
	}
	for _, v := range ad.variants {
		out = append(out, v.params()...)
	}
	return out
}

// Trainable is the number of values the adapter trains.
func (ad *Adapter) Trainable() int64 {
	var n int64
	for _, p := range ad.Params() {
		n += int64(p.Len())
	}
	return n
}

// Close takes the adapter off the model and frees its memory.
func (ad *Adapter) Close() {
	for _, l := range ad.Layers {
		l.free(ad.dev)
	}
	for _, l := range ad.tables {
		l.free(ad.dev)
	}
	for _, v := range slices.Backward(ad.variants) {
		v.detach()
	}
	for _, restore := range slices.Backward(ad.covers) {
		restore()
	}
	ad.Freeze()
	for _, p := range ad.owned {
		ad.dev.Free(p.Buffer)
	}
	ad.tables, ad.variants, ad.owned, ad.shared, ad.covers = nil, nil, nil, nil, nil
	for _, w := range slices.Backward(append(ad.whole, ad.kept...)) { // the last one may lie over another
		w.set(w.base)
		ad.dev.Free(w.param.Buffer)
	}
	ad.Layers, ad.whole, ad.kept = nil, nil, nil
}

// Summary is one line about the adapter for plans and logs.
func (ad *Adapter) Summary() string {
	return fmt.Sprintf("%s, %d values trained", ad.Words(), ad.Trainable())
}

// Words are what the adapter is and on how many layers.
func (ad *Adapter) Words() string {
	if ad.Kind != "" {
		return fmt.Sprintf("%s %s, %d layers", KindWord(ad.Kind), ad.Options.words(), len(ad.variants))
	}
	return fmt.Sprintf("LoRA r%d α%g on %d layers", ad.Config.R, ad.Config.Alpha, len(ad.Layers)+len(ad.tables))
}
