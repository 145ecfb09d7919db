package merge

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Config is a configuration file of mergekit 0.1, with its keys and meanings.
type Config struct {
	Method     string            `yaml:"merge_method" doc:"how tensors are combined"`
	Base       Model             `yaml:"base_model" doc:"what task vectors are differences to; config.json and tokenizer are its"`
	Models     []Input           `yaml:"models" doc:"whole models"`
	Slices     []Slice           `yaml:"slices" doc:"runs of layers, one above another"`
	Modules    map[string]Module `yaml:"modules" doc:"models or slices of the one module of a language model"`
	Parameters Parameters        `yaml:"parameters" doc:"of the method, for all tensors"`
	DType      Float             `yaml:"dtype" doc:"inputs are rounded to it: float32, float16 or bfloat16"`
	OutDType   Float             `yaml:"out_dtype" doc:"stored type"`

	TokenizerSource Source    `yaml:"tokenizer_source" doc:"base, union or a model"`
	Tokenizer       Tokenizer `yaml:"tokenizer" doc:"source, tokens and pad_to_multiple_of"`
	ChatTemplate    string    `yaml:"chat_template" doc:"auto, a Jinja template, a file of one, or the name of one of the program's"`
}

// Module is what an entry of modules holds.
type Module struct {
	Models     []Input    `yaml:"models"`
	Slices     []Slice    `yaml:"slices"`
	Parameters Parameters `yaml:"parameters"`
}

// Slice is a run of layers of the result, made of as long runs of its sources.
type Slice struct {
	Sources    []Input    `yaml:"sources"`
	Base       Model      `yaml:"base_model"`
	Parameters Parameters `yaml:"parameters"`
}

// Input is one model that is merged, or some of its layers.
type Input struct {
	Model      Model      `yaml:"model"`
	Layers     []int      `yaml:"layer_range"` // of slices: the first, and the one behind the last
	Parameters Parameters `yaml:"parameters"`
}

// Model is the path of a model, or a reference to one.
type Model string

// SetYAML reads a path, or a mapping with one. An adapter (path+adapter) is an error.
func (m *Model) SetYAML(n *yaml.Node) error {
	n = schema.Deref(n)
	if n.Kind == yaml.ScalarNode {
		*m = Model(n.Value)
		if base, adapter, ok := strings.Cut(n.Value, "+"); ok {
			return fmt.Errorf("%s: merge the adapter into its base first (tune merge --model %s --adapter %s), and name the result", n.Value, base, adapter)
		}
		return nil
	}
	var full struct {
		Model    Model  `yaml:"model"`
		Path     string `yaml:"path"`
		Revision string `yaml:"revision"`
	}
	if err := schema.DecodeNode(n, &full); err != nil {
		return err
	}
	if full.Revision != "" {
		return fmt.Errorf("revision %s: write the model as hf://%s@%s", full.Revision, full.Path, full.Revision)
	}
	if *m = full.Model; *m == "" {
		*m = Model(full.Path)
	}
	if *m == "" {
		return fmt.Errorf("a model needs a path")
	}
	return nil
}

// Float is the name of a type in torch.
type Float string

// SetYAML reads float32, float16 or bfloat16, also behind torch.
func (f *Float) SetYAML(n *yaml.Node) error {
	*f = Float(strings.TrimPrefix(n.Value, "torch."))
	if _, ok := floats[*f]; !ok {
		return fmt.Errorf("found %q, want float32, float16 or bfloat16", n.Value)
	}
	return nil
}

// Source is where the tokenizer comes from: base, union, or a model.
type Source string

// SetYAML reads a word, or a model as its path.
func (s *Source) SetYAML(n *yaml.Node) error {
	var m Model
	err := m.SetYAML(n)
	*s = Source(strings.TrimPrefix(string(m), "model:"))
	return err
}

// Tokenizer is the longer form of tokenizer_source.
type Tokenizer struct {
	Source   Source           `yaml:"source"` // absent: union
	Tokens   map[string]Token `yaml:"tokens"`
	Multiple int              `yaml:"pad_to_multiple_of"`
}

// Token says where the embedding of a token comes from in models that lack it, or,
// with Force, in all.
type Token struct {
	Source TokenSource `yaml:"source"`
	Force  bool        `yaml:"force"`
}

// TokenSource is a model, a token of a model, or zero.
type TokenSource struct {
	Zero  bool
	Model Model
	ID    *int   // of Model's vocabulary
	Token string // of Model's vocabulary
}

// SetYAML reads a model, or a mapping with kind zero or model_token.
func (s *TokenSource) SetYAML(n *yaml.Node) error {
	if n = schema.Deref(n); n.Kind == yaml.ScalarNode {
		return s.Model.SetYAML(n)
	}
	var full struct {
		Kind  string `yaml:"kind" enum:"zero|model_token"`
		Model Model  `yaml:"model"`
		ID    *int   `yaml:"token_id"`
		Token string `yaml:"token"`
	}
	if err := schema.DecodeNode(n, &full); err != nil {
		return err
	}
	*s = TokenSource{Zero: full.Kind == "zero", Model: full.Model, ID: full.ID, Token: full.Token}
	if full.Kind == "model_token" && (s.Model == "" || (s.ID == nil) == (s.Token == "")) {
		return fmt.Errorf("model_token needs a model and one of token_id and token")
	}
	return nil
}

// Parameters are settings by name.
type Parameters map[string]*Setting

// Setting is the value of a parameter: one for all tensors, a gradient over the
// layers of a slice, or a list of these for tensors by name.
type Setting struct {
	Values []float64 // one, or the anchors of a gradient; a switch is 0 or 1
	Switch bool      // they are true and false, between which there is nothing
	Cases  []Case
}

// Case is a setting for the tensors whose names contain Filter.
type Case struct {
	Filter  string // "" and "*": all
	Setting *Setting
	used    bool
}

// SetYAML reads a number, true, false, a list of them, or cases.
func (s *Setting) SetYAML(n *yaml.Node) error {
	n = schema.Deref(n)
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	if len(items) == 0 {
		return fmt.Errorf("found an empty list, want a number, numbers by layer, or values with filters")
	}
	for _, it := range items {
		if it = schema.Deref(it); it.Kind == yaml.MappingNode {
			var c struct {
				Filter string   `yaml:"filter"`
				Value  *Setting `yaml:"value"`
			}
			if err := schema.DecodeNode(it, &c); err != nil {
				return err
			}
			if c.Value == nil || len(c.Value.Cases) > 0 {
				return fmt.Errorf("filter %q needs a value: a number or numbers by layer", c.Filter)
			}
			s.Cases = append(s.Cases, Case{Filter: c.Filter, Setting: c.Value})
			continue
		}
		var v float64
		var on bool
		if it.Kind == yaml.ScalarNode && it.Decode(&on) == nil && (it.Value == "true" || it.Value == "false") {
			s.Switch = true
			if on {
				v = 1
			}
		} else if it.Kind != yaml.ScalarNode || it.Decode(&v) != nil {
			return fmt.Errorf("found %q, want a number, numbers by layer, or values with filters", it.Value)
		}
		if v-v != 0 {
			return fmt.Errorf("found %q, want a number", it.Value)
		}
		s.Values = append(s.Values, v)
	}
	if len(s.Values) > 0 && len(s.Cases) > 0 {
		return fmt.Errorf("a list holds numbers, or values with filters, not both")
	}
	return nil
}

// at is the value for a tensor at t of the way through the layers of its slice, 0 to
// 1; false where no case is for it.
func (s *Setting) at(tensor string, t float64) (float64, bool) {
	for i := range s.Cases {
		if c := &s.Cases[i]; c.Filter == "" || c.Filter == "*" || strings.Contains(tensor, c.Filter) {
			c.used = true
			return c.Setting.at(tensor, t)
		}
	}
	if len(s.Cases) > 0 {
		return 0, false
	}
	pos := t * float64(len(s.Values)-1)
	i := int(pos)
	if s.Switch {
		return s.Values[i], true
	}
	next, part := min(i+1, len(s.Values)-1), pos-float64(i)
	return float64((1-part)*s.Values[i]) + part*s.Values[next], true
}

// Read parses a configuration; name is the place that messages show. All that is
// wrong in itself is one error of kind fail.Usage.
func Read(name string, text []byte) (*Config, error) {
	d, n, err := schema.Read(name, text)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	d.Decode(n, reflect.ValueOf(c).Elem())
	if len(d.Problems) > 0 {
		return nil, d.Problems
	}
	if err := c.check(); err != nil {
		return nil, fail.Usagef(name, fail.Hint(err), "%w", err)
	}
	return c, nil
}

// check refuses what no set of models could make sense of, and brings models,
// slices and modules into one form: slices, of which models have one without a range.
func (c *Config) check() error {
	m := methodOf(c.Method)
	if m == nil {
		return fail.Usagef("", "known: "+strings.Join(Methods(), ", "), "merge_method: found %q", c.Method)
	}
	var module Parameters
	if len(c.Modules) > 0 {
		if len(c.Modules) > 1 || len(c.Models)+len(c.Slices) > 0 {
			return fail.Usagef("", "give models, slices, or one entry of modules", "modules: only the one module of a language model is merged")
		}
		for _, only := range c.Modules {
			c.Models, c.Slices, module = only.Models, only.Slices, only.Parameters
		}
	}
	if (len(c.Models) > 0) == (len(c.Slices) > 0) {
		return fail.Usagef("", "models merges whole models, slices runs of layers", "one of models and slices is needed")
	}
	if c.TokenizerSource != "" && !reflect.ValueOf(c.Tokenizer).IsZero() {
		return fail.Usagef("", "the second holds the first as source", "tokenizer_source and tokenizer are both given")
	}
	if len(c.Models) > 0 {
		for _, in := range c.Models {
			if in.Layers != nil {
				return fail.Usagef("", "write slices with sources", "models: layer_range of %s belongs to slices", in.Model)
			}
		}
		c.Slices = []Slice{{Sources: c.Models}}
	}
	for i := range c.Slices {
		if err := c.checkSlice(i, m); err != nil {
			return err
		}
	}
	if err := m.knows(module, "modules", false); err != nil {
		return err
	}
	for name, s := range module { // below what a slice says, above what is said for all
		if c.Parameters == nil {
			c.Parameters = Parameters{}
		}
		c.Parameters[name] = &Setting{Cases: append(asCases(s), asCases(c.Parameters[name])...)}
	}
	return m.knows(c.Parameters, "parameters", false)
}

// asCases is a setting as cases; nil has none.
func asCases(s *Setting) []Case {
	if s == nil || len(s.Cases) > 0 {
		if s == nil {
			return nil
		}
		return s.Cases
	}
	return []Case{{Setting: s}}
}

func (c *Config) checkSlice(i int, m *method) error {
	s := &c.Slices[i]
	place := fmt.Sprintf("slices[%d]", i)
	if len(s.Sources) == 0 {
		return fail.Usagef("", "", "%s: sources are missing", place)
	}
	if s.Base == "" {
		s.Base = c.Base
	}
	var seen []Model
	for _, in := range s.Sources {
		if in.Model == "" {
			return fail.Usagef("", "", "%s: a source has no model", place)
		}
		if slices.Contains(seen, in.Model) {
			return fail.Usagef("", "give it once, with the sum of its weights", "%s: %s is there twice", place, in.Model)
		}
		seen = append(seen, in.Model)
		if len(c.Models) == 0 && (len(in.Layers) != 2 || in.Layers[0] < 0 || in.Layers[1] <= in.Layers[0]) {
			return fail.Usagef("", "layer_range: [0, 16] is the first 16 layers", "%s: layer_range of %s is %v", place, in.Model, in.Layers)
		}
		if n, first := in.Layers, s.Sources[0].Layers; n != nil && n[1]-n[0] != first[1]-first[0] {
			return fail.Usagef("", "", "%s: %s has %d layers, %s %d", place, s.Sources[0].Model, first[1]-first[0], in.Model, n[1]-n[0])
		}
		if err := m.knows(in.Parameters, fmt.Sprintf("%s: %s", place, in.Model), true); err != nil {
			return err
		}
	}
	if s.Base != "" && !slices.Contains(seen, s.Base) && len(c.Models) > 0 {
		s.Sources = append(slices.Clone(s.Sources), Input{Model: s.Base})
	}
	return m.knows(s.Parameters, place, false)
}

// References lists the models in the order they are named, the one whose config.json
// and tokenizer the result has first.
func (c *Config) References() []Model {
	var out []Model
	add := func(m Model) {
		if m != "" && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	add(c.Base)
	for _, s := range c.Slices {
		for _, in := range s.Sources {
			add(in.Model)
		}
	}
	for _, s := range c.Slices {
		add(s.Base)
	}
	return out
}

// unused is an error for the first filter that chose no tensor.
func (c *Config) unused() error {
	check := func(place string, p Parameters) error {
		for _, name := range sortedNames(p) {
			for _, k := range p[name].Cases {
				if !k.used && k.Filter != "" && k.Filter != "*" {
					return fail.Usagef("", "a filter is a part of a tensor's name; the first that fits counts", "%s: %s: filter %q chooses no tensor", place, name, k.Filter)
				}
			}
		}
		return nil
	}
	if err := check("parameters", c.Parameters); err != nil {
		return err
	}
	for i, s := range c.Slices {
		if err := check(fmt.Sprintf("slices[%d]", i), s.Parameters); err != nil {
			return err
		}
		for _, in := range s.Sources {
			if err := check(string(in.Model), in.Parameters); err != nil {
				return err
			}
		}
	}
	return nil
}
