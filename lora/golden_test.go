package lora

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// peftFolder writes the adapter of a reference case as PEFT does, and returns
// its folder, the packed rows of the case (of both halves of a model with an encoder)
// and the logits [rows, width, V] with it.
func peftFolder(t *testing.T, dir string) (folder string, in model.Inputs, want []float32) {
	t.Helper()
	list, _, err := formats.ReadSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var adapter []formats.NamedTensor
	packed := map[string]model.Inputs{}
	for _, a := range list {
		switch name, ok := strings.CutPrefix(a.Name, "lora."); {
		case ok:
			v := make([]float32, len(a.Data)/2) // exact in bf16
			block.GetBF16(v, a.Data)
			adapter = append(adapter, formats.NamedTensor{Name: name, DType: "F32", Shape: a.Shape, Data: kernels.Bytes(v)})
		case a.Name == "lora_logits":
			want = make([]float32, len(a.Data)/4)
			block.GetF32(want, a.Data)
		case a.Name == "input_ids" || a.Name == "decoder_input_ids":
			packed[a.Name] = model.Pack(idRows(a)...)
		}
	}
	in = packed["input_ids"]
	if own, ok := packed["decoder_input_ids"]; ok {
		source := in
		in = own
		in.Source = &source
	}
	var g struct {
		Config map[string]any `json:"lora_config"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	for key, v := range g.Config { // what was asked for, and remarks of the generator
		if strings.Contains(key, "(") {
			delete(g.Config, key)
		}
		if key == "exclude_modules (asked)" {
			g.Config["exclude_modules"] = v
		}
	}
	task := "CAUSAL_LM"
	if in.Source != nil {
		task = "SEQ_2_SEQ_LM"
	}
	for key, v := range map[string]any{"init_lora_weights": true, "inference_mode": true, "task_type": task} { // as save_pretrained writes them
		g.Config[key] = v
	}
	folder = t.TempDir()
	if b, err = json.Marshal(g.Config); err == nil {
		err = os.WriteFile(filepath.Join(folder, "adapter_config.json"), b, 0o666)
	}
	if err == nil {
		err = formats.WriteSafetensors(filepath.Join(folder, "adapter_model.safetensors"), adapter, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder, in, want
}

// idRows are the rows of an array int64 [rows, width] of small numbers.
func idRows(a formats.NamedTensor) (rows [][]int32) {
	width := int(a.Shape[1])
	for i := range int(a.Shape[0]) * width {
		if i%width == 0 {
			rows = append(rows, nil)
		}
		rows[i/width] = append(rows[i/width], int32(a.Data[8*i])|int32(a.Data[8*i+1])<<8)
	}
	return rows
}

// TestGoldenArchs: PEFT's adapter of every architecture gives PEFT's logits,
// attached and merged, and is written as PEFT keeps it.
func TestGoldenArchs(t *testing.T) {
	for _, name := range archtest.Cases {
		t.Run(name, func(t *testing.T) {
			dir := testdir.Shared(t, "golden/arch/"+name)
			folder, in, want := peftFolder(t, dir)
			largest := 0.0
			for _, v := range want {
				largest = math.Max(largest, math.Abs(float64(v)))
			}
			src, m := loadModel(t, dir)
			ad, err := Load(m, folder)
			if err != nil {
				t.Fatal(err)
			}
			if off := inputsOff(t, m, in, int(in.Seq[1]), want); !(off <= 1e-4*largest) {
				t.Errorf("attached: logits within %g, allowed %g", off, 1e-4*largest)
			}
			roundTrip(t, ad, folder)
			ad.Close()
			f, err := ReadFolder(folder)
			if err != nil {
				t.Fatal(err)
			}
			f32 := dtype.Of(dtype.F32)
			for _, file := range []string{"merged", "merged.gguf"} {
				if _, err := arch.GGUFKeys(&src.Spec, "model", 0, nil); err != nil && strings.HasSuffix(file, ".gguf") {
					continue // a model that GGUF cannot state: the tests of package arch say which
				}
				t.Run(file, func(t *testing.T) {
					out := filepath.Join(t.TempDir(), file)
					if _, err := Merge(context.Background(), cpu.New(cpu.Options{}), src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f32}}); err != nil {
						t.Fatal(err)
					}
					made, merged := loadModel(t, out)
					if file == "merged" {
						sameParts(t, src, made)
					}
					if off := inputsOff(t, merged, in, int(in.Seq[1]), want); !(off <= 1e-4*largest) {
						t.Errorf("logits within %g, allowed %g", off, 1e-4*largest)
					}
				})
			}
		})
	}
}

// sameParts: what a larger model has beside the half that reads text is in its
// copy as it was.
func sameParts(t *testing.T, a, b *arch.Source) {
	t.Helper()
	if len(a.Carried()) != len(b.Carried()) {
		t.Fatalf("%d tensors of other parts, want %d", len(b.Carried()), len(a.Carried()))
	}
	for i, x := range a.Carried() {
		y := b.Carried()[i]
		m, _, err := a.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := b.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		if x.Name != y.Name || x.Type != y.Type || !bytes.Equal(m.Data, n.Data) {
			t.Errorf("%s in %v is not %s in %v", y.Name, y.Type, x.Name, x.Type)
		}
	}
}
