package arch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Out is one tensor of a model to be written, by its Hugging Face name.
type Out struct {
	Name string
	Type dtype.Type
	Why  string // shown in plans: what chose the type
}

// Sink writes a model's tensors under their Hugging Face names and in Hugging
// Face orientation into a folder or a GGUF. Nothing is visible at the
// destination before Commit.
type Sink struct {
	w     formats.Writer
	rules map[string]*TensorRule
	gguf  bool
}

// Plan names every tensor of the model with the type that pick chooses from
// its Hugging Face name, shape and rule order.
func (s *Source) Plan(pick func(name string, shape []int, now dtype.Type) (dtype.Type, string)) []Out {
	var out []Out
	for _, name := range s.Names() {
		t, why := pick(name, s.Shape(name), s.Type(name))
		out = append(out, Out{name, t, why})
	}
	return out
}

func rulesByName(s *Spec) (map[string]*TensorRule, error) {
	i := slices.IndexFunc(archs, func(a *Arch) bool { return a.Name == s.Arch })
	if i < 0 {
		return nil, fmt.Errorf("arch: no architecture %q", s.Arch)
	}
	m := map[string]*TensorRule{}
	rules := archs[i].Rules(s)
	for j := range rules {
		m[rules[j].HF] = &rules[j]
	}
	return m, nil
}

// FolderOptions say how a Hugging Face folder is written.
type FolderOptions struct {
	Config   []byte // config.json; ConfigJSON makes one
	Files    map[string][]byte
	MaxShard int64
	Layout   string // as formats.FolderOptions.Layout
	// Quantization is merged over the quantization_config that the layout
	// makes, as a JSON object; nil adds nothing.
	Quantization []byte
}

// CreateFolder starts a Hugging Face folder.
func CreateFolder(dir string, s *Spec, plan []Out, o FolderOptions) (*Sink, error) {
	rules, err := rulesByName(s)
	if err != nil {
		return nil, err
	}
	var tp []formats.TensorPlan
	for _, p := range plan {
		tp = append(tp, formats.TensorPlan{Name: p.Name, Shape: rules[p.Name].shape(), Type: p.Type, Why: p.Why})
	}
	w, err := formats.CreateFolder(dir, formats.FolderOptions{Config: o.Config, Files: o.Files, Plan: tp, MaxShard: o.MaxShard, Layout: o.Layout, Quantization: o.Quantization})
	if err != nil {
		return nil, err
	}
	return &Sink{w: w, rules: rules}, nil
}

// CreateGGUF starts a GGUF file. kv is complete metadata (see GGUFKeys); plan
// is in file order.
func CreateGGUF(path string, s *Spec, kv []formats.KV, plan []Out) (*Sink, error) {
	rules, err := rulesByName(s)
	if err != nil {
		return nil, err
	}
	var tp []formats.TensorPlan
	freqs := s.Rope.freqFactors(s.Rot)
	if s.Rope.Factors != nil {
		for _, f := range s.Rope.Factors {
			freqs = append(freqs, float32(f))
		}
	}
	if freqs != nil {
		tp = append(tp, formats.TensorPlan{Name: "rope_freqs.weight", Shape: []int64{int64(len(freqs))}})
	}
	for _, p := range plan {
		tp = append(tp, formats.TensorPlan{Name: rules[p.Name].GGUF, Shape: rules[p.Name].shape(), Type: p.Type, Why: p.Why})
	}
	w, err := formats.CreateGGUF(path, kv, tp)
	if err != nil {
		return nil, err
	}
	if freqs != nil && !w.Has("rope_freqs.weight") {
		raw := make([]byte, 0, 4*len(freqs))
		for _, f := range freqs {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
		if err := w.Write("rope_freqs.weight", raw); err != nil {
			w.Abort()
			return nil, err
		}
	}
	return &Sink{w: w, rules: rules, gguf: true}, nil
}

func (k *Sink) file(name string) string {
	if k.gguf {
		return k.rules[name].GGUF
	}
	return name
}

// Has reports whether an earlier, interrupted write already finished name.
func (k *Sink) Has(name string) bool { return k.w.Has(k.file(name)) }

// Write stores a tensor given in the layout of dtype.Planes for its planned
// type, in Hugging Face orientation. data is not kept.
func (k *Sink) Write(name string, t dtype.Type, data []byte) error {
	r := k.rules[name]
	if k.gguf && r.Op == PermuteRope {
		var err error
		if data, err = permuteRows(data, t, r, true); err != nil {
			return err
		}
	}
	return k.w.Write(k.file(name), data)
}

// Commit publishes the artifact.
func (k *Sink) Commit() error { return k.w.Commit() }

// Read returns a finished tensor as it was given to Write, in Hugging Face
// orientation.
func (k *Sink) Read(name string, t dtype.Type) ([]byte, error) {
	data, err := k.w.Read(k.file(name))
	if r := k.rules[name]; err == nil && k.gguf && r.Op == PermuteRope {
		return permuteRows(data, t, r, false)
	}
	return data, err
}

// Suspend keeps the unfinished artifact for a restart with the same plan.
func (k *Sink) Suspend() error { return k.w.Suspend() }

// Abort removes the unfinished artifact. After Commit or Suspend it does
// nothing, so it may be deferred.
func (k *Sink) Abort() { k.w.Abort() }

// GGUFName returns the name a Hugging Face tensor has in GGUF files.
func (s *Source) GGUFName(name string) string {
	if e, ok := s.at[name]; ok {
		return e.rule.GGUF
	}
	return ""
}

// HFName is the inverse of GGUFName; "" when there is no such tensor.
func (s *Source) HFName(gguf string) string {
	for _, r := range s.rules {
		if r.GGUF == gguf {
			return r.HF
		}
	}
	return ""
}

// GGUFKeys is the metadata of a GGUF of this model: general.*, the
// architecture's keys, then tok (the tokenizer's). fileType is llama.cpp's
// general.file_type.
func GGUFKeys(s *Spec, name string, fileType uint32, tok []formats.KV) ([]formats.KV, error) {
	i := slices.IndexFunc(archs, func(a *Arch) bool { return a.Name == s.Arch })
	if i < 0 {
		return nil, fmt.Errorf("arch: no architecture %q", s.Arch)
	}
	if s.Rope.Type == "dynamic" {
		return nil, fail.Inputf(name, "llama.cpp has no such rule; choose format: safetensors", "dynamic rope scaling cannot be written to GGUF")
	}
	kv := []formats.KV{
		{Key: "general.architecture", Value: archs[i].GGUF},
		{Key: "general.type", Value: "model"},
		{Key: "general.name", Value: name},
		{Key: "general.size_label", Value: sizeLabel(s.Params())},
		{Key: "general.file_type", Value: fileType},
	}
	kv = append(kv, archs[i].KV(s)...)
	kv = append(kv, formats.KV{Key: "general.quantization_version", Value: uint32(2)})
	return append(kv, tok...), nil
}

func sizeLabel(n int64) string {
	switch f := float64(n); {
	case f >= 1e9:
		return fmt.Sprintf("%.1fB", f/1e9)
	case f >= 1e6:
		return fmt.Sprintf("%.0fM", f/1e6)
	default:
		return fmt.Sprintf("%.0fK", f/1e3)
	}
}

// ConfigJSON is config.json for a folder with this model: the source's own
// with set applied, or one made from the Spec when the source is a GGUF. Keys
// of set with a nil value are removed.
func (s *Source) ConfigJSON(set map[string]any) ([]byte, error) {
	var keys []string
	vals := map[string]json.RawMessage{}
	put := func(k string, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, ok := vals[k]; !ok {
			keys = append(keys, k)
		}
		vals[k] = raw
		return nil
	}
	if data := s.Reader.Config(); data != nil {
		c, err := parseConfig(data)
		if err != nil {
			return nil, err
		}
		vals, keys = c.raw, slices.Sorted(maps.Keys(c.raw))
	} else {
		if r := s.Spec.Rope; r.Factors != nil && llama3FromFactors(r).Type != "llama3" {
			return nil, fail.Inputf(s.Reader.Path(), "write a GGUF instead", "rope_freqs.weight follows no rule that config.json can state")
		}
		for _, kv := range s.arch.Config(&s.Spec) {
			if err := put(kv.Key, kv.Value); err != nil {
				return nil, err
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if set[k] == nil {
			delete(vals, k)
			keys = slices.DeleteFunc(keys, func(x string) bool { return x == k })
		} else if err := put(k, set[k]); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	b.WriteString("{")
	for i, k := range keys {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n  %q: ", k)
		if err := json.Indent(&b, vals[k], "  ", "  "); err != nil {
			return nil, err
		}
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}
