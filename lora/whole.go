package lora

import (
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// PEFT stores weights whole for two reasons, which differ where the head is
// tied. A module of modules_to_save is a copy beside the base's: a saved
// embedding leaves the head as it was, and the model is tied no more. Tables
// that PEFT stores by itself, because tokens were added or a table has an
// adapter, are the base's own: what is loaded into one is in both.

// Saves reports whether modules_to_save of a recipe names the module at path, whole or by
// its last parts.
func (c Config) Saves(path string) bool {
	return slices.ContainsFunc(c.ModulesToSave, func(name string) bool { return path == name || strings.HasSuffix(path, "."+name) })
}

// peftName is the name in modules_to_save that PEFT trained a tensor under: one that the
// path of its module, or of a module around that, ends with, also within a word (norm
// is input_layernorm, too); "" where there is none.
func (c Config) peftName(tensor string) string {
	for i, b := range tensor {
		for _, name := range c.ModulesToSave {
			if b == '.' && strings.HasSuffix(tensor[:i], name) {
				return name
			}
		}
	}
	return ""
}

// peftSaves reports whether PEFT takes the module at path for one that modules_to_save of a
// stored adapter names.
func (c Config) peftSaves(path string) bool { return c.peftName(path+".weight") != "" }

// peftSkips reports whether PEFT leaves the module at path without an adapter because it, or a
// module around it, is in modules_to_save (check_target_module_exists): of whole parts of the path, unlike peftName.
func (c Config) peftSkips(path string) bool {
	return slices.ContainsFunc(c.ModulesToSave, func(name string) bool { return strings.Contains("."+path+".", "."+name+".") })
}

// baseName is the name that a tensor stored whole has in the base.
func baseName(stored string) string {
	return strings.Replace(strings.Replace(stored, ".token_adapter.", ".", 1), ".base_layer.", ".", 1)
}

// Grow gives src the tokens that the adapters were trained with, where those are more
// than it has; call it before a model is loaded.
func Grow(src *arch.Source, folders ...*Folder) error {
	for _, f := range folders {
		for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
			t := f.tensors[name]
			base := src.Named(baseName(name))
			if base == nil && src.Spec.Tied && baseName(name) == src.HeadPath()+".weight" {
				base = src.At(-1, arch.Embed)
			}
			if base == nil || base.Role != arch.Embed && base.Role != arch.Head || len(t.shape) != 2 || t.shape[1] != int64(base.Cols) || t.shape[0] <= int64(src.Spec.V) || !f.addsTokens() {
				continue
			}
			if err := src.Grow(int(t.shape[0])); err != nil {
				return err
			}
		}
	}
	return nil
}

// addsTokens reports whether f holds a whole table of embeddings.
func (f *Folder) addsTokens() bool {
	for name := range f.tensors {
		if strings.HasSuffix(name, ".token_adapter.base_layer.weight") {
			return true
		}
	}
	return false
}

// storedAs is the name of the tensor that holds a weight of the base whole, ""
// where there is none.
func (f *Folder) storedAs(name string) string {
	dot := strings.LastIndexByte(name, '.')
	for _, n := range []string{name, name[:dot] + ".base_layer" + name[dot:]} {
		if f.tensors[n] != nil {
			return n
		}
	}
	return ""
}

// unties reports whether a tied head and the embedding are two matrices once
// the adapter is in.
func (f *Folder) unties(embed, head string) bool {
	own := func(path string) bool { return f.Config.peftSaves(path) && f.storedAs(path+".weight") != "" }
	return own(embed) || own(head) || f.Config.partsTables(embed, head) || f.tensors[head+".lora_A.weight"] != nil || f.tensors[embed+embeddingA] != nil
}

// tieTables checks that the two tables which PEFT stored by itself are one on a
// tied base. Two that differ are an error: one would be lost when they are
// loaded into one.
func (f *Folder) tieTables(embed, head string) error {
	e, h := f.storedAs(embed+".weight"), f.storedAs(head+".weight")
	if e == "" || h == "" || f.Config.peftSaves(embed) || f.Config.peftSaves(head) {
		return nil
	}
	if !slices.Equal(f.tensors[e].data, f.tensors[h].data) {
		return fail.Inputf(f.Dir, "name them in modules_to_save of adapter_config.json if they were trained as two", "%s%s and %s%s differ, and the base ties them", prefix, e, prefix, h)
	}
	return nil
}

// takeWhole is take for a weight of the base that is stored whole. The error for
// a table of another height says what made it.
func (f *Folder) takeWhole(stored string, table bool, shape ...int64) ([]float32, error) {
	t := f.tensors[stored]
	if table && t != nil && len(t.shape) == 2 && t.shape[1] == shape[1] && t.shape[0] != shape[0] {
		return nil, fail.Inputf(f.Dir, "give the base resized as it was in training (resize_token_embeddings, then save_pretrained)",
			"tokens were added to the vocabulary: %s%s has %d rows, this base %d", prefix, stored, t.shape[0], shape[0])
	}
	return f.take(stored, shape...)
}

// ofTokens reports whether t has a row for every token.
func ofTokens(t *arch.Tensor) bool {
	return t.Role == arch.Embed || t.Role == arch.EncoderEmbed || t.Role == arch.Head
}

// takeParams puts what PEFT stored without being asked for over the base's own
// weights, also over those that two modules share.
func (ad *Adapter) takeParams(m *model.Model, f *Folder) error {
	params := map[string]*autograd.Param{}
	for _, p := range m.Params() {
		params[p.Name] = p
	}
	if m.Spec.Tied {
		params[m.Head.Path+".weight"] = params[m.Embed.Path+".weight"]
		if err := f.tieTables(m.Embed.Path, m.Head.Path); err != nil {
			return err
		}
	}
	for _, stored := range slices.Sorted(maps.Keys(f.tensors)) {
		p := params[baseName(stored)]
		if f.tensors[stored].used || p == nil {
			continue
		}
		t := m.TensorOf(p)
		v, err := f.takeWhole(stored, ofTokens(t), t.Shape()...)
		if err != nil {
			return err
		}
		if err := ad.overwrite(stored, p, v, t.Vector); err != nil {
			return err
		}
	}
	return nil
}

// overwrite puts values over p for as long as the adapter is there.
func (ad *Adapter) overwrite(stored string, p *autograd.Param, v []float32, vector bool) error {
	own, err := newParam(ad.dev, stored, p.Rows, p.Cols, v)
	if err != nil {
		return err
	}
	restore := ad.model.Cover(p, own.Mat)
	ad.kept = append(ad.kept, &whole{name: prefix + stored, param: own, set: func(*autograd.Param) { restore() }, vector: vector})
	return nil
}

// sourceModules lists what modules lists of a model, of its file; tensors are
// their weights, nil for a tied head.
func sourceModules(src *arch.Source) (mods []Module, tensors []*arch.Tensor) {
	for _, t := range src.Tensors() {
		if t.Vector {
			continue
		}
		mod := Module{Path: t.Path(), Head: t.Role == arch.Head, index: len(mods)}
		if module, name := t.Parameter(); name != "" {
			mod.Path, mod.Param = module, name
		}
		if t.Role == arch.Embed || t.Role == arch.EncoderEmbed || t.Role == arch.Position {
			mod.Kind = EmbeddingModule
		}
		mods, tensors = append(mods, mod), append(tensors, t)
	}
	if src.Spec.Tied {
		mods, tensors = append(mods, Module{Path: src.HeadPath(), Head: true, index: len(mods)}), append(tensors, nil)
	}
	return mods, tensors
}

// shape is w's as stored.
func (w *whole) shape() []int {
	if w.vector {
		return []int{w.param.Len()}
	}
	return []int{w.param.Rows, w.param.Cols}
}
