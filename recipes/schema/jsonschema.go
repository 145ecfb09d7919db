package schema

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// JSON is the JSON Schema (2020-12) of a struct. Editors use it for completion.
func JSON(t reflect.Type, title string, required ...string) []byte {
	s := schemaOf(t, "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = title
	s["required"] = required
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

// OwnSchema is a type that reads its own node and says which forms it takes.
type OwnSchema interface{ JSONSchema() map[string]any }

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
	}
	if own, ok := reflect.Zero(t).Interface().(OwnSchema); ok {
		return own.JSONSchema()
	}
	if t.Kind() == reflect.Struct && reflect.PointerTo(t).Implements(reflect.TypeFor[Setter]()) { // a name stands for the whole
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
	if tag.Get("type") == "rows or share" {
		return oneOf(map[string]any{"type": "number", "minimum": 0}, text(`^[0-9.]+ ?%?$`))
	}
	if words := enumOf(t, tag); words != nil {
		s["enum"] = words
	}
	if in, ok := rangeOf(tag); ok {
		low, high := "minimum", "maximum"
		if in.above {
			low = "exclusiveMinimum"
		}
		if in.belowHi {
			high = "exclusiveMaximum"
		}
		s[low], s[high] = in.low, in.high
	}
	if t.Kind() == reflect.Float64 { // some readers of YAML take 2e-4 for text
		return oneOf(s, text(`^[-+]?[0-9.]+[eE][-+]?[0-9]+$`))
	}
	return s
}

func structSchema(t reflect.Type) map[string]any {
	props := map[string]any{}
	var required []string
	for name, f := range Fields(t) {
		p := schemaOf(f.Type, f.Tag)
		doc := f.Tag.Get("doc")
		if d := defaultWords(f.Tag); d != "" {
			doc += " (default: " + d + ")"
		}
		if f.Tag.Get("unset") == "required" {
			required = append(required, name)
		} else {
			p = oneOf(p, map[string]any{"type": "null"}) // the default
		}
		p = map[string]any{"allOf": []any{p}, "description": doc}
		props[name] = p
	}
	s := map[string]any{"type": "object", "properties": props, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": map[string]any{}}}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return s
}
