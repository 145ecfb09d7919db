package arch

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// otherwise are keys that stand for others: mt5 ties whatever is stated, and the case of
// qwen3_moe has the other name of the number of its experts, too.
var otherwise = map[string]bool{"mt5.tie_word_embeddings": true, "qwen3_moe.num_experts": true}

// A config.json that leaves a key out is read as one that states the default of the
// class in Transformers (testdata/defaults.json, made by defaults.py), or refused.
func TestClassDefaults(t *testing.T) {
	raw, err := os.ReadFile("testdata/defaults.json")
	if err != nil {
		t.Fatal(err)
	}
	var defaults map[string]map[string]json.RawMessage
	if err := json.Unmarshal(raw, &defaults); err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob(filepath.Join(testdir.Shared(t, "golden/arch"), "*", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, path := range cases {
		c, err := parseConfig(testdir.ReadFile(t, path))
		if err != nil {
			t.Fatal(err)
		}
		classes, _ := get[[]string](c, "architectures")
		a := byHF(classes[0], c.String("", "model_type"))
		model := c.text().String("", "model_type")
		for key, value := range defaults[model] {
			part := maps.Clone(c.text().raw)
			if key == "rope_theta" { // beside a rule that all have, as the class may have one of its own
				delete(part, "rope_parameters")
				part["rope_scaling"] = json.RawMessage(`{"rope_type": "linear", "factor": 2.0}`)
			}
			delete(part, key)
			read := func(part map[string]json.RawMessage) (Spec, error) {
				all := part
				if c.has("text_config") {
					text, err := json.Marshal(part)
					if err != nil {
						t.Fatal(err)
					}
					all = with(c.raw, "text_config", string(text))
					if key == "tie_word_embeddings" {
						delete(all, key)
						if raw, ok := part[key]; ok {
							all[key] = raw
						}
					}
				}
				s, err := a.Spec(&Config{raw: maps.Clone(all)})
				if err == nil {
					err = s.check()
				}
				return s, err
			}
			without, err := read(part)
			if err != nil {
				continue
			}
			stated, err := read(with(part, key, string(value)))
			if err != nil || otherwise[model+"."+key] { // as what else the case says contradicts it
				continue
			}
			if compared++; !reflect.DeepEqual(without, stated) {
				t.Errorf("%s without %s is not what it is with %s, its default", filepath.Base(filepath.Dir(path)), key, value)
			}
		}
	}
	if compared < 1000 {
		t.Errorf("%d keys compared", compared)
	}
}
