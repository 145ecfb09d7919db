package recipes

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Default is a value that the recipe left open.
type Default struct {
	Key   string `json:"key"` // stage id and key: train.lora.r
	Value string `json:"value"`
	Why   string `json:"why"`
}

// resolved writes a recipe with every value filled in.
type resolved struct {
	r        *Recipe
	refs     map[string]Ref // path of a key to what it stands for
	defaults []Default
}

// Full is the recipe with every default and reference filled in, as YAML that
// runs to the same hash, and the list of what it did not say itself. Values
// that only the machine decides (device, threads, limits) are left as given.
func (r *Recipe) Full() (string, []Default, error) {
	jobs, err := r.Resolve()
	if err != nil {
		return "", nil, err
	}
	c := *r
	c.Stages = slices.Clone(r.Stages)
	w := &resolved{r: &c, refs: map[string]Ref{}}
	for i, j := range jobs {
		w.references(fmt.Sprintf("stages[%d].%s", i, j.Stage.Kind()), j)
		if e := j.Stage.Eval; e != nil && e.Models == nil {
			o := *e
			o.Models = modelsOf(j)
			c.Stages[i].Eval = &o
		}
	}
	root, err := w.encode(reflect.ValueOf(&c).Elem(), "")
	if err != nil {
		return "", nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return "", nil, err
	}
	return b.String(), w.defaults, e.Close()
}

// references says which keys of a stage the inputs answer.
func (w *resolved) references(path string, j *Job) {
	keys := map[string]string{"model": "model", "data": "data", "tokenizer": "tokenizer", "adapter": "adapter", "calibration": "calibration", "reference": "reference"}
	if j.Stage.Merge != nil {
		delete(keys, "model") // a merge finds its base through the adapter
	}
	for _, in := range j.Inputs {
		if key, ok := keys[in.Name]; ok {
			w.refs[path+"."+key] = in.Ref
		}
	}
}

// modelsOf lists the models of an eval stage that did not say which.
func modelsOf(j *Job) []EvalModel {
	var out []EvalModel
	for _, in := range j.Inputs {
		if name, ok := strings.CutPrefix(in.Name, "models["); ok {
			out = append(out, EvalModel{Name: strings.TrimSuffix(name, "]"), Model: in.Ref.String()})
		}
	}
	return out
}

// encode turns a struct into a mapping, in the order of its fields.
func (w *resolved) encode(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		at := join(path, name)
		val, err := w.value(v.FieldByIndex(f.Index), at, f.Tag)
		if err != nil {
			return nil, err
		}
		if val == nil {
			continue
		}
		if why := w.why(at, f.Tag, val.Value); why != "" && val.Kind == yaml.ScalarNode {
			val.LineComment = why
			w.defaults = append(w.defaults, Default{w.key(at), val.Value, why})
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, val)
	}
	if len(n.Content) == 0 {
		return nil, nil
	}
	return n, nil
}

// key is a path as people write it: by the stage's id.
func (w *resolved) key(path string) string {
	var i int
	if n, _ := fmt.Sscanf(path, "stages[%d]", &i); n == 1 && i < len(w.r.Stages) {
		parts := strings.SplitN(path, ".", 3)
		return w.r.Stages[i].ID + "." + parts[len(parts)-1]
	}
	return path
}

// why says where a value came from, "" for one that the recipe gives.
func (w *resolved) why(path string, tag reflect.StructTag, value string) string {
	if strings.Contains(path, "eval.models[") {
		return "" // the list as a whole is given or not
	}
	if _, given := w.r.given[path]; given {
		if from := w.r.given[path]; strings.HasPrefix(from, "--set") {
			return from
		}
		return ""
	}
	if ref, ok := w.refs[path]; ok {
		return ref.Why
	}
	if d := tag.Get("default"); d != "" && d != "required" && !sameValue(d, value) {
		return "default: " + d
	}
	return "default"
}

// sameValue reports whether a documented default says no more than the value.
func sameValue(doc, value string) bool {
	a, errA := strconv.ParseFloat(doc, 64)
	b, errB := strconv.ParseFloat(value, 64)
	return doc == value || errA == nil && errB == nil && a == b
}

func scalar(tag, v string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v}
}

// value encodes one field; nil leaves it out.
func (w *resolved) value(v reflect.Value, path string, tag reflect.StructTag) (*yaml.Node, error) {
	if ref, ok := w.refs[path]; ok {
		return scalar("!!str", ref.String()), nil
	}
	switch x := v.Interface().(type) {
	case Size:
		if x == 0 {
			return nil, nil
		}
		return scalar("!!str", x.String()), nil
	case Auto:
		return plainNode(x.String()), nil
	case Bound:
		if !x.Set {
			return nil, nil
		}
		return plainNode(x.String()), nil
	case EvalModel:
		return w.encode(v, path)
	case yaml.Marshaler:
		if v.IsZero() {
			return nil, nil
		}
		return asNode(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil, nil
		}
		n, err := w.value(v.Elem(), path, tag)
		if n == nil && err == nil && v.Elem().Kind() == reflect.Struct {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
		} else if n == nil && err == nil {
			n, err = asNode(v.Elem().Interface())
		}
		return n, err
	case reflect.Struct:
		return w.encode(v, path)
	case reflect.Slice:
		return w.list(v, path, tag)
	case reflect.Map:
		if v.Len() == 0 {
			return nil, nil
		}
		return w.mapping(v, path)
	}
	if v.IsZero() && !zeroIsDefault(v, tag.Get("default")) {
		return nil, nil
	}
	return asNode(v.Interface())
}

// zeroIsDefault reports whether the zero value is itself a documented default,
// and not "not given".
func zeroIsDefault(v reflect.Value, def string) bool {
	switch v.Kind() {
	case reflect.Bool:
		return def == "false"
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		f, err := strconv.ParseFloat(def, 64)
		return err == nil && f == 0
	}
	return false
}

func asNode(v any) (*yaml.Node, error) {
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return nil, err
	}
	return &n, nil
}

// plainNode is a word or number without quotes.
func plainNode(s string) *yaml.Node {
	tag := "!!str"
	if floatRE.MatchString(s) {
		tag = "!!float"
		if intRE.MatchString(s) {
			tag = "!!int"
		}
	}
	return scalar(tag, s)
}

func (w *resolved) list(v reflect.Value, path string, tag reflect.StructTag) (*yaml.Node, error) {
	if v.IsNil() {
		return nil, nil
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range v.Len() {
		e, err := w.value(v.Index(i), fmt.Sprintf("%s[%d]", path, i), tag)
		if err != nil {
			return nil, err
		}
		if e == nil {
			if e, err = asNode(v.Index(i).Interface()); err != nil {
				return nil, err
			}
		}
		if e.Kind == yaml.ScalarNode {
			n.Style = yaml.FlowStyle
		}
		n.Content = append(n.Content, e)
	}
	if v.Len() == 0 {
		n.Style = yaml.FlowStyle
	}
	return n, nil
}

func (w *resolved) mapping(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := map[string]reflect.Value{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = v.MapIndex(k)
	}
	for _, k := range sortedKeys(keys) {
		val := reflect.New(keys[k].Type()).Elem()
		val.Set(keys[k])
		e, err := w.value(val, join(path, k), "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			n.Content = append(n.Content, scalar("!!str", k), e)
		}
	}
	return n, nil
}

// String is the size as recipes write it, exactly.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	for _, u := range sizeUnits {
		f := int64(u.factor)
		if f > 1 && strings.HasSuffix(u.suffix, "B") && int64(s)%f == 0 {
			if t := fmt.Sprintf("%d%s", int64(s)/f, u.suffix); len(t) <= len(best) {
				best = t
			}
		}
	}
	return best
}

// String is the form that setYAML reads.
func (a Auto) String() string {
	if !a.Set {
		return "auto"
	}
	return strconv.FormatFloat(a.Value, 'g', -1, 64)
}

// String is the form that setYAML reads.
func (b Bound) String() string {
	if b.Relative {
		return strconv.FormatFloat(b.Value*100, 'g', 12, 64) + "%"
	}
	return strconv.FormatFloat(b.Value, 'g', -1, 64)
}
