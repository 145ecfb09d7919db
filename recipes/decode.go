package recipes

import (
	"fmt"
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

// Problem is one thing wrong with a recipe.
type Problem struct {
	Place     string // file, or "--set #2"
	Line, Col int
	Path      string // e.g. "train.lora"
	Msg, Hint string
	Source    string // the line of text, for the caret
}

// Problems is every problem of a recipe at once. It is a usage error.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	for i, x := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s", x.where())
		if x.Path != "" {
			fmt.Fprintf(&b, ": %s", x.Path)
		}
		fmt.Fprintf(&b, ": %s", x.Msg)
		if x.Source != "" {
			fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", x.Line, x.Source, caretPad(x.Source, x.Col))
		}
		if x.Hint != "" {
			fmt.Fprintf(&b, "\nhint: %s", x.Hint)
		}
	}
	return b.String()
}

func (x Problem) where() string {
	if x.Line == 0 {
		return x.Place
	}
	return fmt.Sprintf("%s:%d:%d", x.Place, x.Line, x.Col)
}

// caretPad repeats tabs so that the caret stands under its column.
func caretPad(line string, col int) string {
	var b strings.Builder
	for i, r := range []rune(line) {
		if i >= col-1 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Unwrap makes the problems a usage error (exit 2).
func (p Problems) Unwrap() error {
	return &fail.Error{Kind: fail.Usage, Msg: fmt.Sprintf("%d problems", len(p))}
}

// decoder turns a YAML tree into structs, collecting every problem. Struct
// fields carry the tags yaml (name), doc, default, enum ("a|b") and range
// ("lo..hi"); the same tags make the schema and the help text.
type decoder struct {
	place    string
	lines    []string
	placeOf  map[*yaml.Node]string // nodes that came from --set
	given    map[string]string     // paths of the keys that were written, and where
	problems Problems
}

// setter lets a type read its own node.
type setter interface{ setYAML(n *yaml.Node) error }

func (d *decoder) bad(n *yaml.Node, path, hint, format string, args ...any) {
	if i := strings.Index(path, "]."); i > 0 && strings.HasPrefix(path, "stages[") {
		path = path[i+2:] // the kind says enough
	}
	p := Problem{Place: d.place, Line: n.Line, Col: n.Column, Path: path, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if from, ok := d.placeOf[n]; ok {
		p.Place, p.Line, p.Col = from, 0, 0
	} else if n.Line >= 1 && n.Line <= len(d.lines) {
		p.Source = d.lines[n.Line-1]
	}
	d.problems = append(d.problems, p)
}

func deref(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// pairs lists a mapping's keys and values, merge keys (<<) expanded: later
// and explicit keys win.
func (d *decoder) pairs(n *yaml.Node, path string) (keys, vals []*yaml.Node) {
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
				d.bad(k, path, "remove one", "key %s is given twice", k.Value)
			}
			add(k, n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		v := deref(n.Content[i+1])
		from := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			from = v.Content
		}
		for _, m := range from {
			if m = deref(m); m.Kind == yaml.MappingNode && m != n {
				ks, vs := d.pairs(m, path)
				for j := range ks {
					add(ks[j], vs[j])
				}
			}
		}
	}
	return keys, vals
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 &&
		(n.Value == "" || n.Value == "null" || n.Value == "~")
}

// decode fills v from n. null leaves the default.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	n = deref(n)
	if isNull(n) {
		return
	}
	if s, ok := v.Addr().Interface().(setter); ok {
		if err := s.setYAML(n); err != nil {
			d.bad(n, path, "", "%v", err)
		}
		return
	}
	if u, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		if err := u.UnmarshalYAML(n); err != nil {
			d.bad(n, path, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		d.checkEnum(n, path, tag)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(n, v.Elem(), path, tag)
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

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.bad(n, path, "", "found %s, want a mapping of keys", describe(n))
		return
	}
	fields := fieldsOf(v.Type())
	keys, vals := d.pairs(n, path)
	for i, k := range keys {
		f, ok := fields[k.Value]
		if !ok {
			if strings.HasPrefix(k.Value, "x-") {
				continue
			}
			d.unknown(k, path, fields)
			continue
		}
		if d.given != nil && !isNull(deref(vals[i])) {
			from, ok := d.placeOf[deref(vals[i])]
			if !ok {
				from = d.place
			}
			d.given[join(path, k.Value)] = from
		}
		d.decode(vals[i], v.FieldByIndex(f.Index), join(path, k.Value), f.Tag)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) unknown(k *yaml.Node, path string, fields map[string]reflect.StructField) {
	if h, ok := foreign[k.Value]; ok {
		d.bad(k, path, h.hint, "unknown key %s (%s)", k.Value, h.tool)
		return
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	hint := "known keys: " + strings.Join(names, ", ")
	if near := fail.Nearest(k.Value, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	d.bad(k, path, hint, "unknown key %s", k.Value)
}

// fieldsOf maps YAML names to fields; embedded structs are flattened.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	m := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			m[name] = f
		}
	}
	return m
}

func (d *decoder) decodeMap(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.MappingNode {
		d.bad(n, path, "", "found %s, want a mapping", describe(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	keys, vals := d.pairs(n, path)
	for i, k := range keys {
		if allowed := tag.Get("keys"); allowed != "" && !slices.Contains(strings.Split(allowed, "|"), k.Value) {
			d.bad(k, path, "known: "+strings.ReplaceAll(allowed, "|", ", "), "unknown name %s", k.Value)
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(vals[i], e, join(path, k.Value), "")
		m.SetMapIndex(reflect.ValueOf(k.Value), e)
	}
	v.Set(m)
}

func (d *decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
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

func (d *decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.ScalarNode {
		d.bad(n, path, "", "found %s, want %s", describe(n), wants(v.Kind()))
		return
	}
	wrong := func() { d.bad(n, path, "", "found %s, want %s", describe(n), wants(v.Kind())) }
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
		d.checkEnum(n, path, tag)
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
		panic("recipes: field of type " + v.Type().String())
	}
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

func (d *decoder) checkEnum(n *yaml.Node, path string, tag reflect.StructTag) {
	allowed := tag.Get("enum")
	if allowed == "" {
		return
	}
	names := strings.Split(allowed, "|")
	if slices.Contains(names, n.Value) {
		return
	}
	hint := "known: " + strings.Join(names, ", ")
	if near := fail.Nearest(n.Value, names); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	d.bad(n, path, hint, "found %q", n.Value)
}

func (d *decoder) checkRange(n *yaml.Node, path string, tag reflect.StructTag, f float64) {
	r := tag.Get("range")
	if r == "" {
		return
	}
	lo, hi, _ := strings.Cut(r, "..")
	if l, err := strconv.ParseFloat(lo, 64); err == nil && f < l {
		d.bad(n, path, "", "found %s, want at least %s", n.Value, lo)
	} else if h, err := strconv.ParseFloat(hi, 64); err == nil && f > h {
		d.bad(n, path, "", "found %s, want at most %s", n.Value, hi)
	}
}
