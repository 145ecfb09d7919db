package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestOddConfigs: whatever stands under a key of a config, what is made of it is a
// Spec that can be used, or an error.
func TestOddConfigs(t *testing.T) {
	paths, err := filepath.Glob(testdir.Shared(t, "golden/arch") + "/*/config.json")
	if err != nil {
		t.Fatal(err)
	}
	odd := []string{"null", "0", "-1", "1", "1e9", `"x"`, "[]", "{}"}
	n := 0
	for _, path := range paths {
		data := testdir.ReadFile(t, path)
		c, err := parseConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		classes, _ := get[[]string](c, "architectures")
		a := byHF(classes[0], "")
		if a == nil {
			continue
		}
		n++
		for key, value := range c.raw {
			var inner map[string]json.RawMessage
			_ = json.Unmarshal(value, &inner)
			for _, v := range odd {
				tryConfig(t, a, fmt.Sprintf("%s: %s = %s", path, key, v), with(c.raw, key, v))
				for k := range inner {
					raw, err := json.Marshal(with(inner, k, v))
					if err != nil {
						t.Fatal(err)
					}
					tryConfig(t, a, fmt.Sprintf("%s: %s.%s = %s", path, key, k, v), with(c.raw, key, string(raw)))
				}
			}
		}
	}
	if n < 70 {
		t.Errorf("%d configs are of known architectures", n)
	}
}

// TestUsedKeysAreRead: where another valid value of a key makes another model, a value
// of another type is an error, not a value that goes unnoticed.
func TestUsedKeysAreRead(t *testing.T) {
	paths, err := filepath.Glob(testdir.Shared(t, "golden/arch") + "/*/config.json")
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, path := range paths {
		c, err := parseConfig(testdir.ReadFile(t, path))
		if err != nil {
			t.Fatal(err)
		}
		classes, _ := get[[]string](c, "architectures")
		a := byHF(classes[0], "")
		if a == nil {
			continue
		}
		spec := func(raw map[string]json.RawMessage) (Spec, error) {
			s, err := a.Spec(&Config{raw: maps.Clone(raw)})
			if err == nil {
				err = s.check()
			}
			return s, err
		}
		plain, err := spec(c.raw)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		try := func(key string, value json.RawMessage, change func(v string) map[string]json.RawMessage) {
			valid, wrong := []string{}, `"x"`
			var number float64
			switch {
			case string(value) == "true":
				valid = []string{"false"}
			case string(value) == "false":
				valid = []string{"true"}
			case json.Unmarshal(value, &number) == nil && string(value) != "null":
				valid = []string{fmt.Sprint(number + 1), fmt.Sprint(number * 2), fmt.Sprint(number / 2)}
			case len(value) > 0 && value[0] == '"':
				valid = []string{`"gelu"`, `"relu"`, `"silu"`, `"linear"`, `"sigmoid"`, `"softmax"`}
			}
			for _, v := range valid {
				other, err := spec(change(v))
				if err != nil || reflect.DeepEqual(other, plain) {
					continue
				}
				used++
				if _, err := spec(change(wrong)); err == nil {
					t.Errorf("%s: %s is used (%s makes another model than %s), and %s is accepted", path, key, v, value, wrong)
				}
				return
			}
		}
		for key, value := range c.raw {
			if key == "transformers_version" { // any text: tied T5 are told apart by it
				continue
			}
			try(key, value, func(v string) map[string]json.RawMessage { return with(c.raw, key, v) })
			var inner map[string]json.RawMessage
			_ = json.Unmarshal(value, &inner)
			for k, value := range inner {
				try(key+"."+k, value, func(v string) map[string]json.RawMessage {
					raw, err := json.Marshal(with(inner, k, v))
					if err != nil {
						t.Fatal(err)
					}
					return with(c.raw, key, string(raw))
				})
			}
		}
	}
	if used < 900 {
		t.Errorf("%d keys are used", used)
	}
}

// with is raw with another value of a key.
func with(raw map[string]json.RawMessage, key, value string) map[string]json.RawMessage {
	out := maps.Clone(raw)
	out[key] = json.RawMessage(value)
	return out
}

// tryConfig makes a Spec and its rules, and keys of a GGUF where it has any.
func tryConfig(t *testing.T, a *Arch, what string, raw map[string]json.RawMessage) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%s: %v", what, r)
		}
	}()
	s, err := a.Spec(&Config{raw: maps.Clone(raw)})
	if err == nil {
		err = s.check()
	}
	if err != nil || len(s.Layers) > 64 {
		return
	}
	for _, r := range s.Ropes {
		r.Angles(10)
	}
	a.Rules(&s)
	_, _ = GGUFKeys(&s, "model", 0, nil)
}

// TestUsedKeysOfGGUF is TestUsedKeysAreRead of the keys that llama.cpp's converter wrote.
func TestUsedKeysOfGGUF(t *testing.T) {
	paths, err := filepath.Glob(testdir.Shared(t, "golden/arch") + "/*/gguf.json")
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, path := range paths {
		var file struct {
			Metadata map[string]struct {
				Type  string
				Value any
			}
			Tensors []struct {
				Name  string
				Shape []int64
			}
		}
		if json.Unmarshal(testdir.ReadFile(t, path), &file) != nil || len(file.Tensors) == 0 {
			continue
		}
		kv, shapes := map[string]any{}, map[string][]int64{}
		for key, v := range file.Metadata {
			kv[key] = v.Value
			if n, ok := v.Value.(float64); ok && v.Type != "FLOAT32" {
				kv[key] = uint32(n)
			} else if ok {
				kv[key] = float32(n)
			}
		}
		for _, x := range file.Tensors {
			shapes[x.Name] = slices.Clone(x.Shape)
			slices.Reverse(shapes[x.Name])
		}
		prefix, _ := kv["general.architecture"].(string)
		spec := func(key string, value any) (Spec, error) {
			m := newMetadata(prefix, nil)
			m.shapes = shapes
			m.kv = maps.Clone(kv)
			m.kv[key] = value
			a := byGGUF(prefix, m)
			if a == nil {
				return Spec{}, ErrUnknown
			}
			s, err := a.GGUFSpec(m)
			if err == nil {
				err = m.refuse(s.Attention())
			}
			if err == nil {
				err = s.check()
			}
			return s, err
		}
		plain, err := spec("", nil)
		if err != nil {
			continue // keys or vectors that this test does not make
		}
		for key, value := range kv {
			n, ok := number(value)
			flag, isFlag := value.(bool)
			var valid []any
			switch _, whole := value.(uint32); {
			case isFlag:
				valid = []any{!flag}
			case ok && whole:
				valid = []any{uint32(n + 1), uint32(n * 2), uint32(n / 2)}
			case ok:
				valid = []any{float32(n + 1), float32(n * 2), float32(n / 2)}
			}
			for _, v := range valid {
				if other, err := spec(key, v); err != nil || reflect.DeepEqual(other, plain) {
					continue
				}
				used++
				for _, wrong := range []any{"x", []string{"x"}} {
					if _, err := spec(key, wrong); err == nil {
						t.Errorf("%s: %s is used (%v makes another model than %v), and %q is accepted", path, key, v, value, wrong)
					}
				}
				break
			}
		}
	}
	if used < 200 {
		t.Errorf("%d keys are used", used)
	}
}
