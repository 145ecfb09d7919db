package schema

import (
	"reflect"
	"strings"
)

// Key documents one key of a recipe.
type Key struct {
	Name, Type, Default, Doc string
	Words                    []string // what it can be, or its elements; nil: more than a list says
}

// Keys lists the keys of a struct in the order they are declared, or those of a
// section of it, a path such as "lora". It returns nil for an unknown section.
func Keys(t reflect.Type, section string) []Key {
	for part := range strings.SplitSeq(section, ".") {
		if part == "" {
			continue
		}
		f, ok := Fields(t)[part]
		if !ok {
			return nil
		}
		t = f.Type
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
	}
	var out []Key
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			words := enumOf(f.Type, f.Tag)
			if words == nil && typeName(f) == boolWords {
				words = []string{"true", "false"}
			}
			out = append(out, Key{name, typeName(f), defaultWords(f.Tag), f.Tag.Get("doc"), words})
		}
	}
	return out
}

// Sections lists the sections of a struct that Keys knows, in order: "lora",
// "lora.x".
func Sections(t reflect.Type) []string {
	var out []string
	for _, k := range Keys(t, "") {
		if Keys(t, k.Name) == nil {
			continue
		}
		out = append(out, k.Name)
		f := Fields(t)[k.Name].Type
		for f.Kind() == reflect.Pointer || f.Kind() == reflect.Slice || f.Kind() == reflect.Map {
			f = f.Elem()
		}
		for _, below := range Sections(f) {
			out = append(out, k.Name+"."+below)
		}
	}
	return out
}

const boolWords = "true, false"

// typeNames are the forms of this package's own types; others say theirs in the
// tag type.
var typeNames = map[reflect.Type]string{
	reflect.TypeFor[Size]():  "size",
	reflect.TypeFor[Auto]():  "auto or number",
	reflect.TypeFor[Bound](): "number or percentage",
	reflect.TypeFor[Names](): "name or list",
}

func typeName(f reflect.StructField) string {
	if words := enumOf(f.Type, f.Tag); words != nil {
		list := ""
		if f.Type.Kind() == reflect.Slice {
			list = "list of "
		}
		return list + strings.Join(words, ", ")
	}
	if name := f.Tag.Get("type"); name != "" {
		return name
	}
	t := f.Type
	if name, ok := typeNames[t]; ok {
		return name
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return boolWords
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "int"
	case reflect.Float64:
		return "float"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct:
		return "mapping"
	}
	return "text"
}

// defaultWords is how a default is documented.
func defaultWords(tag reflect.StructTag) string {
	if words := tag.Get("unset"); words != "" {
		return words
	}
	return tag.Get("default")
}
