// Package recipes is the engine of recipes: it reads one against a table of
// kinds of stages, resolves its references, plans it, and runs its stages into
// one run folder, addressed by content, resumable, with a manifest of every
// input and output. What a kind of stage does is in package stages.
package recipes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Recipe is one YAML file.
type Recipe struct {
	Version           int         `yaml:"version" doc:"must be 1"`
	Name              string      `yaml:"name" doc:"name of the run folder" unset:"the file's name"`
	BaseModel         string      `yaml:"base_model" doc:"Hugging Face folder, .gguf file or hf://org/name@revision (from the local cache)"`
	Seed              *uint64     `yaml:"seed" doc:"seed of every random choice" default:"42"`
	Device            string      `yaml:"device" doc:"where to compute" enum:"auto|cpu|cuda:0" default:"auto"`
	Threads           int         `yaml:"threads" doc:"worker threads; never changes a result" unset:"all cores" range:"[1,4096]"`
	MemoryLimit       schema.Size `yaml:"memory_limit" doc:"refuse what would need more" unset:"0.9 of the available memory"`
	DeviceMemoryLimit schema.Size `yaml:"device_memory_limit" doc:"the same for the GPU" unset:"0.95 of its free memory"`
	FailOn            []string    `yaml:"fail_on" doc:"make these an error" enum:"fallback|truncated|dropped|duplicates|unpinned|low_steps"`
	Stages            []Stage

	kinds Kinds
	path  string
	text  []byte // as it was read, and what was set over it
	sets  []string
	given map[string]string // paths of the keys that were written, and where
}

// Open reads a recipe: a file, or an embedded one by its name.
func (k Kinds) Open(name string, sets []string) (*Recipe, error) {
	if _, err := os.Stat(name); err != nil && filepath.Ext(name) == "" {
		if data, err := yamls.ReadFile(name + ".yaml"); err == nil {
			return k.Parse(name, data, sets)
		}
	}
	data, err := readRecipe(name)
	if err != nil {
		abs, _ := filepath.Abs(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fail.Usagef(name, "a recipe is a file", "cannot read it: %w", err)
		}
		return nil, fail.Usagef(name, "paths are relative to the working directory; tune init --list shows the embedded recipes", "no such recipe (tried %s)", abs)
	}
	return k.Parse(name, data, sets)
}

// maxRecipe is the longest recipe, in bytes.
const maxRecipe = 16 << 20

func readRecipe(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecipe+1))
	if err == nil && len(data) > maxRecipe {
		err = fmt.Errorf("longer than %d bytes", maxRecipe)
	}
	return data, err
}

// Parse reads and checks a recipe; name is shown in messages, sets are values
// ID.key=VALUE that are put over the text. Every problem is reported at once.
func (k Kinds) Parse(name string, data []byte, sets []string) (*Recipe, error) {
	d, root, err := schema.Read(name, data)
	if err != nil {
		return nil, err
	}
	d.Homes = k.homes()
	if d.ForeignFile(root) {
		return nil, d.Problems
	}
	k.eachStage(root, func(string, *yaml.Node) {}) // "- merge:" alone is a stage with every default
	for i, s := range sets {
		k.applySet(d, root, s, fmt.Sprintf("--set #%d", i+1))
	}
	form := reflect.New(k.form()).Elem()
	d.Decode(root, form)
	r := &Recipe{kinds: k, path: name, text: data, sets: sets, given: d.Given}
	k.read(form, r)
	schema.Fill(r)
	given := r.Name != ""
	if !given {
		base := filepath.Base(r.path)
		r.Name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	c := checker{d, root, map[string]bool{}}
	if why := badName(r.Name); why != "" {
		from := "name"
		if !given {
			from = "the file's name, the run's where it has none,"
		}
		c.Bad(c.at("name"), "name", "name: support makes runs/support; --run-dir chooses another parent", "%s %q %s", from, r.Name, why)
	}
	c.recipe(r, form.FieldByName("Stages"))
	if len(d.Problems) > 0 {
		return nil, d.Problems
	}
	return r, nil
}

// checker holds what tags cannot say of a recipe.
type checker struct {
	*schema.Decoder
	root *yaml.Node
	seen map[string]bool // ids
}

// at is the node of a top-level key, the whole recipe where there is none.
func (c *checker) at(key string) *yaml.Node {
	ks, vs := c.Pairs(c.root, "")
	for i, k := range ks {
		if k.Value == key {
			return schema.Deref(vs[i])
		}
	}
	return c.root
}

// recipe checks r and takes its stages over from the form they are written in.
func (c *checker) recipe(r *Recipe, stages reflect.Value) {
	if r.Version != 1 {
		c.Bad(c.at("version"), "version", "write version: 1", "this program reads version 1, found %d", r.Version)
	}
	if stages.Len() == 0 {
		c.Bad(c.at("stages"), "stages", "", "no stages")
	}
	list := c.at("stages")
	for i := range stages.Len() {
		n := list
		if i < len(list.Content) {
			n = schema.Deref(list.Content[i])
		}
		s := Stage{ID: stages.Index(i).Field(0).String()}
		if c.stage(n, stages.Index(i), &s, r.kinds, *r.Seed) {
			r.Stages = append(r.Stages, s)
		}
	}
}

// stage finds the kind of a stage, checks it and fills in its defaults; false: it
// has none.
func (c *checker) stage(n *yaml.Node, form reflect.Value, s *Stage, kinds Kinds, seed uint64) bool {
	found := 0
	for i, k := range kinds {
		if o := form.Field(i + 1); !o.IsNil() { // the id is the first field
			s.Kind, s.Options = k, o.Interface()
			found++
		}
	}
	if found != 1 {
		names := kinds.names("")
		last := len(names) - 1
		c.Bad(n, s.ID, strings.Join(names[:last], ", ")+" or "+names[last], "a stage has an id and exactly one kind, found %d", found)
		return false
	}
	if s.ID == "" {
		s.ID = s.Kind.Name
	}
	if why := badID(s.ID); why != "" {
		c.Bad(n, s.ID, "choose another id: letters, digits, dot, dash and underscore", "id %q %s", s.ID, why)
	}
	if _, ok := schema.Fields(kinds.form())[s.ID]; ok {
		c.Bad(n, s.ID, "choose another id: --set would mean the recipe's key", "id %s is a key of the recipe", s.ID)
	}
	if c.seen[s.ID] {
		c.Bad(n, s.ID, "give each an id of its own", "two stages are called %s", s.ID)
	}
	c.seen[s.ID] = true
	s.Kind.Resolve(s.Options, Setting{s.ID, seed}, func(key, hint, format string, args ...any) {
		msg := fmt.Sprintf(format, args...)
		if slices.ContainsFunc(c.Problems, func(p schema.Problem) bool {
			return strings.HasPrefix(p.Path, s.Kind.Name) && strings.HasSuffix(msg, p.Msg)
		}) {
			return // a word that was refused where it stands
		}
		c.Bad(n, schema.Join(s.ID, key), hint, format, args...)
	})
	return true
}

// applySet writes one --set into the tree.
func (k Kinds) applySet(d *schema.Decoder, root *yaml.Node, set, place string) {
	key, val, ok := strings.Cut(set, "=")
	here := &yaml.Node{}
	d.Mark(here, place)
	if !ok {
		d.Bad(here, "", "--set ID.key=VALUE", "found %q without =", set)
		return
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(val), &doc); err != nil {
		d.Bad(here, key, "", "value is not YAML: %v", err)
		return
	}
	v := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "", Style: yaml.DoubleQuotedStyle}
	if len(doc.Content) > 0 {
		v = doc.Content[0]
	}
	if text := strings.TrimSpace(val); strings.HasPrefix(text, "#") || strings.Contains(text, " #") && v.Kind == yaml.ScalarNode && v.Style == 0 {
		v = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.DoubleQuotedStyle} // no one comments a flag
	}
	d.Mark(v, place)
	parts := strings.Split(key, ".")
	at := root
	if _, isTop := schema.Fields(k.form())[parts[0]]; !isTop {
		if at = k.stageNode(root, parts[0]); at == nil {
			d.Bad(here, key, "stages: "+strings.Join(k.stageIDs(root), ", "), "no stage and no top-level key %q", parts[0])
			return
		}
		parts = parts[1:]
	}
	if len(parts) == 0 {
		d.Bad(here, key, "--set ID.key=VALUE", "no key after the stage")
		return
	}
	for _, p := range parts[:len(parts)-1] {
		at = d.Child(at, p, place)
	}
	d.Put(at, parts[len(parts)-1], v, place)
}

func (k Kinds) stageIDs(root *yaml.Node) []string {
	var out []string
	k.eachStage(root, func(id string, _ *yaml.Node) { out = append(out, id) })
	return out
}

// eachStage calls f with the id and the options node of every stage.
func (k Kinds) eachStage(root *yaml.Node, f func(id string, opts *yaml.Node)) {
	kinds := schema.Fields(k.stageForm())
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != "stages" {
			continue
		}
		for _, st := range schema.Deref(root.Content[i+1]).Content {
			st = schema.Deref(st)
			id, opts := "", (*yaml.Node)(nil)
			for j := 0; j+1 < len(st.Content); j += 2 {
				key := st.Content[j].Value
				if key == "id" {
					id = st.Content[j+1].Value
				} else if _, ok := kinds[key]; ok {
					if opts = schema.Deref(st.Content[j+1]); id == "" {
						id = key
					}
					if schema.IsNull(opts) {
						opts.Kind, opts.Tag, opts.Value = yaml.MappingNode, "!!map", ""
					}
				}
			}
			if opts != nil {
				f(id, opts)
			}
		}
	}
}

func (k Kinds) stageNode(root *yaml.Node, id string) (found *yaml.Node) {
	k.eachStage(root, func(have string, opts *yaml.Node) {
		if have == id {
			found = opts
		}
	})
	return found
}

// Full is the recipe with every default and reference filled in, as YAML that
// runs to the same hash, and the list of what it did not say itself. Values
// that only the machine decides (device, threads, limits) are left as given.
func (r *Recipe) Full() (string, []schema.Default, error) {
	jobs, err := r.Resolve()
	if err != nil {
		return "", nil, err
	}
	w := &schema.Full{Given: r.given, Answers: map[string]schema.Answer{}, Name: r.keyOf}
	form := reflect.New(r.kinds.form()).Elem()
	for _, f := range reflect.VisibleFields(form.Type()) {
		if f.Name != "Stages" {
			form.FieldByIndex(f.Index).Set(reflect.ValueOf(r).Elem().FieldByName(f.Name))
		}
	}
	stages := form.FieldByName("Stages")
	stages.Set(reflect.MakeSlice(stages.Type(), len(jobs), len(jobs)))
	for i, j := range jobs {
		for _, in := range j.Inputs {
			if strings.HasSuffix(in.Name, "]") {
				continue // one of a list answers no key
			}
			w.Answers[fmt.Sprintf("stages[%d].%s.%s", i, j.Kind.Name, in.Name)] = schema.Answer{Value: in.Ref.String(), Why: in.Ref.Why}
		}
		o := j.Options
		if j.Kind.Full != nil {
			o = j.Kind.Full(j)
		}
		stages.Index(i).Field(0).SetString(j.ID)
		stages.Index(i).Field(1 + slices.Index(r.kinds, j.Kind)).Set(reflect.ValueOf(o))
	}
	text, err := w.YAML(form)
	return text, w.Defaults, err
}

// keyOf is a path as people write it: by the stage's id.
func (r *Recipe) keyOf(path string) string {
	var i int
	if n, _ := fmt.Sscanf(path, "stages[%d]", &i); n == 1 && i < len(r.Stages) {
		parts := strings.SplitN(path, ".", 3)
		return r.Stages[i].ID + "." + parts[len(parts)-1]
	}
	return path
}
