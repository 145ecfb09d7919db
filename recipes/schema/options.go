package schema

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// An options struct says all that is to say of one key in its tags: default is
// the value of a key that is not given, as YAML; unset says in words what stands
// for it where the value depends on others, or reads better so. The zero value of
// a field means "not given"; where zero is a value of its own, the field is a
// pointer.

// Fill gives every field of the struct at ptr that is not given the default of
// its tag. Structs in it are left alone, embedded ones are not.
func Fill(ptr any) {
	v := reflect.ValueOf(ptr).Elem()
	for name, f := range Fields(v.Type()) {
		text, ok := f.Tag.Lookup("default")
		to := v.FieldByIndex(f.Index)
		if !ok || !to.IsZero() {
			continue
		}
		if err := setText(to, text, name, f.Tag); err != nil {
			panic(fmt.Sprintf("schema: default of %v.%s: %v", v.Type(), f.Name, err))
		}
	}
}

// setText reads a value as YAML.
func setText(to reflect.Value, text, name string, tag reflect.StructTag) error {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return err
	}
	d := Decoder{}
	d.decode(doc.Content[0], to, name, tag)
	if len(d.Problems) > 0 {
		return fmt.Errorf("%s", d.Problems[0].Msg)
	}
	return nil
}

// Check refuses the first value of the struct at ptr that its tag does not
// allow; place is where messages find it. It is for values that did not come
// through a Decoder, which checks what it reads.
func Check(place string, ptr any) error {
	v := reflect.ValueOf(ptr).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" || v.FieldByIndex(f.Index).IsZero() {
			continue
		}
		x := reflect.Indirect(v.FieldByIndex(f.Index))
		msg, hint := "", ""
		switch x.Kind() {
		case reflect.String:
			msg, hint = enumProblem(x.String(), x.Type(), f.Tag)
		case reflect.Int, reflect.Int64:
			msg = rangeProblem(fmt.Sprint(x.Int()), float64(x.Int()), f.Tag)
		case reflect.Float64:
			msg = rangeProblem(fmt.Sprint(x.Float()), x.Float(), f.Tag)
		}
		if msg != "" {
			return fail.Usagef(place+"."+name, hint, "%s", msg)
		}
	}
	return nil
}

// Enum is a type whose words are those of a table, not of a tag.
type Enum interface{ Enum() []string }

// enumOf lists the words that a field may have; nil: any.
func enumOf(t reflect.Type, tag reflect.StructTag) []string {
	if e := tag.Get("enum"); e != "" {
		return strings.Split(e, "|")
	}
	if e, ok := reflect.Zero(t).Interface().(Enum); ok {
		return e.Enum()
	}
	return nil
}

// enumProblem says what is wrong with a word that a field may not have.
func enumProblem(word string, t reflect.Type, tag reflect.StructTag) (msg, hint string) {
	names := enumOf(t, tag)
	if names == nil || slices.Contains(names, word) {
		return "", ""
	}
	hint = fail.Near(word, names, "known: "+strings.Join(names, ", "))
	if ours := foreignWords[strings.ToLower(word)]; slices.Contains(names, ours) {
		hint = "here it is " + ours + ". known: " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("found %q", word), hint
}

// interval is a tag's range: [lo,hi], with a round bracket where the end itself
// is not allowed.
type interval struct {
	lo, hi         string // as written
	low, high      float64
	above, belowHi bool // lo, hi themselves are not allowed
}

// rangeOf reads the range of a tag.
func rangeOf(tag reflect.StructTag) (in interval, ok bool) {
	r := tag.Get("range")
	if r == "" {
		return in, false
	}
	in.lo, in.hi, ok = strings.Cut(strings.Trim(r, "[]()"), ",")
	var err, err2 error
	in.low, err = strconv.ParseFloat(in.lo, 64)
	in.high, err2 = strconv.ParseFloat(in.hi, 64)
	if !ok || err != nil || err2 != nil {
		panic("schema: range " + r)
	}
	in.above, in.belowHi = r[0] == '(', r[len(r)-1] == ')'
	return in, true
}

// rangeProblem says what is wrong with a number outside of the tag's range.
func rangeProblem(text string, f float64, tag reflect.StructTag) string {
	in, ok := rangeOf(tag)
	switch {
	case !ok:
		return ""
	case in.above && !(f > in.low):
		return fmt.Sprintf("found %s, want more than %s", text, in.lo)
	case !(f >= in.low):
		return fmt.Sprintf("found %s, want at least %s", text, in.lo)
	case in.belowHi && !(f < in.high):
		return fmt.Sprintf("found %s, want less than %s", text, in.hi)
	case !(f <= in.high):
		return fmt.Sprintf("found %s, want at most %s", text, in.hi)
	}
	return ""
}

// Option is one key of a struct of options, as its tags describe it.
type Option struct {
	Key, Doc string
	Default  string // "" for none
	Unset    string // what an open value stands for, in words
	Enum     []string
	Type     reflect.Type
}

// Has reports whether the struct at ptr has a key.
func Has(ptr any, key string) bool {
	_, ok := Fields(reflect.TypeOf(ptr).Elem())[key]
	return ok
}

// Lookup describes a key of the struct at ptr; it panics for one that is not
// there.
func Lookup(ptr any, key string) Option {
	f, ok := Fields(reflect.TypeOf(ptr).Elem())[key]
	if !ok {
		panic("schema: no key " + key)
	}
	o := Option{Key: key, Doc: f.Tag.Get("doc"), Default: f.Tag.Get("default"), Unset: f.Tag.Get("unset"), Type: f.Type}
	if o.Type.Kind() == reflect.Pointer {
		o.Type = o.Type.Elem()
	}
	o.Enum = enumOf(o.Type, f.Tag)
	return o
}

// Set gives a key of the struct at ptr a value, or the values of a list, as flags
// write them.
func Set(ptr any, key string, texts ...string) error {
	v := reflect.ValueOf(ptr).Elem()
	f := Fields(v.Type())[key]
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, t := range texts {
		item := &yaml.Node{Kind: yaml.ScalarNode, Value: t}
		if f.Type.Kind() == reflect.String {
			item.Style = yaml.DoubleQuotedStyle // "null" is a word here
		}
		n.Content = append(n.Content, item)
	}
	if len(texts) == 1 {
		n = n.Content[0]
	}
	d := Decoder{}
	d.decode(n, v.FieldByIndex(f.Index), key, f.Tag)
	if len(d.Problems) > 0 {
		return fail.Usagef("", d.Problems[0].Hint, "%s", d.Problems[0].Msg)
	}
	return nil
}
