package arch_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
)

// What Transformers 5.23.0 computes of variants of reference cases (testdata/variants.py).
func TestVariantsOfReference(t *testing.T) {
	var list []struct {
		Base   string
		Change map[string]json.RawMessage
		Logits []float32
	}
	if err := json.Unmarshal(testdir.ReadFile(t, "testdata/variants.json"), &list); err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		change, _ := json.Marshal(v.Change)
		t.Run(v.Base+" "+string(change), func(t *testing.T) {
			var config map[string]json.RawMessage
			if err := json.Unmarshal(testdir.ReadFile(t, testdir.Shared(t, "golden/arch/"+v.Base)+"/config.json"), &config); err != nil {
				t.Fatal(err)
			}
			maps.Copy(config, v.Change)
			maps.DeleteFunc(config, func(_ string, value json.RawMessage) bool { return string(value) == `"absent"` })
			z, _ := logitsOf(t, fromNames(t, config), []int32{1, 40, 3, 3, 100, 17, 99, 5, 60, 61, 62})
			last := z[len(z)-16*len(v.Logits):]
			got, largest := make([]float32, len(v.Logits)), float32(1)
			for i, want := range v.Logits {
				got[i], largest = last[16*i], max(largest, want, -want)
			}
			near(t, "logits", got, v.Logits, 2e-5*float64(largest)) // Transformers' own of qwen3-next are off by half of it from those in float64
		})
	}
}

// fromNames writes a folder with this config.json and weights made of their names.
func fromNames(t *testing.T, config map[string]json.RawMessage) string {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return filled(t, raw, func(_ *arch.Rule, name string, n int64) []float32 { return archtest.FromName(name, n) })
}

// filled writes a folder with this config.json and the n values of each tensor that fill
// gives.
func filled(t *testing.T, config []byte, fill func(r *arch.Rule, name string, n int64) []float32) string {
	t.Helper()
	rules, err := arch.RulesOf(config)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []formats.NamedTensor
	for i := range rules {
		r := &rules[i]
		for j := range r.HF {
			if p := &r.HF[j]; !r.Tied {
				n := int64(1)
				for _, d := range p.FileShape(r) {
					n *= d
				}
				tensors = append(tensors, formats.NamedTensor{Name: p.Name, DType: "F32", Shape: p.FileShape(r), Data: kernels.Bytes(fill(r, p.Name, n))})
			}
		}
	}
	dir := t.TempDir()
	if err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666); err == nil {
		err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
