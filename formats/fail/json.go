package fail

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// plain is a message without Go's names for the types of JSON: encoding/json says into
// which field of which struct a value does not fit, people ask what was expected of which
// key.
func plain(msg string, err error) string {
	var t *json.UnmarshalTypeError
	if !errors.As(err, &t) {
		return msg
	}
	found := t.Value
	if number, ok := strings.CutPrefix(found, "number "); ok {
		found = number
	}
	text := fmt.Sprintf("found %s, expected %s", found, Expected(t.Type))
	if key := keyOf(t.Field); key != "" {
		text = key + ": " + text
	}
	return strings.Replace(msg, t.Error(), text, 1)
}

// keyOf is a path of keys without the embedded structs that encoding/json puts into it.
func keyOf(path string) string {
	var out []string
	for _, p := range strings.Split(path, ".") {
		if p != "" && !unicode.IsUpper(rune(p[0])) {
			out = append(out, p)
		}
	}
	return strings.Join(out, ".")
}

// Expected says what JSON a Go type is read from.
func Expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return Expected(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	if t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64 {
		return "a whole number from 0"
	}
	return "a whole number"
}
