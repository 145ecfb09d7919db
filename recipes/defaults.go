package recipes

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/quant"
)

// defaults fills what the recipe leaves open and does not depend on files.
func (r *Recipe) defaults() {
	if r.Name == "" {
		base := filepath.Base(r.path)
		r.Name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	set(&r.Seed, 42)
	set(&r.Device, "auto")
	for i := range r.Stages {
		s := &r.Stages[i]
		switch {
		case s.Ingest != nil:
			s.Ingest.Seed, s.Ingest.Name = r.Seed, s.ID
		case s.Train != nil:
			s.Train.defaults(r.Seed)
		case s.Merge != nil:
			s.Merge.defaults()
		case s.Quantize != nil:
			s.Quantize.defaults()
		case s.Export != nil:
			s.Export.defaults()
		case s.Eval != nil:
			s.Eval.defaults()
		}
	}
}

// set gives *p the value v when it is zero.
func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func setPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func (o *Train) defaults(seed uint64) {
	if c, err := o.Resolve(int64(seed)); err == nil { // checked before
		o.Config = c
	}
	if o.Adapter == "none" {
		return
	}
	if c, err := o.LoRA.Resolve(); err == nil && o.LoRA.InitFrom == "" { // else they come from the folder
		o.LoRA = c
	}
}

func (o *Merge) defaults() {
	set(&o.Base, "original")
	set(&o.MaxKL, 1e-3)
	set(&o.DType, "auto")
	set(&o.MaxShardSize, 5e9)
	set(&o.Format, "safetensors")
}

func (o *Quantize) defaults() {
	if m := quant.MethodFor(o.Scheme); o.Method == "" && m != nil { // the scheme names its method
		o.Method = m.Name
	}
	if m, err := quant.MethodNamed(o.Method); err == nil { // checked before
		set(&o.Scheme, m.Schemes[0])
		set(&o.Format, m.DefaultFormat(o.Scheme))
	}
	set(&o.ActOrder, "static")
	set(&o.DampPercent, 0.01)
	set(&o.Samples, 128)
	set(&o.MaxLength, 2048)
	setPtr(&o.DoubleQuant, true)
	if o.Ignore == nil {
		o.Ignore = Names{"lm_head"}
	}
	if o.For == nil {
		o.For = quant.DefaultFor(o.Format)
	}
}

func (o *Export) defaults() {
	set(&o.Format, "gguf")
	if o.Type == nil {
		o.Type = Names{"Q4_K_M"}
		if o.Format == "safetensors" {
			o.Type = Names{"BF16"}
		}
	}
	set(&o.Samples, 64)
}

func (o *Eval) defaults() {
	if o.Tasks == nil {
		o.Tasks = Names{"perplexity", "kl"}
	}
	set(&o.Stride, o.Context)
	set(&o.MaxNewTokens, 256)
	set(&o.Unsure, "fail")
}

// fill resolves the defaults of ingest stages that depend on a model: its
// context length.
func (x *run) fill() error {
	for _, j := range x.jobs {
		ref, ok := j.In("tokenizer")
		if o := j.Stage.Eval; o != nil && o.Context == 0 {
			ref, ok = j.firstModel()
		}
		if !ok {
			continue
		}
		path, err := resolvePath(x.origin(ref))
		if err != nil {
			return err
		}
		src, err := arch.Open(path)
		if err != nil {
			return err
		}
		if err := errors.Join(j.Stage.fill(&src.Spec), src.Close()); err != nil {
			return err
		}
	}
	return nil
}

// fill sets what depends on the model.
func (s *Stage) fill(spec *arch.Spec) error {
	if o := s.Eval; o != nil {
		o.Context = min(2048, spec.MaxPos)
		set(&o.Stride, o.Context)
		return nil
	}
	o := &s.Ingest.Options
	o.Context, o.Vocab = spec.MaxPos, spec.V
	return o.Fill()
}

// firstModel is the first model an eval stage measures.
func (j *Job) firstModel() (Ref, bool) {
	for _, in := range j.Inputs {
		if strings.HasPrefix(in.Name, "models[") {
			return in.Ref, true
		}
	}
	return Ref{}, false
}

// origin is the path of the model that a reference goes back to: stages change
// weights and types, not tokenizer or shape.
func (x *run) origin(ref Ref) string {
	for ref.Stage != "" {
		for _, j := range x.jobs {
			if j.Stage.ID == ref.Stage {
				ref, _ = j.In("model")
				break
			}
		}
	}
	return ref.Path
}
