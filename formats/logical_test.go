package formats

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// values decodes a tensor of any type to float32 bytes.
func values(t *testing.T, r Reader, ten *Tensor) []byte {
	t.Helper()
	data, err := r.Read(ten)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(ten, data)
}

func decoded(ten *Tensor, data []byte) []byte {
	x := make([]float32, ten.Elements())
	block.DecodeAll(x, block.Raw{Type: ten.Type, Rows: ten.Rows(), Cols: ten.Cols(), Data: data})
	out := make([]byte, 4*len(x))
	block.PutF32(out, x)
	return out
}

func find(t *testing.T, r Reader, name string) *Tensor {
	t.Helper()
	for i := range r.Tensors() {
		if r.Tensors()[i].Name == name {
			return &r.Tensors()[i]
		}
	}
	t.Fatalf("%s has no tensor %s", r.Path(), name)
	return nil
}

func mustOpen(t *testing.T, path string) Reader {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// TestQuantizedFolders decodes every layer of the checkpoints of GPTQModel,
// AutoRound and llm-compressor to the weights an independent decoder found.
func TestQuantizedFolders(t *testing.T) {
	dir := testdir.Shared(t, "golden/quant")
	checked := 0
	for _, path := range sharedFiles(t, "golden/quant", "/expected.json") {
		var want struct {
			Layers map[string]struct {
				Shape  []int64
				SHA256 string `json:"sha256_f32"`
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &want); err != nil || len(want.Layers) == 0 {
			t.Fatalf("%s: %d layers, %v", path, len(want.Layers), err)
		}
		r := mustOpen(t, filepath.Dir(path))
		for layer, w := range want.Layers {
			ten := find(t, r, layer+".weight")
			if len(w.Shape) != 2 || ten.Shape[0] != w.Shape[0] || ten.Shape[1] != w.Shape[1] {
				t.Errorf("%s: shape %v, expected %v", layer, ten.Shape, w.Shape)
			}
			if got := sum(values(t, r, ten)); got != w.SHA256 {
				t.Errorf("%s: %s (%v) decodes to %s, expected %s", path, layer, ten.Type, got, w.SHA256)
			}
			checked++
		}
	}
	if checked == 0 {
		t.Fatalf("nothing to check in %s", dir)
	}
}

// TestBitsandbytesFolders decodes what Transformers saved with bitsandbytes.
func TestBitsandbytesFolders(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/bnb_model")
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Models map[string]struct {
			SHA256 map[string]string `json:"dequantized_sha256"`
		}
	}
	if err := json.Unmarshal(b, &index); err != nil || len(index.Models) == 0 {
		t.Fatalf("%d models, %v", len(index.Models), err)
	}
	for name, m := range index.Models {
		r := mustOpen(t, filepath.Join(dir, name))
		if len(r.Tensors()) != len(m.SHA256) {
			t.Errorf("%s: %d tensors, expected %d", name, len(r.Tensors()), len(m.SHA256))
		}
		for tensor, want := range m.SHA256 {
			ten := find(t, r, tensor)
			if got := sum(values(t, r, ten)); got != want {
				t.Errorf("%s: %s (%v) decodes to %s, expected %s", name, tensor, ten.Type, got, want)
			}
		}
	}
}

// TestQLoRABases decodes the NF4 bases of the training cases. bitsandbytes
// rounds what it decodes to the dtype the weight had before.
func TestQLoRABases(t *testing.T) {
	for _, path := range sharedFiles(t, "golden/train/lora", "/dequantised.safetensors") {
		want := mustOpen(t, path)
		got := mustOpen(t, filepath.Dir(path))
		for i := range want.Tensors() {
			w := &want.Tensors()[i]
			ten := find(t, got, w.Name)
			x := values(t, got, ten)
			if ten.Type.Kind == dtype.NF4 && strings.Contains(path, "qlora_bf16") {
				x = roundBF16(x)
			}
			if string(values(t, want, w)) != string(x) {
				t.Errorf("%s: %s differs", path, w.Name)
			}
		}
	}
}

func roundBF16(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range len(b) / 4 {
		put32(out, i, block.FromBF16(block.BF16(f32(b, i))))
	}
	return out
}
