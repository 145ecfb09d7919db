package formats

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestSaveOverSelf writes to the path a mapped tensor was read from: the mapped
// bytes must not change under their reader, nor be written as zeros.
func TestSaveOverSelf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.safetensors")
	data := bytes.Repeat([]byte("tensor!!"), 4096)
	tensors := []NamedTensor{{"x", "F32", []int64{8192}, data}}
	if err := WriteSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	want := must(os.ReadFile(path))
	for range 20 {
		r := mustOpen(t, path)
		live, ok := r.Map(&r.Tensors()[0])
		if !ok {
			live = must(r.Read(&r.Tensors()[0]))
		}
		if err := WriteSafetensors(path, []NamedTensor{{"x", "F32", []int64{8192}, live}}, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(live, data) || !bytes.Equal(must(os.ReadFile(path)), want) {
			t.Fatal("the bytes changed")
		}
	}
}

// TestParallelWrite fills a folder from many goroutines.
func TestParallelWrite(t *testing.T) {
	var plan []TensorPlan
	for i := range 60 {
		plan = append(plan, TensorPlan{Name: string(rune('A'+i)) + ".weight", Shape: []int64{4, 64}, Type: dtype.Of(dtype.F16)})
	}
	dir := filepath.Join(t.TempDir(), "m")
	w := must(CreateFolder(dir, FolderOptions{Config: []byte("{}"), Plan: plan, MaxShard: 4000}))
	var wg sync.WaitGroup
	for i, p := range plan {
		wg.Go(func() {
			if err := w.Write(p.Name, bytes.Repeat([]byte{byte(i)}, p.Size())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, dir)
	for i, p := range plan {
		ten := find(t, r, p.Name)
		if got := must(r.Read(ten)); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, p.Size())) {
			t.Errorf("%s differs", p.Name)
		}
		if _, err := r.ReadRows(ten, 3, 2); err == nil {
			t.Error("row 4 of 4 was read")
		}
	}
}

// TestAdapter writes a PEFT folder and reads it back.
func TestAdapter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "adapter")
	a := &Adapter{Config: []byte(`{"peft_type":"LORA","r":2}`), Tensors: []NamedTensor{
		{"q.lora_A.weight", "F32", []int64{2, 3}, make([]byte, 24)}, {"q.lora_B.weight", "F32", []int64{3, 2}, make([]byte, 24)},
	}}
	if err := WriteAdapter(dir, a, map[string][]byte{"README.md": []byte("hello\n")}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadAdapter(dir)
	if err != nil || !bytes.Equal(got.Config, a.Config) || len(got.Tensors) != 2 || got.Tensors[1].Name != "q.lora_B.weight" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := Verify(dir); err != nil {
		t.Error(err)
	}
	if err := WriteAdapter(dir, a, nil); err == nil {
		t.Error("written over a folder")
	}
	for name, text := range map[string]string{"../x": "", "adapter_config.json": "", "a/b": ""} {
		if err := WriteAdapter(filepath.Join(t.TempDir(), "a"), a, map[string][]byte{name: []byte(text)}); err == nil {
			t.Errorf("file %q was written", name)
		}
	}
	a.Config = []byte(`{"r":1,"r":2}`)
	rejects(t, WriteAdapter(filepath.Join(t.TempDir(), "a"), a, nil), "occurs twice")
	os.Rename(filepath.Join(dir, "adapter_model.safetensors"), filepath.Join(dir, "adapter_model.bin"))
	_, err = ReadAdapter(dir)
	rejects(t, err, "no checkpoint of PyTorch")
}
