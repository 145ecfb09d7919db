package recipes

import (
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

// resolver finds the inputs of one stage from those above it.
type resolver struct {
	r     *Recipe
	above []*Stage
	self  *Stage
}

func (v *resolver) find(id string) *Stage {
	for _, s := range v.above {
		if s.ID == id {
			return s
		}
	}
	return nil
}

func (v *resolver) usage(key, hint, format string, args ...any) error {
	return fail.Usagef(v.r.path+": "+v.self.ID+"."+key, hint, format, args...)
}

// given resolves a name: a stage above, id/member, or a path.
func (v *resolver) given(kind RefKind, key, name string, kinds ...string) (Ref, error) {
	id, member, _ := strings.Cut(name, "/")
	s := v.find(id)
	if s == nil {
		for i := range v.r.Stages {
			if below := &v.r.Stages[i]; below.ID == name {
				return Ref{}, v.usage(key, "move it up: stages run in order", "stage %s stands below", name)
			}
		}
		return Ref{Kind: kind, Path: name, Why: "given"}, nil
	}
	ok := len(kinds) == 0
	for _, k := range kinds {
		ok = ok || s.Kind() == k
	}
	if !ok {
		return Ref{}, v.usage(key, "", "stage %s is a %s stage, want %s", id, s.Kind(), strings.Join(kinds, " or "))
	}
	if s.Export != nil {
		m, err := v.member(key, s, member)
		return Ref{Kind: kind, Stage: id, Member: m, Why: "given"}, err
	}
	if member != "" {
		return Ref{}, v.usage(key, "", "stage %s has one output, not %q", id, member)
	}
	return Ref{Kind: kind, Stage: id, Why: "given"}, nil
}

func (v *resolver) member(key string, s *Stage, member string) (string, error) {
	if member == "" && len(s.Export.Type) == 1 {
		return s.Export.Type[0], nil
	}
	for _, t := range s.Export.Type {
		if t == member {
			return member, nil
		}
	}
	return "", v.usage(key, "write "+s.ID+"/"+s.Export.Type[0], "stage %s writes %s", s.ID, strings.Join(s.Export.Type, ", "))
}

// model resolves a model: given, or the last dense model above. Quantize and
// export stages never become a default.
func (v *resolver) model(key, name string) (Ref, error) {
	if name != "" {
		return v.given(ModelRef, key, name, "train", "merge", "quantize", "export")
	}
	for i := len(v.above) - 1; i >= 0; i-- {
		s := v.above[i]
		if s.Merge != nil || s.Train != nil && s.Train.Adapter == "none" {
			return Ref{Kind: ModelRef, Stage: s.ID, Why: "the last dense model above"}, nil
		}
	}
	if v.r.BaseModel == "" {
		return Ref{}, v.usage(key, "add base_model to the recipe", "no model above and no base_model")
	}
	return Ref{Kind: ModelRef, Path: v.r.BaseModel, Why: "base_model"}, nil
}

// data resolves data: given, or the only ingest stage above.
func (v *resolver) data(key, name string) (Ref, error) {
	if name != "" {
		return v.given(DataRef, key, name, "ingest")
	}
	var found []string
	for _, s := range v.above {
		if s.Ingest != nil {
			found = append(found, s.ID)
		}
	}
	switch len(found) {
	case 0:
		return Ref{}, v.usage(key, "add an ingest stage above, or name a file", "no data")
	case 1:
		return Ref{Kind: DataRef, Stage: found[0], Why: "the only ingest stage"}, nil
	}
	return Ref{}, v.usage(key, "name one", "several ingest stages: %s", strings.Join(found, ", "))
}

// adapter resolves an adapter: given, or the last train stage that makes one.
func (v *resolver) adapter(key, name string) (Ref, error) {
	if name != "" {
		return v.given(AdapterRef, key, name, "train")
	}
	for i := len(v.above) - 1; i >= 0; i-- {
		if t := v.above[i].Train; t != nil && t.Adapter != "none" {
			return Ref{Kind: AdapterRef, Stage: v.above[i].ID, Why: "the last train stage"}, nil
		}
	}
	return Ref{}, v.usage(key, "name an adapter folder", "no train stage above makes an adapter")
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
