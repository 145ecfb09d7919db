package schema

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Default is a value that was left open.
type Default struct {
	Key   string `json:"key"` // as people write it: train.lora.r
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Answer is what a reference was resolved to, and why.
type Answer struct{ Value, Why string }

// Full writes a struct with every value filled in, and says where each that was
// not given came from.
type Full struct {
	Given    map[string]string        // paths that were written, and where
	Answers  map[string]Answer        // paths that references answer
	Name     func(path string) string // a path as people write it
	Defaults []Default                // filled by YAML

	whole bool // what is written was given, or not, as a whole
}

// YAML is v, a struct, as text that reads to the same values.
func (w *Full) YAML(v reflect.Value) (string, error) {
	root, err := w.encode(v, "")
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return "", err
	}
	return b.String(), e.Close()
}

// encode turns a struct into a mapping, in the order of its fields.
func (w *Full) encode(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		at := Join(path, name)
		val, err := w.value(v.FieldByIndex(f.Index), at, f.Tag)
		if err != nil {
			return nil, err
		}
		if val == nil {
			continue
		}
		if why := w.why(at, f.Tag, val.Value); why != "" && val.Kind == yaml.ScalarNode {
			val.LineComment = why
			w.Defaults = append(w.Defaults, Default{w.Name(at), val.Value, why})
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, val)
	}
	if len(n.Content) == 0 {
		return nil, nil
	}
	return n, nil
}

// why says where a value came from, "" for one that the recipe gives.
func (w *Full) why(path string, tag reflect.StructTag, value string) string {
	if w.whole {
		return ""
	}
	if from, given := w.Given[path]; given {
		if strings.HasPrefix(from, "--set") {
			return from
		}
		return ""
	}
	if a, ok := w.Answers[path]; ok {
		return a.Why
	}
	if d := defaultWords(tag); d != "" && d != "required" && !sameValue(d, value) {
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
func (w *Full) value(v reflect.Value, path string, tag reflect.StructTag) (*yaml.Node, error) {
	if a, ok := w.Answers[path]; ok {
		return scalar("!!str", a.Value), nil
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
		if _, ok := v.Addr().Interface().(Setter); ok { // given as a whole or not
			return (&Full{whole: true}).encode(v, path)
		}
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

func (w *Full) list(v reflect.Value, path string, tag reflect.StructTag) (*yaml.Node, error) {
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

func (w *Full) mapping(v reflect.Value, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := map[string]reflect.Value{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = v.MapIndex(k)
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		val := reflect.New(keys[k].Type()).Elem()
		val.Set(keys[k])
		e, err := w.value(val, Join(path, k), "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			n.Content = append(n.Content, scalar("!!str", k), e)
		}
	}
	return n, nil
}
