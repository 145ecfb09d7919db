package recipes

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/train"
)

// Schema is the JSON Schema (2020-12) of a recipe, made from the same struct
// tags that decode it. Editors use it for completion.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Recipe](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "tunekit recipe, version 1"
	s["required"] = []string{"version", "stages"}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // only maps, strings and numbers above
	}
	return append(out, '\n')
}

var number = map[string]any{"type": "number"}

func oneOf(kinds ...any) map[string]any { return map[string]any{"anyOf": kinds} }

func text(pattern string) map[string]any {
	return map[string]any{"type": "string", "pattern": pattern}
}

func constant(v any) map[string]any { return map[string]any{"const": v} }

func schemaOf(t reflect.Type, tag reflect.StructTag) map[string]any {
	switch t {
	case reflect.TypeFor[Size]():
		return oneOf(map[string]any{"type": "integer"}, text(`^[0-9.]+ ?([KMGT]i?B?|B)?$`))
	case reflect.TypeFor[Bound]():
		return oneOf(number, text(`^-?[0-9.]+%$`))
	case reflect.TypeFor[Auto]():
		return oneOf(number, constant("auto"), text(`^[0-9.]+%$`))
	case reflect.TypeFor[Names]():
		return oneOf(map[string]any{"type": "string"}, map[string]any{"type": "array", "items": map[string]any{"type": "string"}})
	case reflect.TypeFor[EvalModel]():
		return oneOf(map[string]any{"type": "string"}, structSchema(t))
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return map[string]any{} // several forms; the decoder says which
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), tag)
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		item := schemaOf(t.Elem(), tag)
		return oneOf(map[string]any{"type": "array", "items": item}, item)
	case reflect.Map:
		m := map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), "")}
		if k := tag.Get("keys"); k != "" {
			m["propertyNames"] = map[string]any{"enum": strings.Split(k, "|")}
		}
		return m
	}
	return scalarSchema(t, tag)
}

func scalarSchema(t reflect.Type, tag reflect.StructTag) map[string]any {
	s := map[string]any{}
	switch t.Kind() {
	case reflect.Bool:
		s["type"] = "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		s["type"] = "integer"
	case reflect.Float64:
		s["type"] = "number"
	default:
		s["type"] = "string"
	}
	if e := tag.Get("enum"); e != "" {
		s["enum"] = strings.Split(e, "|")
	}
	if lo, hi, ok := strings.Cut(tag.Get("range"), ".."); ok {
		if f, err := strconv.ParseFloat(lo, 64); err == nil {
			s["minimum"] = f
		}
		if f, err := strconv.ParseFloat(hi, 64); err == nil {
			s["maximum"] = f
		}
	}
	return s
}

func structSchema(t reflect.Type) map[string]any {
	props := map[string]any{}
	var required []string
	for name, f := range fieldsOf(t) {
		p := schemaOf(f.Type, f.Tag)
		doc := f.Tag.Get("doc")
		if d := f.Tag.Get("default"); d != "" {
			doc += " (default: " + d + ")"
		}
		p = map[string]any{"allOf": []any{p}, "description": doc}
		props[name] = p
		if f.Tag.Get("default") == "required" {
			required = append(required, name)
		}
	}
	s := map[string]any{"type": "object", "properties": props, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": map[string]any{}}}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return s
}

// Key documents one key of a recipe.
type Key struct{ Name, Type, Default, Doc string }

// Keys lists the keys of a section in the order they are declared: "" is the
// top level, else a stage kind or a path such as "train.lora". It returns nil
// for an unknown section.
func Keys(section string) []Key {
	t := reflect.TypeFor[Recipe]()
	for part := range strings.SplitSeq(section, ".") {
		if part == "" {
			continue
		}
		f, ok := fieldsOf(t)[part]
		if !ok {
			if f, ok = fieldsOf(reflect.TypeFor[Stage]())[part]; !ok {
				return nil
			}
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
			out = append(out, Key{name, typeName(f), f.Tag.Get("default"), f.Tag.Get("doc")})
		}
	}
	return out
}

// typeNames are the forms of types that read their own YAML.
var typeNames = map[reflect.Type]string{
	reflect.TypeFor[Size]():              "size",
	reflect.TypeFor[Auto]():              "auto or number",
	reflect.TypeFor[Bound]():             "number or percentage",
	reflect.TypeFor[Names]():             "name or list",
	reflect.TypeFor[[]EvalModel]():       "list of names or mappings",
	reflect.TypeFor[train.Every]():       "auto, steps or share",
	reflect.TypeFor[lora.Targets]():      "text or list",
	reflect.TypeFor[lora.Pattern]():      "mapping",
	reflect.TypeFor[lora.TokenIndices](): "list or mapping",
}

func typeName(f reflect.StructField) string {
	if e := f.Tag.Get("enum"); e != "" {
		list := ""
		if f.Type.Kind() == reflect.Slice {
			list = "list of "
		}
		return list + strings.ReplaceAll(e, "|", ", ")
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
		return "true, false"
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
