package recipes_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// valid checks a value with the keywords that our schema uses; another one is an
// error, so that none is forgotten.
func valid(s map[string]any, v any, at string) error {
	for _, word := range slices.Sorted(maps.Keys(s)) {
		arg := s[word]
		var err error
		switch word {
		case "$schema", "title", "description":
		case "type":
			err = validType(arg, v)
		case "enum":
			if !slices.ContainsFunc(arg.([]any), func(x any) bool { return reflect.DeepEqual(x, v) }) {
				err = fmt.Errorf("%v is none of %v", v, arg)
			}
		case "const":
			if !reflect.DeepEqual(arg, v) {
				err = fmt.Errorf("%v is not %v", v, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				err = fmt.Errorf("%q does not match %v", text, arg)
			}
		case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
			if n, ok := v.(float64); ok {
				limit := arg.(float64)
				if word == "minimum" && n < limit || word == "maximum" && n > limit || word == "exclusiveMinimum" && n <= limit || word == "exclusiveMaximum" && n >= limit {
					err = fmt.Errorf("%v: %s %v", n, word, limit)
				}
			}
		case "allOf":
			for _, x := range arg.([]any) {
				if err == nil {
					err = valid(x.(map[string]any), v, "")
				}
			}
		case "anyOf":
			var all []string
			for _, x := range arg.([]any) {
				e := valid(x.(map[string]any), v, "")
				if e == nil {
					all = nil
					break
				}
				all = append(all, e.Error())
			}
			if all != nil {
				err = fmt.Errorf("none of: %s", strings.Join(all, "; "))
			}
		case "items":
			list, _ := v.([]any)
			for i, x := range list {
				if err == nil {
					err = valid(arg.(map[string]any), x, fmt.Sprintf("[%d]", i))
				}
			}
		case "required":
			if m, ok := v.(map[string]any); ok {
				for _, k := range arg.([]any) {
					if _, ok := m[k.(string)]; !ok {
						err = fmt.Errorf("no %v", k)
					}
				}
			}
		case "properties", "additionalProperties", "patternProperties", "propertyNames":
			if m, ok := v.(map[string]any); ok && word != "patternProperties" {
				err = validKeys(s, word, m)
			}
		default:
			err = fmt.Errorf("keyword %s is not known here", word)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

func validType(arg, v any) error {
	kinds, ok := arg.([]any)
	if !ok {
		kinds = []any{arg}
	}
	for _, k := range kinds {
		n, isNumber := v.(float64)
		if map[string]bool{"null": v == nil, "number": isNumber, "integer": isNumber && n == float64(int64(n)),
			"string": is[string](v), "boolean": is[bool](v), "array": is[[]any](v), "object": is[map[string]any](v)}[k.(string)] {
			return nil
		}
	}
	return fmt.Errorf("%v is no %v", v, arg)
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

func validKeys(s map[string]any, word string, m map[string]any) error {
	props, _ := s["properties"].(map[string]any)
	patterns, _ := s["patternProperties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		p, known := props[k].(map[string]any)
		var err error
		switch {
		case word == "propertyNames":
			err = valid(s[word].(map[string]any), k, "name")
		case word == "properties" && known:
			err = valid(p, m[k], k)
		case word == "additionalProperties" && !known:
			loose := false
			for pattern := range patterns {
				loose = loose || regexp.MustCompile(pattern).MatchString(k)
			}
			if more, ok := s[word].(map[string]any); ok {
				err = valid(more, m[k], k)
			} else if !loose {
				err = fmt.Errorf("unknown key %s", k)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// asJSON is YAML as a checker of JSON sees it; 1.1 readers take 2e-4 for text.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	must(t, yaml.Unmarshal([]byte(text), &v))
	raw, err := json.Marshal(v)
	must(t, err)
	v = nil
	must(t, json.Unmarshal(raw, &v))
	return v
}

func recipeSchema(t *testing.T) map[string]any {
	t.Helper()
	var s map[string]any
	must(t, json.Unmarshal(stages.All.Schema(), &s))
	return s
}

// TestSchemaAccepts: every recipe of the program and of the documentation is valid
// by its schema, and so is each with every default written out.
func TestSchemaAccepts(t *testing.T) {
	s := recipeSchema(t)
	texts := map[string]string{"whole": "version: 1\nbase_model: base\nstages:" + whole, "good": good}
	for _, e := range recipes.Embedded() {
		text, err := recipes.EmbeddedText(e.Name)
		must(t, err)
		texts[e.Name] = text
	}
	pages, err := filepath.Glob("../docs/*.md")
	must(t, err)
	for _, p := range append(pages, "../README.md") {
		raw, err := os.ReadFile(p)
		must(t, err)
		for i, m := range regexp.MustCompile("(?ms)^```yaml\n(version: 1.*?)^```").FindAllStringSubmatch(string(raw), -1) {
			texts[fmt.Sprint(p, i)] = m[1]
		}
	}
	if len(texts) < 7 {
		t.Errorf("only %d recipes", len(texts))
	}
	for name, text := range texts {
		if err := valid(s, asJSON(t, text), name); err != nil {
			t.Error(err)
		}
		r, err := stages.All.Parse(name, []byte(text), nil)
		must(t, err)
		full, _, err := r.Full()
		must(t, err)
		if err := valid(s, asJSON(t, full), name+", every default"); err != nil {
			t.Error(err)
		}
	}
}

// TestSchemaKeys: what the decoder takes of a key its schema takes, and the other
// way round; null, the default, is taken of every key that is not required.
func TestSchemaKeys(t *testing.T) {
	s := recipeSchema(t)
	for _, c := range []struct{ key, value string }{
		{"ingest.val_set_size", "500"}, {"ingest.val_set_size", "0.1"}, {"ingest.val_set_size", "5%"}, {"ingest.val_set_size", "banana"}, {"ingest.val_set_size", "-1"},
		{"train.eval_steps", "auto"}, {"train.eval_steps", "0.1"}, {"train.eval_steps", "20%"}, {"train.eval_steps", "often"}, {"train.save_steps", "[1]"},
		{"train.gradient_checkpointing", "true"}, {"train.gradient_checkpointing", "auto"}, {"train.gradient_checkpointing", "maybe"},
		{"train.lora.rank_pattern", "{q_proj: 4}"}, {"train.lora.rank_pattern", "4"}, {"train.lora.alpha_pattern", "{q_proj: high}"},
		{"train.lora.layers_to_transform", "[1, 2]"}, {"train.lora.layers_to_transform", "1"}, {"train.lora.layers_to_transform", "all"},
		{"train.lora.init_lora_weights", "gaussian"}, {"train.lora.init_lora_weights", "false"}, {"train.lora.init_lora_weights", "[x]"},
		{"train.lora.target_modules", "[q_proj]"}, {"train.lora.target_modules", "{}"},
		{"train.lr_scheduler", "linear"}, {"train.lr_scheduler", "cosin"}, {"train.lr_scheduler_kwargs", "{num_cycles: 0.5}"},
		{"train.learning_rate", "2e-4"}, {"train.learning_rate", "fast"}, {"train.optimizer", "sgd"}, {"train.optimizer", "adamw_8bit"}, {"train.optimizer", "adamw_7bit"}, {"train.optim_args", "{amsgrad: true}"}, {"train.optim_args", "{amsgrad: 1}"}, {"train.lr_pattern", "{q_proj: 1e-4}"},
		{"export.type", "[Q8_0, F16]"}, {"export.pure", "yes"}, {"memory_limit", "8GiB"}, {"memory_limit", "lots"},
	} {
		_, problem := stages.All.Parse("r", []byte(good), []string{c.key + "=" + c.value})
		text := good
		parts := strings.Split(c.key, ".")
		err := valid(s, asJSON(t, text), "good")
		must(t, err)
		v := asJSON(t, text)
		set(t, v.(map[string]any), parts, asJSON(t, c.value))
		if err := valid(s, v, c.key); (err == nil) != (problem == nil) {
			t.Errorf("%s: %s: the schema says %v, the program %v", c.key, c.value, err, problem)
		}
	}
	n := 0
	for _, section := range []string{"", "ingest", "train", "train.lora", "merge", "quantize", "export", "eval"} {
		for _, k := range stages.All.Keys(section) {
			if k.Default == "required" || k.Name == "version" || k.Name == "stages" {
				continue
			}
			v := asJSON(t, good)
			set(t, v.(map[string]any), strings.Split(strings.TrimPrefix(section+"."+k.Name, "."), "."), nil)
			if err := valid(s, v, section+"."+k.Name); err != nil {
				t.Error(err)
			}
			n++
		}
	}
	if n < 90 {
		t.Errorf("only %d keys", n)
	}
}

// set puts a value at a path of a recipe, of a stage by its kind.
func set(t *testing.T, m map[string]any, path []string, v any) {
	t.Helper()
	if list, ok := m["stages"].([]any); ok {
		for _, st := range list {
			if opts, ok := st.(map[string]any)[path[0]].(map[string]any); ok && len(path) > 1 {
				m, path = opts, path[1:]
				break
			} else if _, bare := st.(map[string]any)[path[0]]; bare && len(path) > 1 {
				opts = map[string]any{}
				st.(map[string]any)[path[0]] = opts
				m, path = opts, path[1:]
				break
			}
		}
	}
	for ; len(path) > 1; path = path[1:] {
		next, _ := m[path[0]].(map[string]any)
		if next == nil {
			next = map[string]any{}
			m[path[0]] = next
		}
		m = next
	}
	m[path[0]] = v
}
