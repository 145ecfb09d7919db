package lora

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
)

// Folder is a PEFT adapter as stored, with no model.
type Folder struct {
	Dir    string
	Config Config
	Base   string // base_model_name_or_path
	Notes  Notes  // of tunekit.json; zero when another program wrote it

	// Of an adapter that is no LoRA, else "" and nil: its kind and settings. Config
	// then says what chooses modules.
	Kind    string
	Options Options
	dropout string // of training, where there was any
	task    string // what PEFT makes of the model, such as SEQ_2_SEQ_LM; "": CAUSAL_LM
	tied    bool   // ensure_weight_tying
	frozenB bool   // its B was not trained: MiCA

	tensors map[string]*stored // by name without prefix
	adapter string             // its name in the names of the tensors, where they have one
}

// Notes are what PEFT's files have no place for, in tunekit.json.
type Notes struct {
	BaseHash string `json:"base_hash,omitempty"` // content of the base the adapter belongs to
	Steps    int    `json:"steps,omitempty"`
}

const notesFile = "tunekit.json"

// stored is one tensor of a folder.
type stored struct {
	shape []int64
	data  []float32
	used  bool
	saved bool // under modules_to_save, as PEFT stores some a second time
}

// ReadFolder reads a PEFT folder and checks it in itself: what it holds, its
// names, its numbers. Errors are of kind fail.Input.
func ReadFolder(dir string) (*Folder, error) {
	a, err := formats.ReadAdapter(dir)
	if err != nil {
		return nil, err
	}
	where := filepath.Join(dir, "adapter_config.json")
	f := &Folder{Dir: dir, tensors: map[string]*stored{}}
	if err := f.settings(where, a.Config); err != nil {
		return nil, err
	}
	if f.Notes, err = readNotes(dir); err != nil {
		return nil, err
	}
	for i := range a.Tensors {
		if err := f.add(filepath.Join(dir, a.File), &a.Tensors[i]); err != nil {
			return nil, err
		}
	}
	if len(f.tensors) == 0 {
		return nil, fail.Inputf(dir, "", "%s holds no tensor", a.File)
	}
	return f, nil
}

// checkTying refuses an adapter of the embedding that PEFT would have hold for the head,
// too, on a base that ties the two.
func (f *Folder) checkTying(tied bool) error {
	for name := range f.tensors {
		if f.tied && tied && strings.Contains(name, ".lora_embedding_") {
			return fail.Inputf(filepath.Join(f.Dir, "adapter_config.json"), "merge the adapter in PEFT, or train without this option", "%s: true, of an adapter of the embedding, is not supported on a base that ties it to the head", tying)
		}
	}
	return nil
}

// settings reads adapter_config.json.
func (f *Folder) settings(where string, data []byte) error {
	all := map[string]any{}
	if err := json.Unmarshal(data, &all); err != nil {
		return fail.Inputf(where, "", "no valid JSON: %w", err)
	}
	if typ, _ := all["peft_type"].(string); !strings.EqualFold(typ, "LORA") {
		return parseKind(where, all, f)
	}
	c, err := parseConfig(where, data, all)
	if err != nil {
		return err
	}
	f.Config, f.Base, f.tied, f.frozenB = c.config(), c.BaseModel, all[tying] == true, c.InitWeights == initMiCA
	if c.TaskType != nil {
		f.task = *c.TaskType
	}
	if f.Config.TargetModules.Empty() && len(f.Config.TargetParameters) == 0 {
		return fail.Inputf(where, "", "target_modules is missing")
	}
	if err := f.Config.check(); err != nil { // with no default of a recipe: 0 is 0 here
		return fail.Inputf(where, "", "%w", err)
	}
	return nil
}

// Summary is the shape of the adapter in one line.
func (f *Folder) Summary() string {
	if f.Kind != "" {
		return KindWord(f.Kind) + " " + f.Options.words()
	}
	return f.Config.Summary()
}

// add decodes one tensor; where is its file.
func (f *Folder) add(where string, t *formats.NamedTensor) error {
	name, adapter, err := plainName(where, t.Name)
	if err != nil {
		return err
	}
	if adapter != "" && f.adapter != "" && adapter != f.adapter {
		return fail.Inputf(where, "save one adapter in one folder", "tensor %s belongs to adapter %s, others to %s", t.Name, adapter, f.adapter)
	}
	f.adapter = cmp.Or(adapter, f.adapter)
	if strings.Contains(name, ".original_module.") { // the base's own, beside what was trained
		return nil
	}
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	v := make([]float32, n)
	switch t.DType {
	case "F32":
		block.GetF32(v, t.Data)
	case "BF16":
		block.GetBF16(v, t.Data)
	case "F16":
		block.GetF16(v, t.Data)
	default:
		return fail.Inputf(where, "", "tensor %s is %s, expected F32, BF16 or F16", t.Name, t.DType)
	}
	for i, x := range v {
		if x-x != 0 {
			return fail.Inputf(where, "the training that made it failed", "tensor %s: value %d is %v", t.Name, i, x)
		}
	}
	saved := strings.Contains(t.Name, ".modules_to_save.")
	if old := f.tensors[name]; old != nil && !(saved != old.saved && slices.Equal(old.shape, t.Shape) && slices.Equal(old.data, v)) {
		return fail.Inputf(where, "one of them is left from training", "two tensors are named %s%s without the wrappers of training; one is %s", prefix, name, t.Name)
	}
	f.tensors[name] = &stored{shape: t.Shape, data: v, saved: saved}
	return nil
}

// Reward reports whether the adapter makes a reward model of its base: it holds the
// head of one.
func (f *Folder) Reward() bool { return f.tensors["score.weight"] != nil }

// take returns the values of a tensor that must be there with this shape.
func (f *Folder) take(name string, shape ...int64) ([]float32, error) {
	t, ok := f.tensors[name]
	if !ok {
		return nil, f.missing(name)
	}
	if !slices.Equal(t.shape, shape) {
		return nil, fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base),
			"was made for another base: %s%s is %v, here it must be %v", prefix, name, t.shape, shape)
	}
	t.used = true
	return t.data, nil
}

func (f *Folder) missing(name string) error {
	return fail.Inputf(f.Dir, "is adapter_config.json its own?", "tensor %s%s is missing", prefix, name)
}

// layer returns A and B of the adapter of a layer [out, in] with rank r, of
// experts [E·r, in] and [E·out, r]. The error for other sizes states them by
// module, as people know it.
func (f *Folder) layer(path string, r, out, in, experts int, turned bool) (a, b []float32, err error) {
	if turned {
		b, a, err = f.layer(path, r, in, out, experts, false)
		return transposed(a, experts, in, r), transposed(b, experts, r, out), err
	}
	if experts > 0 {
		if a, err = f.take(path+".lora_A.weight", int64(experts*r), int64(in)); err != nil {
			return nil, nil, err
		}
		b, err = f.take(path+".lora_B.weight", int64(out), int64(r*experts))
		return a, fromPEFT(b, r, experts), err
	}
	ta, tb := f.tensors[path+".lora_A.weight"], f.tensors[path+".lora_B.weight"]
	if ta != nil && tb != nil && len(ta.shape) == 2 && len(tb.shape) == 2 && (ta.shape[1] != int64(in) || tb.shape[0] != int64(out)) {
		return nil, nil, fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base),
			"was made for another base: %s is %d×%d here, the adapter expects %d×%d", path, out, in, tb.shape[0], ta.shape[1])
	}
	if a, err = f.take(path+".lora_A.weight", int64(r), int64(in)); err != nil {
		return nil, nil, err
	}
	b, err = f.take(path+".lora_B.weight", int64(out), int64(r))
	return a, b, err
}

// fromPEFT turns B of experts as PEFT keeps it [out, r, E] into [E, out, r].
func fromPEFT(b []float32, r, experts int) []float32 {
	out := len(b) / (r * experts)
	v := make([]float32, len(b))
	for i := range b {
		o, j, e := i/(r*experts), i/experts%r, i%experts
		v[(e*out+o)*r+j] = b[i]
	}
	return v
}

// toPEFT is the inverse of fromPEFT.
func toPEFT(b []float32, r, experts int) []float32 {
	out := len(b) / (r * experts)
	v := make([]float32, len(b))
	for i := range v {
		o, j, e := i/(r*experts), i/experts%r, i%experts
		v[i] = b[(e*out+o)*r+j]
	}
	return v
}

// transposed swaps rows and columns of each of the matrices [rows, cols] of experts.
func transposed(v []float32, experts, rows, cols int) []float32 {
	out := make([]float32, len(v))
	for i := range v {
		e, row, col := i/(rows*cols), i/cols%rows, i%cols
		out[(e*cols+col)*rows+row] = v[i]
	}
	return out
}

// leftover is an error that names the first tensor nobody took.
func (f *Folder) leftover() error {
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		if !f.tensors[name].used {
			return fail.Inputf(f.Dir, fmt.Sprintf("adapter_config.json names %s", f.Base), "tensor %s%s has no place in this model", prefix, name)
		}
	}
	return nil
}

// SaveOptions say what goes into a folder beside the adapter's values.
type SaveOptions struct {
	Base  string // name or path of the base model, for adapter_config.json
	Notes Notes
	Card  []byte // README.md; nil: a short one
}

// Save writes the adapter as a PEFT folder, which appears whole or not at all.
func (ad *Adapter) Save(dir string, o SaveOptions) error {
	var chosen []string
	for _, l := range ad.Layers {
		if l.param == "" {
			chosen = append(chosen, l.Path)
		}
	}
	for _, l := range ad.tables {
		chosen = append(chosen, l.path)
	}
	var conf []byte
	var err error
	if ad.Kind == "" {
		file := fileOf(ad.Config.converted(), o.Base, chosen, ad.Modules)
		task := ad.task()
		file.TaskType = &task
		conf, err = file.encode()
	} else {
		conf, err = ad.kindFile(o.Base, ad.paths())
	}
	if err != nil {
		return err
	}
	a := &formats.Adapter{Config: conf}
	err = ad.dev.Run(func() error {
		params := append(ad.Params(), ad.shared...)
		for _, w := range ad.kept {
			params = append(params, Param{Param: w.param, Shape: w.shape()})
		}
		for _, p := range params {
			v := make([]float32, p.Len())
			if err := ad.dev.Download(kernels.Bytes(v), p.Buffer); err != nil {
				return err
			}
			r := p.Cols
			if p.turned > 0 {
				r = p.Rows / p.turned // of A, which is stored as B
				v = transposed(v, p.turned, p.Rows/p.turned, p.Cols)
			}
			if p.experts > 0 {
				v = toPEFT(v, r, p.experts)
			}
			if p.first != nil {
				var err error
				if v, p.Shape, err = p.joined(ad.dev, v); err != nil {
					return err
				}
			}
			t := formats.NamedTensor{Name: p.Name, DType: "F32", Data: kernels.Bytes(v)}
			for _, d := range p.Shape {
				t.Shape = append(t.Shape, int64(d))
			}
			a.Tensors = append(a.Tensors, t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	notes, err := json.MarshalIndent(o.Notes, "", "  ")
	if err != nil {
		return err
	}
	if o.Card == nil {
		o.Card = ad.card(o)
	}
	return formats.WriteAdapter(dir, a, map[string][]byte{"README.md": o.Card, notesFile: append(notes, '\n')})
}

// card is a model card with what is known.
func (ad *Adapter) card(o SaveOptions) []byte {
	task := "text-generation"
	if ad.model.Spec.Reward {
		task = "text-classification"
	}
	return fmt.Appendf(nil, `---
base_model: %s
base_model_relation: adapter
library_name: peft
pipeline_tag: %s
tags:
- %s
---

# %s adapter

%s. Base: %s.
`, o.Base, task, cmp.Or(ad.Kind, "lora"), KindWord(ad.Kind), ad.Summary(), o.Base)
}
