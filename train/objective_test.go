package train

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestValues: an objective's own values keep names and order in a line of
// metrics.jsonl, and a line without them has no key.
func TestValues(t *testing.T) {
	in := Metrics{Step: 1, Loss: 0.5, Objective: Values{{"rewards/chosen", 1.5}, {"a \"b\"", -2}, {"rewards/accuracies", 0}}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"objective":{"rewards/chosen":1.5,"a \"b\"":-2,"rewards/accuracies":0}`; !strings.Contains(string(b), want) {
		t.Errorf("%s, want %s in it", b, want)
	}
	var out Metrics
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Objective) != 3 || out.Objective[1] != in.Objective[1] || out.Objective[2] != in.Objective[2] {
		t.Errorf("%+v", out.Objective)
	}
	if b, err = json.Marshal(Metrics{}); err != nil || strings.Contains(string(b), "objective") {
		t.Errorf("%s %v", b, err)
	}
	for _, bad := range []string{`[1]`, `{"a":"b"}`, `{"a":1`} {
		if err := json.Unmarshal([]byte(bad), new(Values)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestScore: sums add up name by name, and a mean is over the units.
func TestScore(t *testing.T) {
	var sum Score
	one := Score{Loss: 1, Values: Values{{"a", 2}, {"b", 3}}}
	sum.add(one)
	sum.add(Score{Loss: 3, Values: Values{{"a", 4}, {"b", 0}}})
	if m := sum.mean(4); m.Loss != 1 || m.Values[0] != (Value{"a", 1.5}) || m.Values[1] != (Value{"b", 0.75}) {
		t.Errorf("%+v", m)
	}
	if one.Values[0].V != 2 {
		t.Error("a score that was added has changed")
	}
}

// TestUnknownObjective: the error lists what is known.
func TestUnknownObjective(t *testing.T) {
	_, err := Config{Objective: "ppo"}.Resolve(1)
	if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), `train.objective: found "ppo"`) || !strings.Contains(fail.Hint(err), "sft") {
		t.Errorf("error %v", err)
	}
}

// TestObjectives: every option of an objective is a key of Config that says its
// default.
func TestObjectives(t *testing.T) {
	c := reflect.TypeFor[Config]()
	var config Config
	keys := config.objectiveOptions()
	for name, kind := range objectives {
		for key, v := range kind.options {
			if keys[key] == nil {
				t.Errorf("%s: no key %s", name, key)
			}
			if doc := tagOf(c, key, "unset"); !strings.Contains(doc, fmt.Sprintf("%s %g", name, v)) {
				t.Errorf("%s: the default of %s is %g, its tag says %q", name, key, v, doc)
			}
		}
	}
}

// tagOf is a tag of the field that yaml calls key.
func tagOf(t reflect.Type, key, tag string) string {
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
			return f.Tag.Get(tag)
		}
	}
	return ""
}
