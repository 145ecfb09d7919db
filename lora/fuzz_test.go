package lora

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// FuzzConfigFile: any adapter_config.json is read or refused, and what was read
// is written and read again to the same.
func FuzzConfigFile(f *testing.F) {
	dir := testdir.Shared(f, "golden/train/lora")
	for _, v := range []string{"lora", "patterns", "layers_to_transform", "dora", "moe_experts", "vocab_resize"} {
		b, err := os.ReadFile(filepath.Join(dir, v, "adapter", "adapter_config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"peft_type":"LORA","r":8,"target_modules":"all-linear","rank_pattern":{"a":1e999}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		parse := func(data []byte) (*configFile, error) {
			all := map[string]any{}
			if err := json.Unmarshal(data, &all); err != nil {
				return nil, err
			}
			return parseConfig("f", data, all)
		}
		c, err := parse(data)
		if err != nil {
			return
		}
		b, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := parse(b)
		if err != nil {
			t.Fatalf("%v\nwritten: %s", err, b)
		}
		if b2, err := d.encode(); err != nil || string(b) != string(b2) {
			t.Fatalf("%v\n%s\n%s", err, b, b2)
		}
	})
}

// FuzzMatch: no configuration makes matching fail in another way than by error.
func FuzzMatch(f *testing.F) {
	f.Add(`{target_modules: [q_proj], rank_pattern: {q_proj: 4}}`)
	f.Add(`{target_modules: '(a+)+$', exclude_modules: '.*x'}`)
	f.Add(`{layers_to_transform: [0, 1], layers_pattern: [layers]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var c Config
		if yaml.Unmarshal([]byte(text), &c) != nil {
			return
		}
		c, err := c.Resolve()
		if err != nil {
			return
		}
		got, err := Match(c, twoLayers())
		if err == nil && len(got) == 0 {
			t.Fatal("nothing chosen and no error")
		}
	})
}
