package recipes

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Kind is one kind of stage: all that the engine knows of it. A function that a
// kind has no use for is nil; o is what New returned, decoded.
type Kind struct {
	Name  string     // its key in a recipe
	Doc   string     // one line
	New   func() any // a pointer to its options, a struct with the tags of package schema
	Left  func() any // a pointer to what a finished stage leaves for the report; it is kept as JSON
	Gives []RefKind  // what a reference to such a stage can stand for

	HostOnly bool            // results do not depend on the device or the level of the kernels
	Reforms  bool            // makes the model it reads in another form: what kl compares with
	Keeps    bool            // a killed stage knows what of its folder is whole, and goes on there
	Measures bool            // runs again for --write-baseline
	Ranks    func(o any) int // processes that it works in (Env.Team); nil: one

	Replaces bool // its model stands for the recipe's base in all stages below

	Resolve func(o any, s Setting, bad Bad)                                                     // fills in what is not given, and checks what tags cannot say
	Inputs  func(v *Resolver, o any) ([]Input, error)                                           // what it reads
	Full    func(j *Job) any                                                                    // the options with references that have no key of their own filled in
	Shape   func(j *Job) (Ref, bool)                                                            // the model on whose shape options depend
	Fit     func(j *Job, spec *arch.Spec) error                                                 // sets those options
	Address func(a *Addresser, o any) any                                                       // the part of the options that its results depend on
	Makes   func(o any) []Made                                                                  // the models it makes
	Path    func(dir, run string, o any, member string) string                                  // where one of several lies; nil: the stage's folder
	Held    func(p *Planner, j *Job, from *arch.Source, member string) (map[string]Held, error) // how the tensors it will write are held, but for Mapped
	Shapes  func(p *Planner, j *Job) (*arch.Source, error)                                      // the model it will make, where that is not its input held as Held says
	Grows   func(p *Planner, j *Job, from *arch.Source) (int, error)                            // tokens that the model it makes will have; nil: as many

	Plan func(p *Planner, j *Job, s *StagePlan) error                 // what Run would do
	Run  func(ctx context.Context, x *Env, j *Job, res *Result) error // does it
	View func(x *Env, j *Job, res *Result, s *report.Section)         // what reports show; res is nil before it has finished
}

// Bad notes a problem of a stage's options: key is a path below the stage's id,
// "" for the stage as a whole.
type Bad func(key, hint, format string, args ...any)

// Setting is what options can depend on beside themselves.
type Setting struct {
	ID   string // of the stage
	Seed uint64 // of the recipe
}

// Made is one model that a stage makes.
type Made struct {
	Member  string // by which it is named, stage/member; "" for the only one
	Dense   bool   // whole weights: a default to go on from
	Adapter bool   // adds to a base, is no model of its own
	Reward  bool   // gives texts a number, or is the adapter of what does: of use only where it is named
}

// Stage is one entry of a recipe's list: an id and exactly one kind.
type Stage struct {
	ID      string
	Kind    *Kind
	Options any // what Kind.New returned
}

// makes lists the models a stage makes.
func (s *Stage) makes() []Made {
	if s.Kind.Makes == nil {
		return nil
	}
	return s.Kind.Makes(s.Options)
}

// Kinds is the table of the kinds a recipe may use, in the order in which they
// are listed.
type Kinds []*Kind

// names lists the kinds, only those that give a kind of reference if one is
// named.
func (k Kinds) names(gives RefKind) []string {
	var out []string
	for _, kind := range k {
		if gives == "" || kind.gives(gives) {
			out = append(out, kind.Name)
		}
	}
	return out
}

func (k *Kind) gives(what RefKind) bool {
	for _, g := range k.Gives {
		if g == what {
			return true
		}
	}
	return false
}

// stageForm is how a stage is written: a struct of the id and a pointer for
// each kind, of which one is set.
func (k Kinds) stageForm() reflect.Type {
	fields := []reflect.StructField{{Name: "ID", Type: reflect.TypeFor[string](),
		Tag: `yaml:"id" doc:"folder below the run, and how other stages refer to it" unset:"the kind"`}}
	for _, kind := range k {
		fields = append(fields, reflect.StructField{
			Name: strings.ToUpper(kind.Name[:1]) + kind.Name[1:], Type: reflect.TypeOf(kind.New()),
			Tag: reflect.StructTag(`yaml:"` + kind.Name + `" doc:"` + kind.Doc + `"`)})
	}
	return reflect.StructOf(fields)
}

// form is how a recipe is written: its fields, and the list of stages.
func (k Kinds) form() reflect.Type {
	var fields []reflect.StructField
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Recipe]()) {
		if f.Tag.Get("yaml") != "" {
			fields = append(fields, reflect.StructField{Name: f.Name, Type: f.Type, Tag: f.Tag})
		}
	}
	fields = append(fields, reflect.StructField{Name: "Stages", Type: reflect.SliceOf(k.stageForm()), Tag: `yaml:"stages" doc:"what to do, in order"`})
	return reflect.StructOf(fields)
}

// read takes a recipe over from the form it is written in.
func (k Kinds) read(form reflect.Value, r *Recipe) {
	to := reflect.ValueOf(r).Elem()
	for _, f := range reflect.VisibleFields(form.Type()) {
		if f.Name != "Stages" {
			to.FieldByName(f.Name).Set(form.FieldByIndex(f.Index))
		}
	}
}

// Schema is the JSON Schema of a recipe, for editors.
func (k Kinds) Schema() []byte {
	return schema.JSON(k.form(), "tunekit recipe, version 1", "version", "stages")
}

// Keys lists the keys of a section in the order they are declared: "" is the
// top level, else a stage kind or a path such as "train.lora". It returns nil
// for an unknown section.
func (k Kinds) Keys(section string) []schema.Key {
	first, _, _ := strings.Cut(section, ".")
	if _, ok := schema.Fields(k.form())[first]; ok || section == "" {
		return schema.Keys(k.form(), section)
	}
	return schema.Keys(k.stageForm(), section)
}

// homes are the sections of every key; the top level is first, and of sections
// with the same keys only the first is named.
func (k Kinds) homes() map[string][]string {
	all := map[string][]string{}
	for _, key := range k.Keys("") {
		all[key.Name] = []string{schema.Top}
	}
	var seen [][]schema.Key
	for _, section := range k.Sections() {
		keys := k.Keys(section)
		if slices.ContainsFunc(seen, func(other []schema.Key) bool { return reflect.DeepEqual(keys, other) }) {
			continue
		}
		seen = append(seen, keys)
		for _, key := range keys {
			all[key.Name] = append(all[key.Name], section)
		}
	}
	return all
}

// Sections lists what Keys knows below a stage, kind by kind.
func (k Kinds) Sections() []string { return schema.Sections(k.stageForm()) }
