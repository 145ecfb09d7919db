package recipes

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// RefKind is what a reference stands for.
type RefKind string

const (
	ModelRef    RefKind = "model"    // a model's folder or file
	DataRef     RefKind = "data"     // rows, text or ingested samples
	AdapterRef  RefKind = "adapter"  // a PEFT folder
	TemplateRef RefKind = "template" // a chat template's file
	ConfigRef   RefKind = "config"   // a configuration of mergekit
)

// Ref is a resolved input of a stage: another stage's output or a path. A
// stage's content address depends on resolved references only.
type Ref struct {
	Kind   RefKind
	Stage  string // id of the stage that makes it, "" for a path
	Member string // one of several outputs, e.g. "Q4_K_M"
	Path   string // when Stage is ""
	Why    string // how it was found, for the plan: "given", "the last dense model above", …
}

// Key tells references apart: a path may be spelled as a stage is.
func (r Ref) Key() string {
	if r.Stage == "" {
		return "path:" + r.Path
	}
	return r.String()
}

// String is the reference as a recipe writes it.
func (r Ref) String() string {
	if r.Stage == "" {
		return r.Path
	}
	if r.Member != "" {
		return r.Stage + "/" + r.Member
	}
	return r.Stage
}

// Resolver finds the inputs of one stage from those above it.
type Resolver struct {
	Above []*Job // in order

	r    *Recipe
	self *Stage
}

// baseModel is the key of a recipe that names the model it starts from.
const baseModel = "base_model"

// Base is the model that the recipe starts from: what the last stage above made that
// replaces it, else base_model. There may be none.
func (v *Resolver) Base() (Ref, bool) {
	for _, j := range slices.Backward(v.Above) {
		if j.Kind.Replaces {
			return Ref{Kind: ModelRef, Stage: j.ID, Why: "stands for base_model"}, true
		}
	}
	return Ref{Kind: ModelRef, Path: v.r.BaseModel, Why: baseModel}, v.r.BaseModel != ""
}

// Find is the stage above with an id, nil where there is none.
func (v *Resolver) Find(id string) *Job {
	for _, j := range v.Above {
		if j.ID == id {
			return j
		}
	}
	return nil
}

// Usagef is an error of the stage's key.
func (v *Resolver) Usagef(key, hint, format string, args ...any) error {
	return fail.Usagef(v.r.path+": "+v.self.ID+"."+key, hint, format, args...)
}

// Given resolves a name to what a reference of this kind can stand for: a stage
// above, id/member, or a path.
func (v *Resolver) Given(kind RefKind, key, name string) (Ref, error) {
	id, member, _ := strings.Cut(name, "/")
	s := v.Find(id)
	if s == nil {
		for i := range v.r.Stages {
			if below := &v.r.Stages[i]; below.ID == name {
				return Ref{}, v.Usagef(key, "move it up: stages run in order", "stage %s stands below", name)
			}
		}
		return Ref{Kind: kind, Path: name, Why: "given"}, nil
	}
	if !s.Kind.gives(kind) {
		return Ref{}, v.Usagef(key, "", "stage %s is a %s stage, want %s", id, s.Kind.Name, strings.Join(v.r.kinds.names(kind), " or "))
	}
	made := s.makes()
	if len(made) == 0 || made[0].Member == "" {
		if member != "" {
			return Ref{}, v.Usagef(key, "", "stage %s has one output, not %q", id, member)
		}
		return Ref{Kind: kind, Stage: id, Why: "given"}, nil
	}
	var names []string
	for _, m := range made {
		names = append(names, m.Member)
	}
	if member == "" && len(names) == 1 {
		member = names[0]
	}
	if !slices.Contains(names, member) {
		return Ref{}, v.Usagef(key, "write "+id+"/"+names[0], "stage %s writes %s", id, strings.Join(names, ", "))
	}
	return Ref{Kind: kind, Stage: id, Member: member, Why: "given"}, nil
}

// Model resolves a model: given, or the last dense model above; what other
// stages make never becomes a default.
func (v *Resolver) Model(key, name string) (Ref, error) {
	if name != "" {
		return v.Given(ModelRef, key, name)
	}
	if id := v.last(func(m Made) bool { return m.Dense }); id != "" {
		return Ref{Kind: ModelRef, Stage: id, Why: "the last dense model above"}, nil
	}
	base, ok := v.Base()
	if !ok {
		return Ref{}, v.Usagef(key, "add base_model to the recipe", "no model above and no base_model")
	}
	return base, nil
}

// Writer resolves a model as Model does, which must be one that writes text.
func (v *Resolver) Writer(key, name string) (Ref, error) {
	ref, err := v.Model(key, name)
	if err != nil {
		return ref, err
	}
	if name == "" { // what stands closest is likely meant
		if id := v.last(func(m Made) bool { return m.Dense || m.Reward && !m.Adapter }); id != "" && id != ref.Stage {
			ref = Ref{Kind: ModelRef, Stage: id}
		}
	}
	return ref, v.Words(key, ref)
}

// Words refuses a stage that makes a reward model, or the adapter of one.
func (v *Resolver) Words(key string, ref Ref) error {
	if !v.MakesReward(ref) {
		return nil
	}
	return v.Usagef(key, "name another model", "stage %s makes a reward model: it gives texts a number and writes none", ref.Stage)
}

// MakesReward reports whether a stage makes a reward model, or the adapter of one, as ref.
func (v *Resolver) MakesReward(ref Ref) bool {
	j := v.Find(ref.Stage)
	return j != nil && slices.ContainsFunc(j.makes(), func(m Made) bool { return m.Reward && m.Member == ref.Member })
}

// last is the id of the last stage above that makes such a model, "" for none.
func (v *Resolver) last(wanted func(Made) bool) string {
	for _, j := range slices.Backward(v.Above) {
		if slices.ContainsFunc(j.makes(), wanted) {
			return j.ID
		}
	}
	return ""
}

// Data resolves data: given, or the only stage above that gives some.
func (v *Resolver) Data(key, name string) (Ref, error) {
	if name != "" {
		return v.Given(DataRef, key, name)
	}
	var found []string
	for _, j := range v.Above {
		if j.Kind.gives(DataRef) {
			found = append(found, j.ID)
		}
	}
	switch len(found) {
	case 0:
		return Ref{}, v.Usagef(key, "add an ingest stage above, or name a file", "no data")
	case 1:
		return Ref{Kind: DataRef, Stage: found[0], Why: "the only ingest stage"}, nil
	}
	return Ref{}, v.Usagef(key, "name one", "several ingest stages: %s", strings.Join(found, ", "))
}

// Adapter resolves an adapter: given, or the last train stage that makes one.
func (v *Resolver) Adapter(key, name string) (Ref, error) {
	if name != "" {
		return v.Given(AdapterRef, key, name)
	}
	if id := v.last(func(m Made) bool { return m.Adapter }); id != "" {
		return Ref{Kind: AdapterRef, Stage: id, Why: "the last train stage"}, nil
	}
	return Ref{}, v.Usagef(key, "name an adapter folder", "no train stage above makes an adapter")
}

// NamedRef is one model of a recipe by the name that its table shows.
type NamedRef struct{ Name, Ref string }

// AllModels lists the base, but for one that a stage replaced, and every whole model made
// above, each by its name.
func (v *Resolver) AllModels() []NamedRef {
	var out []NamedRef
	if base, ok := v.Base(); ok && base.Stage == "" {
		out = append(out, NamedRef{"base", base.Path})
	}
	for _, j := range v.Above {
		for _, m := range j.makes() {
			if m.Adapter || m.Reward {
				continue
			}
			name := j.ID
			if m.Member != "" {
				name += "/" + m.Member
			}
			out = append(out, NamedRef{name, name})
		}
	}
	return out
}

// MadeFrom is the default reference of a model: the one of which it is another
// form. A tuned or merged model has none, since it should differ.
func (v *Resolver) MadeFrom(m Ref) (Ref, bool) {
	j := v.Find(m.Stage)
	if j == nil || !j.Kind.Reforms {
		return Ref{}, false
	}
	ref, ok := j.In("model")
	ref.Why = "what " + j.ID + " was made from"
	return ref, ok
}

// stage returns the stage a reference points to, nil for a path.
func (r *Recipe) stage(id string) *Stage {
	for i := range r.Stages {
		if r.Stages[i].ID == id {
			return &r.Stages[i]
		}
	}
	return nil
}
