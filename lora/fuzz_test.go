package lora

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
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

// FuzzGGUF: an adapter in a GGUF is read or refused, and what was read is written and read
// again to the same.
func FuzzGGUF(f *testing.F) {
	dir := testdir.Shared(f, "golden/train/lora")
	src, err := arch.Open(filepath.Join(dir, "base-llama"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { src.Close() })
	path, again := filepath.Join(f.TempDir(), "a.gguf"), filepath.Join(f.TempDir(), "b.gguf")
	for _, c := range []struct{ name, targets string }{{"lora", `[o_proj]`}, {"lora", `[q_proj, k_proj]`}, {"lora_embedding", `[embed_tokens]`}} {
		folder, err := ReadFolder(filepath.Join(dir, c.name, "adapter"))
		if err != nil {
			f.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte("{target_modules: "+c.targets+"}"), &folder.Config); err != nil {
			f.Fatal(err)
		}
		for name := range folder.tensors {
			if !slices.ContainsFunc(folder.Config.TargetModules.Names, func(n string) bool { return strings.Contains(name, "."+n+".") }) || strings.Contains(name, "base_layer") {
				delete(folder.tensors, name)
			}
		}
		os.Remove(path)
		if err := folder.WriteGGUF(path, src, "a", dtype.Of(dtype.Q8_0)); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		os.Remove(path)
		os.Remove(again)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := ReadGGUF(path, src)
		if err != nil {
			return
		}
		if err := got.WriteGGUF(again, src, "a", dtype.Of(dtype.F32)); err != nil {
			t.Fatal(err)
		}
		back, err := ReadGGUF(again, src)
		if err != nil {
			t.Fatal(err)
		}
		sameTensors(t, src, back, got, 1e-6)
	})
}
