// Package schema reads and writes YAML by the tags of Go structs, and documents
// them: yaml (the key), doc, default, enum ("a|b"), range ("lo..hi"), keys (of a
// map) and type (what the documentation calls a type that reads its own form).
// Every problem of a text is found at once, each with its line and a caret.
package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// Decoder turns a YAML tree into structs, collecting every problem.
type Decoder struct {
	Problems Problems
	Given    map[string]string   // paths of the keys that were written, and where
	Homes    map[string][]string // by key, the sections that have it, for those written elsewhere

	place   string
	lines   []string
	placeOf map[*yaml.Node]string // nodes that came from elsewhere than the text
	open    []*yaml.Node          // mappings whose merge keys are being expanded
	merged  int                   // keys that came in by merge keys
}

// Top is the name of the top level among the sections that have a key.
const Top = "the recipe itself"

// maxHomes is how many sections a hint names as those that have a key.
const maxHomes = 3

// maxMerged keeps a few lines of merge keys from standing for any number of keys.
const maxMerged = 100_000

// Setter is a type that reads its own node, because it has several forms.
type Setter interface{ SetYAML(n *yaml.Node) error }

// Read parses a text; name is the place that messages show. Only what is not
// YAML, or nothing, is an error here.
func Read(name string, text []byte) (*Decoder, *yaml.Node, error) {
	var doc, more yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(text))
	if err := documents.Decode(&doc); err != nil && err != io.EOF {
		return nil, nil, notYAML(name, text, err)
	}
	if err := documents.Decode(&more); err == nil {
		return nil, nil, fail.Usagef(fmt.Sprintf("%s:%d", name, more.Line), "make it a file of its own", "a second document begins here; a recipe is one")
	} else if err != io.EOF {
		return nil, nil, notYAML(name, text, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil, fail.Usagef(name, "a recipe begins with version: 1", "the recipe is empty")
	}
	d := &Decoder{place: name, lines: strings.Split(string(text), "\n"), placeOf: map[*yaml.Node]string{}, Given: map[string]string{}}
	return d, Deref(doc.Content[0]), nil
}

// notYAML is the parser's error with the line it concerns.
func notYAML(name string, text []byte, err error) error {
	var load *yaml.LoadError
	if !errors.As(err, &load) || load.Mark.Line == 0 {
		return fail.Usagef(name, "", "not YAML: %w", err)
	}
	p := Problem{Place: name, Line: load.Mark.Line, Col: max(load.Mark.Column, 1), Msg: "not YAML: " + load.Message}
	if load.ContextMsg != "" {
		p.Msg += " (" + load.ContextMsg + ")"
	}
	if lines := strings.Split(string(text), "\n"); p.Line <= len(lines) {
		p.Source = lines[p.Line-1]
	}
	if at := strings.IndexByte(p.Source, '\t'); at >= 0 && strings.Trim(p.Source[:at], " ") == "" {
		p.Col, p.Msg, p.Hint = at+1, "not YAML: a tab in the indentation", "YAML allows no tabs there: use spaces"
	}
	if strings.Contains(load.Message, "mapping values are not allowed") {
		p.Hint = `a text with ": " in it stands in quotes; a key stands below the one before it, not behind its value`
	}
	return Problems{p}
}

// DecodeNode fills the struct at ptr from one node, without a text to point at;
// it returns the first problem.
func DecodeNode(n *yaml.Node, ptr any) error {
	d := Decoder{}
	d.Decode(n, reflect.ValueOf(ptr).Elem())
	if len(d.Problems) > 0 {
		return fmt.Errorf("%s", d.Problems[0].Msg)
	}
	return nil
}

// DecodeWhole is DecodeNode with every problem, as Problems that a Setter may return.
func DecodeWhole(n *yaml.Node, ptr any) error {
	d := Decoder{}
	d.Decode(n, reflect.ValueOf(ptr).Elem())
	if len(d.Problems) > 0 {
		return d.Problems
	}
	return nil
}

// Decode fills the struct v from a mapping.
func (d *Decoder) Decode(n *yaml.Node, v reflect.Value) { d.decodeStruct(n, v, "") }

// Bad notes a problem at a node.
func (d *Decoder) Bad(n *yaml.Node, path, hint, format string, args ...any) {
	d.adopt(path, Problems{{node: n, Line: n.Line, Col: n.Column, Msg: fmt.Sprintf(format, args...), Hint: hint}})
}

// adopt notes problems of path, or of keys below it.
func (d *Decoder) adopt(path string, all Problems) {
	if i := strings.Index(path, "]."); i > 0 && strings.HasPrefix(path, "stages[") {
		path = path[i+2:] // the kind says enough
	}
	for _, p := range all {
		p.Place, p.Path = d.place, Join(path, p.Path)
		if from, ok := d.placeOf[p.node]; ok {
			p.Place, p.Line, p.Col = from, 0, 0
		} else if p.Line >= 1 && p.Line <= len(d.lines) {
			p.Source = d.lines[p.Line-1]
		}
		d.Problems = append(d.Problems, p)
	}
}

// Deref follows aliases.
func Deref(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// Pairs lists a mapping's keys and values, merge keys (<<) expanded: later
// and explicit keys win.
func (d *Decoder) Pairs(n *yaml.Node, path string) (keys, vals []*yaml.Node) {
	seen := map[string]bool{}
	add := func(k, v *yaml.Node) {
		if !seen[k.Value] {
			seen[k.Value] = true
			keys, vals = append(keys, k), append(vals, v)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Value != "<<" {
			if seen[k.Value] {
				d.Bad(k, path, "remove one", "key %s is given twice", k.Value)
			}
			add(k, n.Content[i+1])
		}
	}
	if slices.Contains(d.open, n) {
		d.Bad(n, path, "take the << out of it, or what it names", "a mapping merges itself")
		return keys, vals
	}
	d.open = append(d.open, n)
	defer func() { d.open = d.open[:len(d.open)-1] }()
	for i := 0; i+1 < len(n.Content) && d.merged <= maxMerged; i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		v := Deref(n.Content[i+1])
		from := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			from = v.Content
		}
		for _, m := range from {
			if m = Deref(m); m.Kind == yaml.MappingNode && d.merged <= maxMerged {
				ks, vs := d.Pairs(m, path)
				if d.merged > maxMerged {
					break // said already
				}
				if d.merged += len(m.Content)/2 + 1; d.merged > maxMerged {
					d.Bad(n, path, "name each mapping once in <<", "its merge keys stand for more than %d keys", maxMerged)
					break
				}
				for j := range ks {
					add(ks[j], vs[j])
				}
			}
		}
	}
	return keys, vals
}

// IsNull reports a node that leaves the default.
func IsNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 &&
		(n.Value == "" || n.Value == "null" || n.Value == "~")
}

// decode fills v from n. null leaves the default.
func (d *Decoder) decode(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	n = Deref(n)
	if IsNull(n) {
		return
	}
	if s, ok := v.Addr().Interface().(Setter); ok {
		err, all := s.SetYAML(n), Problems(nil)
		if errors.As(err, &all) {
			d.adopt(path, all)
		} else if err != nil {
			d.Bad(n, path, "", "%v", err)
		}
		return
	}
	if u, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		if err := u.UnmarshalYAML(n); err != nil {
			d.Bad(n, path, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		} else {
			d.checkEnum(n, path, v.Type(), tag)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		bad := len(d.Problems)
		to := v
		if v.IsNil() {
			to = reflect.New(v.Type().Elem())
		}
		d.decode(n, to.Elem(), path, tag)
		if len(d.Problems) == bad || to.Elem().Kind() == reflect.Struct { // a number that was none stays unset: one problem, not two
			v.Set(to)
		}
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Map:
		d.decodeMap(n, v, path, tag)
	case reflect.Slice:
		d.decodeSlice(n, v, path, tag)
	default:
		d.decodeScalar(n, v, path, tag)
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(n.Value)
}

func (d *Decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.Bad(n, path, "", "found %s, want a mapping of keys", describe(n))
		return
	}
	fields := Fields(v.Type())
	keys, vals := d.Pairs(n, path)
	for i, k := range keys {
		f, ok := fields[k.Value]
		if !ok {
			if strings.HasPrefix(k.Value, "x-") {
				continue
			}
			d.unknown(k, path, fields)
			continue
		}
		if d.Given != nil && !IsNull(Deref(vals[i])) {
			from, ok := d.placeOf[Deref(vals[i])]
			if !ok {
				from = d.place
			}
			d.Given[Join(path, k.Value)] = from
		}
		d.decode(vals[i], v.FieldByIndex(f.Index), Join(path, k.Value), f.Tag)
	}
}

// Join is the path of a key below another.
func Join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}

func (d *Decoder) unknown(k *yaml.Node, path string, fields map[string]reflect.StructField) {
	if tool, hint, ok := Foreign(k.Value); ok {
		if key, _, _ := strings.Cut(strings.TrimPrefix(hint, "here it is "), ":"); fields[key].Name == "" {
			hint = d.withHome(hint)
		}
		d.Bad(k, path, hint, "unknown key %s (%s)", k.Value, tool)
		return
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	hint := "known keys: " + strings.Join(names, ", ")
	if homes := d.Homes[k.Value]; len(homes) > 0 && len(homes) <= maxHomes {
		hint = "it is a key of " + strings.Join(homes, ", ")
	} else if near := fail.Nearest(k.Value, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	d.Bad(k, path, hint, "unknown key %s", k.Value)
}

// Fields maps YAML names to fields; embedded structs are flattened.
func Fields(t reflect.Type) map[string]reflect.StructField {
	m := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			m[name] = f
		}
	}
	return m
}

func (d *Decoder) decodeMap(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.MappingNode {
		d.Bad(n, path, "", "found %s, want a mapping", describe(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	keys, vals := d.Pairs(n, path)
	for i, k := range keys {
		if allowed := tag.Get("keys"); allowed != "" && !slices.Contains(strings.Split(allowed, "|"), k.Value) {
			d.Bad(k, path, "known: "+strings.ReplaceAll(allowed, "|", ", "), "unknown name %s", k.Value)
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(vals[i], e, Join(path, k.Value), "")
		m.SetMapIndex(reflect.ValueOf(k.Value), e)
	}
	v.Set(m)
}

func (d *Decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	items := n.Content
	if n.Kind == yaml.ScalarNode || n.Kind == yaml.MappingNode { // one value stands for a list of one
		items = []*yaml.Node{n}
	}
	s := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, it := range items {
		d.decode(it, s.Index(i), fmt.Sprintf("%s[%d]", path, i), tag)
	}
	v.Set(s)
}

var (
	intRE   = regexp.MustCompile(`^[-+]?[0-9]+$`)
	floatRE = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
)

func quoted(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0
}

func (d *Decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.ScalarNode {
		d.Bad(n, path, "", "found %s, want %s", describe(n), wants(v.Kind()))
		return
	}
	wrong := func() { d.Bad(n, path, spelling(n, v.Kind()), "found %s, want %s", describe(n), wants(v.Kind())) }
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
		d.checkEnum(n, path, v.Type(), tag)
	case reflect.Bool:
		if (n.Value != "true" && n.Value != "false") || quoted(n) {
			wrong()
			return
		}
		v.SetBool(n.Value == "true")
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(strings.TrimPrefix(n.Value, "+"), 10, 64)
		if err != nil || !intRE.MatchString(n.Value) || quoted(n) {
			wrong()
			return
		}
		v.SetInt(i)
		d.checkRange(n, path, tag, float64(i))
	case reflect.Uint64:
		u, err := strconv.ParseUint(n.Value, 10, 64)
		if err != nil || quoted(n) {
			wrong()
			return
		}
		v.SetUint(u)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || !floatRE.MatchString(n.Value) || quoted(n) || math.IsInf(f, 0) {
			wrong()
			return
		}
		v.SetFloat(f)
		d.checkRange(n, path, tag, f)
	default:
		panic("schema: field of type " + v.Type().String())
	}
}

// spelling is a hint for what means the right thing and is written as in another
// version of YAML, or as text.
func spelling(n *yaml.Node, k reflect.Kind) string {
	switch {
	case k == reflect.Bool && strings.EqualFold(n.Value, "yes"), k == reflect.Bool && strings.EqualFold(n.Value, "on"), k == reflect.Bool && n.Value == "True":
		return "write true"
	case k == reflect.Bool && strings.EqualFold(n.Value, "no"), k == reflect.Bool && strings.EqualFold(n.Value, "off"), k == reflect.Bool && n.Value == "False":
		return "write false"
	case quoted(n) && k == reflect.Bool && (n.Value == "true" || n.Value == "false"), quoted(n) && k != reflect.Bool && floatRE.MatchString(n.Value):
		return "without the quotes it is one"
	}
	return ""
}

func wants(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}

func (d *Decoder) checkEnum(n *yaml.Node, path string, t reflect.Type, tag reflect.StructTag) {
	if msg, hint := enumProblem(n.Value, t, tag); msg != "" {
		d.Bad(n, path, hint, "%s", msg)
	}
}

func (d *Decoder) checkRange(n *yaml.Node, path string, tag reflect.StructTag, f float64) {
	if msg := rangeProblem(n.Value, f, tag); msg != "" {
		d.Bad(n, path, "", "%s", msg)
	}
}

// Mark says that a node and what is below it came from place.
func (d *Decoder) Mark(n *yaml.Node, place string) {
	d.placeOf[n] = place
	for _, c := range n.Content {
		d.Mark(c, place)
	}
}

// Child finds or makes the mapping at key.
func (d *Decoder) Child(n *yaml.Node, key, place string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return Deref(n.Content[i+1])
		}
	}
	v := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	d.Put(n, key, v, place)
	return v
}

// Put writes key: v into a mapping.
func (d *Decoder) Put(n *yaml.Node, key string, v *yaml.Node, place string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = v
			return
		}
	}
	k := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}
	d.Mark(k, place)
	d.placeOf[v] = place
	n.Content = append(n.Content, k, v)
}
