package lora

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Load attaches the adapter of a PEFT folder to m. Every tensor of the folder
// must find its place with the right shape.
func Load(m *model.Model, dir string) (*Adapter, error) {
	f, err := ReadFolder(dir)
	if err != nil {
		return nil, err
	}
	return f.Attach(m, f.Config)
}

// Attach attaches the adapter to m with the settings c, which differ from the
// folder's at most in what training alone uses.
func (f *Folder) Attach(m *model.Model, c Config) (*Adapter, error) {
	for _, t := range f.tensors {
		t.used = false
	}
	if err := f.checkTying(m.Spec.Tied); err != nil {
		return nil, err
	}
	c = c.withHead(m)
	mods, ports := modules(m)
	chosen, err := f.choose(c, mods)
	if err != nil {
		return nil, f.blame(err)
	}
	if err := f.checkHeld(m, ports, chosen); err != nil {
		return nil, err
	}
	ad := &Adapter{Config: c, Kind: f.Kind, Options: f.Options, Modules: mods, dev: m.Dev, model: m, from: f, loaded: true}
	if f.Kind != "" {
		err = ad.buildKind(ports, chosen, &maker{ad: ad, from: f})
	} else {
		err = ad.build(ports, chosen, func(l *Layer) ([]float32, []float32, error) {
			return f.layer(l.stored, l.R, l.Linear.Out(), l.Linear.In(), l.Linear.Experts, l.turned)
		})
	}
	if err != nil {
		return nil, f.blame(err)
	}
	err = ad.fillMagnitudes(f)
	if err == nil {
		err = ad.fillWhole(f)
	}
	if err == nil {
		err = ad.takeParams(m, f)
	}
	if err == nil {
		err = ad.refreshKind() // of biases that are there only now
	}
	if err != nil {
		ad.Close()
		return nil, err
	}
	if err := f.leftover(); err != nil {
		ad.Close()
		return nil, err
	}
	return ad, nil
}

// checkHeld refuses an adapter of LoftQ where the weights are not the quantized ones
// that it was trained on.
func (f *Folder) checkHeld(m *model.Model, ports []nn.Port, chosen []Module) error {
	for _, mod := range chosen {
		p := ports[mod.index]
		if f.Config.InitWeights == InitLoftQ && (p.Linear == nil || m.TensorOf(p.Linear.W) == nil || m.HeldType(p.Linear.W).Kind != dtype.NF4) {
			hint := "use it on the base as NF4: a folder that quant nf4 wrote, or in a recipe adapter: qlora and base: trained"
			if f.Config.turns() > 1 { // which begin at the weights that were quantized
				hint = "use it on the base of floats held as NF4: in a recipe adapter: qlora and base: trained"
			}
			return fail.Inputf(f.Dir, hint, "init_lora_weights is loftq: the adapter belongs on weights quantized to NF4, and %s is not", mod.Path)
		}
	}
	return nil
}

// choose returns the modules that the folder has adapters for: those its config
// names, and routers. A name of the config that is none of this base's does no
// harm: every tensor must find its place, and every module chosen its tensors.
func (f *Folder) choose(c Config, mods []Module) ([]Module, error) {
	_, chosen, err := choose(c, mods)
	if err != nil {
		return nil, err
	}
	chosen = slices.DeleteFunc(chosen, func(m Module) bool { return m.Param == "" && c.peftSkips(m.Path) })
	for _, mod := range mods {
		if f.adaptsRouter(mod) && !slices.Contains(chosen, mod) {
			chosen = append(chosen, mod)
		}
	}
	slices.SortFunc(chosen, func(a, b Module) int { return a.index - b.index })
	return chosen, nil
}

// adaptsRouter reports whether mod is a router with an adapter in the folder:
// PEFT adapts the routers of some architectures beside their experts without
// saying so in its config.
func (f *Folder) adaptsRouter(mod Module) bool {
	return mod.Param == "weight" && f.tensors[mod.Path+".lora_A.weight"] != nil
}

// Attach attaches the adapter to m with its change multiplied by w.Weight, which
// must be 1 for DoRA and for modules stored whole.
func (w Weighted) Attach(m *model.Model) (*Adapter, error) {
	ad, err := w.Folder.Attach(m, w.Folder.Config)
	if err != nil {
		return nil, err
	}
	if w.Weight != 1 && (len(ad.variants) > 0 || w.Folder.Kind != "" || len(ad.whole) > 0 || len(ad.kept) > 0 || ad.Config.UseDoRA) {
		ad.Close()
		return nil, fail.Inputf(w.Folder.Dir, "give it weight 1", "weight %g: what an adapter stores whole (modules, biases, DoRA's magnitudes, all of other kinds than LoRA) has no part of it", w.Weight)
	}
	for _, l := range ad.tables {
		l.low.Scale *= float32(w.Weight)
	}
	for _, l := range ad.Layers {
		if l.LoRA.Scale *= float32(w.Weight); l.minus != nil {
			l.minus.Scale *= float32(w.Weight)
		}
	}
	return ad, nil
}

// blame turns a complaint about settings into one about the folder they came from.
func (f *Folder) blame(err error) error {
	if fail.Code(err) != int(fail.Usage) {
		return err
	}
	return fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base), "does not fit this base: %w", err)
}

// fillWhole sets the modules and biases that are stored whole.
func (ad *Adapter) fillWhole(f *Folder) error {
	for _, w := range ad.whole {
		name := strings.TrimPrefix(w.name, prefix)
		if ad.model.Spec.Reward && name == ad.model.Head.Path+".weight" && f.tensors[name] == nil {
			continue // an adapter of a model that had none keeps the new one
		}
		shape := []int64{int64(w.param.Rows), int64(w.param.Cols)}
		if strings.HasSuffix(name, ".bias") {
			shape = shape[1:]
		}
		v, err := f.takeWhole(name, w.table, shape...)
		if err != nil {
			return err
		}
		if err := ad.dev.Run(func() error { ad.dev.Upload(w.param.Buffer, kernels.Bytes(v)); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Start is Apply, or, where c.InitFrom names a folder, Load with c's training
// settings: rank, alpha, targets and the like come from the folder, and a
// different value in c is an error. Samples are for a new adapter that looks at some.
func Start(m *model.Model, c Config, seed uint64, samples ...Sample) (*Adapter, error) {
	if c.InitFrom == "" {
		return ApplyOn(m, c, seed, samples)
	}
	f, err := ReadFolder(c.InitFrom)
	if err != nil {
		return nil, err
	}
	c, err = c.inherit(f)
	if err != nil {
		return nil, err
	}
	if f.Kind != "" {
		return nil, fail.Usagef("lora.init_from", "use adapter: "+f.Kind, "%s is an adapter of kind %s, not LoRA", f.Dir, f.Kind)
	}
	if f.frozenB {
		return nil, fail.Usagef("lora.init_from", "merge the adapter and train a new one on what that gives, or go on in PEFT", "%s has init_lora_weights: mica, whose B is not trained; here it would be", f.Dir)
	}
	if err := c.trainable("set lora_dropout to 0 in a copy of its adapter_config.json"); err != nil {
		return nil, err
	}
	if c.Dropout > 0 && f.tensors[m.Head.Path+".lora_A.weight"] != nil {
		return nil, fail.Usagef("lora.dropout", "dropout: 0", "%s has an adapter on the head %s, which is not trained with dropout", f.Dir, m.Head.Path)
	}
	return f.attachToTrain(m, c, "lora.init_from")
}

// attachToTrain is Attach for going on with the training. What PEFT trained whole and
// is used here, but not trained (norms, modules of several layers), is an error of key:
// it would silently stay as it was.
func (f *Folder) attachToTrain(m *model.Model, c Config, key string) (*Adapter, error) {
	ad, err := f.Attach(m, c)
	if err != nil {
		return nil, err
	}
	for _, w := range ad.kept {
		if name := c.peftName(strings.TrimPrefix(w.name, prefix)); name != "" {
			ad.Close()
			return nil, fail.Usagef(key, "merge the adapter and train a new one on what that gives, or go on in PEFT",
				"%s: its modules_to_save: %s trained %s whole, and only linear layers, embeddings and heads are here", f.Dir, name, w.name)
		}
	}
	return ad, nil
}

// inherit returns f's settings with the training settings of c.
func (c Config) inherit(f *Folder) (Config, error) {
	out := f.Config
	for _, k := range []struct {
		key         string
		given, same bool
		here, there any
	}{
		{"r", c.R != 0, c.R == out.R, c.R, out.R},
		{"alpha", c.Alpha != 0, c.Alpha == out.Alpha, c.Alpha, out.Alpha},
		{"target_parameters", len(c.TargetParameters) > 0, slices.Equal(sorted(c.TargetParameters), sorted(out.TargetParameters)), c.TargetParameters, out.TargetParameters},
		{"target_modules", !c.TargetModules.Empty(), c.TargetModules.same(out.TargetModules), c.TargetModules, out.TargetModules},
		{"exclude_modules", !c.ExcludeModules.Empty(), c.ExcludeModules.same(out.ExcludeModules), c.ExcludeModules, out.ExcludeModules},
		{"rank_pattern", len(c.RankPattern) > 0, slices.Equal(c.RankPattern, out.RankPattern), c.RankPattern, out.RankPattern},
		{"alpha_pattern", len(c.AlphaPattern) > 0, slices.Equal(c.AlphaPattern, out.AlphaPattern), c.AlphaPattern, out.AlphaPattern},
		{"layers_to_transform", len(c.Layers) > 0, slices.Equal(c.Layers, out.Layers), c.Layers, out.Layers},
		{"layers_pattern", len(c.LayersPattern) > 0, slices.Equal(c.LayersPattern, out.LayersPattern), c.LayersPattern, out.LayersPattern},
		{"modules_to_save", len(c.ModulesToSave) > 0, slices.Equal(c.ModulesToSave, out.ModulesToSave), c.ModulesToSave, out.ModulesToSave},
		{"trainable_token_indices", len(c.TrainableTokenIndices) > 0, maps.EqualFunc(c.TrainableTokenIndices, out.TrainableTokenIndices, slices.Equal[[]int]), c.TrainableTokenIndices, out.TrainableTokenIndices},
		{"bias", c.Bias != "", c.Bias == out.Bias, c.Bias, out.Bias},
		{"lora_bias", c.LoRABias, out.LoRABias, c.LoRABias, out.LoRABias},
		{"use_rslora", c.UseRSLoRA, out.UseRSLoRA, c.UseRSLoRA, out.UseRSLoRA},
		{"init_lora_weights", c.InitWeights != "", c.InitWeights == out.InitWeights, c.InitWeights, out.InitWeights},
		{"init_samples", c.InitSamples != 0, false, c.InitSamples, "how it began"},
		{"eva_config", c.EVA != nil, false, "given", "how it began"},
		{"use_dora", c.UseDoRA, out.UseDoRA, c.UseDoRA, out.UseDoRA},
	} {
		if k.given && !k.same {
			return c, fail.Usagef("lora."+k.key, "leave it out: it comes from the adapter", "%s is %v here, %v in %s", k.key, k.here, k.there, f.Dir)
		}
	}
	if c.Dropout != 0 {
		out.Dropout = c.Dropout
	}
	out.LoRAPlusLRRatio, out.LoRAPlusLREmbedding, out.InitFrom = c.LoRAPlusLRRatio, c.LoRAPlusLREmbedding, c.InitFrom
	return out, nil
}

// same compares two choices; the order of names is free.
func (t Targets) same(u Targets) bool {
	return t.All == u.All && t.Regex == u.Regex && slices.Equal(sorted(t.Names), sorted(u.Names))
}

// readNotes reads tunekit.json; a folder of another program has none.
func readNotes(dir string) (n Notes, err error) {
	b, err := os.ReadFile(filepath.Join(dir, notesFile))
	if os.IsNotExist(err) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil {
		return n, fail.Inputf(filepath.Join(dir, notesFile), "", "%w", err)
	}
	return n, nil
}
