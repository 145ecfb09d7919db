package lora

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// TestClasses: PEFT's adapter of models of classes without a reference case, under the
// names that their modules have in Transformers, gives PEFT's logits.
func TestClasses(t *testing.T) {
	list, err := archtest.Classes("../autograd/model/arch/testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		t.Run(name, func(t *testing.T) {
			c := list[name]
			dir, adapter := t.TempDir(), t.TempDir()
			err := os.WriteFile(filepath.Join(dir, "config.json"), c.Config, 0o666)
			if err == nil {
				err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), c.Stored(), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, m := loadModel(t, dir)
			var tensors []formats.NamedTensor
			for l := range m.Linears() {
				if !slices.Contains(c.Lora.Modules, l.Path) {
					continue
				}
				for ab, shape := range map[string][]int64{"A": {2, int64(l.W.Mat.Cols)}, "B": {int64(l.W.Mat.Rows), 2}} {
					key := "base_model.model." + l.Path + ".lora_" + ab + ".weight"
					v := archtest.FromName(key, shape[0]*shape[1])
					for i := range v {
						v[i] *= 0.3
					}
					tensors = append(tensors, formats.NamedTensor{Name: key, DType: "F32", Shape: shape, Data: kernels.Bytes(v)})
				}
			}
			if len(tensors) != 2*len(c.Lora.Modules) {
				t.Fatalf("%d of %d modules are there", len(tensors)/2, len(c.Lora.Modules))
			}
			config, err := json.Marshal(map[string]any{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": c.Lora.Modules})
			if err == nil {
				err = os.WriteFile(filepath.Join(adapter, "adapter_config.json"), config, 0o666)
			}
			if err == nil {
				err = formats.WriteSafetensors(filepath.Join(adapter, "adapter_model.safetensors"), tensors, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Load(m, adapter); err != nil {
				t.Fatal(err)
			}
			in := model.Pack(archtest.ClassIDs)
			if c.Source != nil {
				source := model.Pack(c.Source)
				in = model.Pack(append([]int32{m.Spec.Start}, archtest.ClassIDs[:len(archtest.ClassIDs)-1]...))
				in.Source = &source
			}
			z := inputLogits(t, m, in)
			last, largest := z[len(z)-m.Spec.V:], float32(1)
			for _, v := range c.Lora.Logits {
				largest = max(largest, v, -v)
			}
			for i, want := range c.Lora.Logits {
				if d := last[16*i] - want; !(max(d, -d) <= 2e-5*largest) {
					t.Errorf("logit %d is %g, want %g", 16*i, last[16*i], want)
				}
			}
		})
	}
}
