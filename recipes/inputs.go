package recipes

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/quant"
)

// Input is one resolved input of a stage under the key it answers.
type Input struct {
	Name string
	Ref  Ref
}

// Job is a stage with all its references resolved.
type Job struct {
	Stage  *Stage
	Inputs []Input
}

// In returns the reference of an input, and whether there is one.
func (j *Job) In(name string) (Ref, bool) {
	for _, in := range j.Inputs {
		if in.Name == name {
			return in.Ref, true
		}
	}
	return Ref{}, false
}

// Resolve turns every default into a typed reference. All problems that need
// no file are found here.
func (r *Recipe) Resolve() ([]*Job, error) {
	var jobs []*Job
	var above []*Stage
	for i := range r.Stages {
		s := &r.Stages[i]
		v := &resolver{r: r, above: above, self: s}
		in, err := v.inputs()
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, &Job{Stage: s, Inputs: in})
		above = append(above, s)
	}
	return jobs, nil
}

// inputs is the table of what each kind reads.
func (v *resolver) inputs() ([]Input, error) {
	var in []Input
	var err error
	add := func(name string, ref Ref, e error) {
		if err == nil {
			err = e
		}
		in = append(in, Input{name, ref})
	}
	s := v.self
	switch {
	case s.Ingest != nil:
		ref, e := v.tokenizer(s.Ingest.Tokenizer)
		add("tokenizer", ref, e)
		for i, d := range slices.Concat(s.Ingest.Datasets, s.Ingest.ValDatasets) {
			add(fmt.Sprintf("datasets[%d]", i), Ref{Kind: DataRef, Path: d.Path, Why: "given"}, nil)
		}
		if t := s.Ingest.ChatTemplate; t != "" && t != "model" && !inlineTemplate(t) {
			add("chat_template", Ref{Kind: TemplateRef, Path: t, Why: "given"}, nil)
		}
	case s.Train != nil:
		ref, e := v.model("model", s.Train.Model)
		add("model", ref, e)
		ref, e = v.data("data", s.Train.Data)
		add("data", ref, e)
		if p := s.Train.LoRA.InitFrom; p != "" {
			ref, e = v.given(AdapterRef, "lora.init_from", p, "train")
			add("init_from", ref, e)
		}
	case s.Merge != nil:
		in, err = v.mergeInputs(s.Merge)
	case s.Quantize != nil:
		ref, e := v.model("model", s.Quantize.Model)
		add("model", ref, e)
		if quant.Calibrated(s.Quantize.Method) {
			ref, e = v.data("calibration", s.Quantize.Calibration)
			add("calibration", ref, e)
		}
	case s.Export != nil:
		ref, e := v.model("model", s.Export.Model)
		add("model", ref, e)
		if s.Export.Imatrix != "" {
			ref, e = v.given(DataRef, "imatrix", s.Export.Imatrix, "ingest")
			add("imatrix", ref, e)
		}
	case s.Eval != nil:
		in, err = v.evalInputs(s.Eval)
	}
	return in, err
}

func (v *resolver) tokenizer(name string) (Ref, error) {
	if name == "" {
		if v.r.BaseModel == "" {
			return Ref{}, v.usage("tokenizer", "add base_model to the recipe", "no tokenizer and no base_model")
		}
		return Ref{Kind: ModelRef, Path: v.r.BaseModel, Why: "base_model"}, nil
	}
	return v.given(ModelRef, "tokenizer", name, "train", "merge", "quantize", "export")
}

// mergeInputs finds the adapter, and through it the base it was trained on:
// "original" goes back through quantize stages to what they were made from.
func (v *resolver) mergeInputs(o *Merge) ([]Input, error) {
	ad, err := v.adapter("adapter", o.Adapter)
	if err != nil {
		return nil, err
	}
	in := []Input{{"adapter", ad}}
	base := Ref{Kind: ModelRef, Path: v.r.BaseModel, Why: "base_model"}
	if t := v.find(ad.Stage); t != nil {
		if base, err = v.upTo(t).model("model", t.Train.Model); err != nil {
			return nil, err
		}
		base.Why = "what " + ad.Stage + " was trained on"
		in = append(in, Input{"trained", base})
		for q := v.find(base.Stage); o.Base == "original" && q != nil && q.Quantize != nil; q = v.find(base.Stage) {
			if base, err = v.upTo(q).model("model", q.Quantize.Model); err != nil {
				return nil, err
			}
			base.Why = "what " + q.ID + " was made from"
		}
	}
	if base.Path == "" && base.Stage == "" {
		return nil, v.usage("base", "add base_model to the recipe", "no base for the adapter")
	}
	in = append(in, Input{"model", base})
	if data, err := v.data("data", o.Data); err == nil {
		in = append(in, Input{"data", data})
	} else if o.Data != "" {
		return nil, err
	}
	return in, nil
}

// upTo is the resolver as the stage s saw it.
func (v *resolver) upTo(s *Stage) *resolver {
	for i, a := range v.above {
		if a == s {
			return &resolver{r: v.r, above: v.above[:i], self: s}
		}
	}
	return v
}

func (v *resolver) evalInputs(o *Eval) ([]Input, error) {
	var in []Input
	models := o.Models
	if models == nil {
		models = v.allModels()
	}
	if len(models) == 0 {
		return nil, v.usage("models", "name a model", "no models above")
	}
	for _, m := range models {
		name := m.Name
		var ref Ref
		var err error
		if m.Model != "" {
			ref, err = v.given(ModelRef, "models", m.Model, "train", "merge", "quantize", "export")
			if name == "" {
				name = m.Model
			}
		} else {
			ref, err = v.model("models", "")
		}
		if err != nil {
			return nil, err
		}
		if name == "" {
			name = m.Adapter
		}
		in = append(in, Input{"models[" + name + "]", ref})
		if m.Adapter != "" {
			a, err := v.given(AdapterRef, "models", m.Adapter, "train")
			if err != nil {
				return nil, err
			}
			in = append(in, Input{"adapters[" + name + "]", a})
		}
		if r, ok := v.madeFrom(ref); ok && o.Reference == "" {
			in = append(in, Input{"references[" + name + "]", r})
		}
	}
	if o.Reference != "" {
		ref, err := v.given(ModelRef, "reference", o.Reference, "train", "merge", "quantize", "export")
		if err != nil {
			return nil, err
		}
		in = append(in, Input{"reference", ref})
	}
	data, err := v.data("data", o.Data)
	if err != nil {
		return nil, err
	}
	return append(in, Input{"data", data}), nil
}

// allModels lists the base and every model made above, each by its name.
func (v *resolver) allModels() []EvalModel {
	var out []EvalModel
	if v.r.BaseModel != "" {
		out = append(out, EvalModel{Name: "base", Model: v.r.BaseModel})
	}
	for _, s := range v.above {
		switch {
		case s.Merge != nil, s.Quantize != nil, s.Train != nil && s.Train.Adapter == "none":
			out = append(out, EvalModel{Name: s.ID, Model: s.ID})
		case s.Export != nil:
			for _, t := range s.Export.Type {
				out = append(out, EvalModel{Name: s.ID + "/" + t, Model: s.ID + "/" + t})
			}
		}
	}
	return out
}

// madeFrom is the default reference of a model: what it was made from. A
// tuned or merged model has none, since it should differ.
func (v *resolver) madeFrom(m Ref) (Ref, bool) {
	s := v.find(m.Stage)
	if s == nil {
		return Ref{}, false
	}
	var from string
	switch {
	case s.Quantize != nil:
		from = s.Quantize.Model
	case s.Export != nil:
		from = s.Export.Model
	default:
		return Ref{}, false
	}
	ref, err := v.upTo(s).model("model", from)
	ref.Why = "what " + s.ID + " was made from"
	return ref, err == nil
}
