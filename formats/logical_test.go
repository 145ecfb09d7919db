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
		config, err := parseObject(path, r.Config())
		if err != nil {
			t.Fatal(err)
		}
		q, _ := config.get("quantization_config").(object)
		t.Run((&grouper{config: q}).method()+"/"+filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			for layer, w := range want.Layers {
				ten := find(t, r, layer+".weight")
				if len(w.Shape) != 2 || ten.Shape[0] != w.Shape[0] || ten.Shape[1] != w.Shape[1] {
					t.Errorf("%s: shape %v, expected %v", layer, ten.Shape, w.Shape)
				}
				if got := sum(values(t, r, ten)); got != w.SHA256 {
					t.Errorf("%s (%v) decodes to %s, expected %s", layer, ten.Type, got, w.SHA256)
				}
				checked++
			}
		})
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
		t.Run(Bitsandbytes+"/"+name, func(t *testing.T) {
			r := mustOpen(t, filepath.Join(dir, name))
			if len(r.Tensors()) != len(m.SHA256) {
				t.Errorf("%d tensors, expected %d", len(r.Tensors()), len(m.SHA256))
			}
			for tensor, want := range m.SHA256 {
				ten := find(t, r, tensor)
				if got := sum(values(t, r, ten)); got != want {
					t.Errorf("%s (%v) decodes to %s, expected %s", tensor, ten.Type, got, want)
				}
			}
		})
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

// relabelled copies a golden folder with its arrays and the text of its config
// changed.
func relabelled(t *testing.T, golden string, change func(*NamedTensor), config func(string) string) Reader {
	t.Helper()
	from := testdir.Shared(t, golden)
	tensors, _, err := ReadSafetensors(filepath.Join(from, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range tensors {
		change(&tensors[i])
	}
	text, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config(string(text))), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, dir)
}

// sameWeights compares all tensors of two folders by value.
func sameWeights(t *testing.T, a, b Reader) {
	t.Helper()
	tensors := a.Tensors()
	for i := range tensors {
		if sum(values(t, a, &tensors[i])) != sum(values(t, b, find(t, b, tensors[i].Name))) {
			t.Errorf("%s has other values", tensors[i].Name)
		}
	}
}

// TestStorageOfBytes: bitsandbytes stores packed codes under any label
// (bnb_4bit_quant_storage), the bytes being the same.
func TestStorageOfBytes(t *testing.T) {
	for _, golden := range []string{"golden/blocks/bnb_model/nf4_double", "golden/blocks/bnb_model/fp4_double"} {
		want := mustOpen(t, testdir.Shared(t, golden))
		for typ, size := range map[string]int64{"I8": 1, "BF16": 2, "F16": 2, "F32": 4} {
			sameWeights(t, want, relabelled(t, golden, func(n *NamedTensor) {
				if n.DType == "U8" && strings.HasSuffix(n.Name, ".weight") {
					n.DType, n.Shape = typ, []int64{int64(len(n.Data)) / size, 1}
				}
			}, func(s string) string { return s }))
		}
	}
}

// TestSymmetricZeros: the zeros of a symmetric matrix say by themselves whether
// they are stored less one, whatever the label is.
func TestSymmetricZeros(t *testing.T) {
	const golden = "golden/quant/gptq-4b-g128-sym"
	want := mustOpen(t, testdir.Shared(t, golden))
	as := func(version string) func(string) string {
		return func(s string) string {
			const had = `"checkpoint_format": "gptq"`
			if !strings.Contains(s, had) {
				t.Fatalf("%s does not say %s", golden, had)
			}
			s = strings.Replace(s, had, `"checkpoint_format": "`+version+`"`, 1)
			return strings.Replace(s, `"format": "gptq",`, `"format": "`+version+`",`, 1)
		}
	}
	zeros := func(b byte) func(*NamedTensor) {
		return func(n *NamedTensor) {
			if strings.HasSuffix(n.Name, ".qzeros") {
				for i := range n.Data {
					n.Data[i] = b
				}
			}
		}
	}
	sameWeights(t, want, relabelled(t, golden, zeros(0x88), as("gptq")))
	sameWeights(t, want, relabelled(t, golden, zeros(0x77), as("gptq_v2")))
	r := relabelled(t, golden, zeros(0x99), as("gptq"))
	for i := range r.Tensors() {
		if ten := &r.Tensors()[i]; ten.Type.Quantized() {
			if _, err := r.Read(ten); err == nil || !strings.Contains(err.Error(), "zero point") {
				t.Errorf("%s: zeros of neither version: %v", ten.Name, err)
			}
			return
		}
	}
	t.Fatal("no quantized tensor")
}
