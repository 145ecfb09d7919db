package lora

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestClasses: PEFT's adapter of models of classes without a reference case, under the
// names that their modules have in Transformers, gives PEFT's logits, attached and merged,
// and its gradients.
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
			src, m := loadModel(t, dir)
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
			ad, err := Load(m, adapter)
			if err != nil {
				t.Fatal(err)
			}
			in := model.Pack(archtest.ClassIDs)
			target := append(slices.Clone(archtest.ClassIDs[1:]), -1)
			if c.Source != nil {
				source := model.Pack(c.Source)
				in = model.Pack(append([]int32{m.Spec.Start}, archtest.ClassIDs[:len(archtest.ClassIDs)-1]...))
				in.Source, target = &source, archtest.ClassIDs
			}
			classLogits(t, "attached", m, in, c.Lora.Logits)
			classGradients(t, m, ad, in, target, c)
			ad.Close()
			f, err := ReadFolder(adapter)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "merged")
			if _, err := Merge(context.Background(), cpu.New(cpu.Options{}), src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out}}); err != nil {
				t.Fatal(err)
			}
			made, merged := loadModel(t, out)
			sameParts(t, src, made)
			classLogits(t, "merged", merged, in, c.Lora.Logits)
		})
	}
}

// classLogits compares every sixteenth logit behind the last token.
func classLogits(t *testing.T, what string, m *model.Model, in model.Inputs, logits []float32) {
	t.Helper()
	z := inputLogits(t, m, in)
	last, largest := z[len(z)-m.Spec.V:], float32(1)
	for _, v := range logits {
		largest = max(largest, v, -v)
	}
	for i, want := range logits {
		if d := last[16*i] - want; !(max(d, -d) <= 2e-5*largest) {
			t.Errorf("%s: logit %d is %g, want %g", what, 16*i, last[16*i], want)
		}
	}
}

// classGradients compares gradients of A and B of every module.
func classGradients(t *testing.T, m *model.Model, ad *Adapter, in model.Inputs, target []int32, c *archtest.Class) {
	t.Helper()
	for _, p := range ad.Params() {
		grad, err := m.Dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), p.Len())
		if err != nil {
			t.Fatal(err)
		}
		m.Dev.Fill(grad, 0)
		p.Grad = grad
	}
	n := 0
	for _, id := range target {
		if id >= 0 {
			n++
		}
	}
	tape := &autograd.Tape{Dev: m.Dev, Record: true}
	defer tape.Free()
	h := m.Hidden(tape, in)
	m.LogProb(tape, h, target, slices.Repeat([]float32{1 / float32(n)}, len(target)))
	tape.Done(h)
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	within := float32(1e-4)
	if m.Spec.Distances.Buckets > 0 { // scores that nothing divides are sharp: PEFT's in float32 are off by 4e-4 of those in float64
		within = 3e-4
	}
	for _, l := range ad.Layers {
		i := slices.Index(c.Lora.Modules, l.Linear.Path)
		if i < 0 {
			t.Fatalf("an adapter on %s, which PEFT does not have", l.Linear.Path)
		}
		for j, p := range []*autograd.Param{l.LoRA.A, l.LoRA.B} {
			v := make([]float32, p.Len())
			if err := m.Dev.Download(kernels.Bytes(v), p.Grad); err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for _, x := range v {
				sum += float64(x) * float64(x)
			}
			want := c.Lora.Grads[i][3*j : 3*j+3]
			for k, x := range []float32{float32(math.Sqrt(sum)), v[0], v[1]} {
				if d := x - want[k]; !(max(d, -d) <= within*max(want[0], 1e-3)) {
					t.Errorf("gradient of %s: %g, want %g (norm, first two elements)", p.Name, x, want[k])
				}
			}
		}
	}
}
