package quant

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestReferenceLogits: a folder of another program computes what PyTorch computes
// in float32 with the weights that an independent decoder (golden/quant) or
// bitsandbytes (golden/blocks/bnb_model) found in it; activations are not rounded.
func TestReferenceLogits(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(testdir.Shared(t, "golden/quant"), "*", "expected.safetensors"))
	if err != nil || len(dirs) < 12 {
		t.Fatalf("%d folders, %v", len(dirs), err)
	}
	for _, path := range dirs {
		want := readLayers(t, path)
		golden := want["logits_f32_dequant"].values
		if golden == nil {
			golden = want["logits"].values // of the model before quantization
		}
		referenceLogits(t, filepath.Dir(path), [][]float32{want["ids"].values}, golden, strings.Contains(path, "int8"))
	}
	root := testdir.Shared(t, "golden/blocks/bnb_model")
	want := readLayers(t, filepath.Join(root, "logits.safetensors"))
	ids, n := want["ids"].values, want["ids"].cols()
	var rows [][]float32
	for ; len(ids) > 0; ids = ids[n:] {
		rows = append(rows, ids[:n])
	}
	list, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if !e.IsDir() {
			continue
		}
		golden := want[e.Name()+"/logits_dequantized_f32"].values
		if golden == nil {
			golden = want[e.Name()+"/logits_f32"].values
		}
		referenceLogits(t, filepath.Join(root, e.Name()), rows, golden, e.Name() == "int8")
	}
}

func referenceLogits(t *testing.T, dir string, rows [][]float32, want []float32, decoded bool) {
	t.Run(filepath.Base(dir), func(t *testing.T) {
		dev := cpu.New(cpu.Options{})
		m, err := model.Load(dev, openSource(t, dir), model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for l := range m.Linears() {
			l.Act = dtype.Type{}
		}
		// What is small in the file is small in memory, where embedding and head may lie twice.
		file, err := os.Stat(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if n := dev.Info().Mem.Now[kernels.Weights]; !decoded && n > file.Size() { // LLM.int8() is decoded
			t.Errorf("%d bytes of weights, the file has %d", n, file.Size())
		}
		var seqs [][]int32
		for _, r := range rows {
			var ids []int32
			for _, v := range r {
				ids = append(ids, int32(v))
			}
			seqs = append(seqs, ids)
		}
		tape := &autograd.Tape{Dev: dev}
		defer tape.Free()
		got, err := tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(seqs...))))
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 || len(got) != len(want) {
			t.Fatalf("%d logits, want %d", len(got), len(want))
		}
		off, top := 0.0, 0.0
		for i, w := range want {
			off, top = max(off, math.Abs(float64(got[i]-w))), max(top, math.Abs(float64(w)))
		}
		t.Logf("largest difference %.2e of %.3g", off, top)
		if !(off <= 1e-5*top) {
			t.Errorf("logits differ by %g, the largest is %g", off, top)
		}
	})
}

// TestLikeBitsandbytes: of the same model we write what Transformers and bitsandbytes
// 0.50.2 save (golden/blocks/bnb_model), byte for byte: codes, code book, shapes and
// configuration. Scales that are quantized too may be one code off, because
// bitsandbytes looks them up in a table on a CPU instead of taking the nearest.
func TestLikeBitsandbytes(t *testing.T) {
	root := testdir.Shared(t, "golden/blocks/bnb_model")
	src := openSource(t, filepath.Join(root, "base"))
	for _, scheme := range []string{"NF4", "FP4"} {
		golden := filepath.Join(root, strings.ToLower(scheme)+"_double")
		for name, double := range map[string]bool{"double": true, "single": false} {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "out")
				folder(t, src, nil, FolderJob{Path: path, Method: "nf4", Scheme: scheme, Options: &NF4Options{DoubleQuant: &double}})
				likeBitsandbytes(t, golden, path, double)
			})
		}
	}
}

// TestLikeInt8: LLM.int8() of the same model is what bitsandbytes saves, byte for byte,
// and is read back as what it decodes.
func TestLikeInt8(t *testing.T) {
	root := testdir.Shared(t, "golden/blocks/bnb_model")
	path := filepath.Join(t.TempDir(), "out")
	folder(t, openSource(t, filepath.Join(root, "base")), nil, FolderJob{Path: path, Method: "int8"})
	likeBitsandbytes(t, filepath.Join(root, "int8"), path, false)
	want := readLayers(t, filepath.Join(root, "logits.safetensors"))
	ids, n := want["ids"].values, want["ids"].cols()
	var rows [][]float32
	for ; len(ids) > 0; ids = ids[n:] {
		rows = append(rows, ids[:n])
	}
	referenceLogits(t, path, rows, want["int8/logits_dequantized_f32"].values, true)
}

func likeBitsandbytes(t *testing.T, golden, path string, double bool) {
	t.Helper()
	var want, got struct {
		Q map[string]any `json:"quantization_config"`
	}
	for p, v := range map[string]any{golden: &want, path: &got} {
		if err := json.Unmarshal(readFile(t, filepath.Join(p, "config.json")), v); err != nil {
			t.Fatal(err)
		}
	}
	want.Q["bnb_4bit_use_double_quant"] = double
	delete(want.Q, "bnb_4bit_compute_dtype") // the caller's choice
	delete(got.Q, "bnb_4bit_compute_dtype")
	if len(want.Q) == 0 || !reflect.DeepEqual(want.Q, got.Q) {
		t.Errorf("quantization_config is %v, want %v", got.Q, want.Q)
	}
	ours, theirs := namedTensors(t, path), namedTensors(t, golden)
	codes := 0
	for name, w := range theirs {
		g, ok := ours[name]
		delete(ours, name)
		switch {
		case strings.Contains(name, "quant_state"):
			sameState(t, name, g.Data, w.Data, double)
		case !double && strings.Contains(name, "nested_"):
			if ok {
				t.Errorf("%s is there without double quantization", name)
			}
		case !double && strings.HasSuffix(name, ".absmax"):
			if g.DType != "F32" || !reflect.DeepEqual(g.Shape, w.Shape) {
				t.Errorf("%s is %s %v, want F32 %v", name, g.DType, g.Shape, w.Shape)
			}
		case g.DType != w.DType || !reflect.DeepEqual(g.Shape, w.Shape):
			t.Errorf("%s is %s %v, want %s %v", name, g.DType, g.Shape, w.DType, w.Shape)
		case strings.HasSuffix(name, ".absmax"):
			for i, b := range w.Data {
				if d := int(g.Data[i]) - int(b); d < -1 || d > 1 {
					t.Errorf("%s[%d] is code %d, want %d", name, i, g.Data[i], b)
				}
			}
		case string(g.Data) != string(w.Data):
			t.Errorf("%s: bytes differ", name)
		case w.DType == "U8" || w.DType == "I8":
			codes += len(w.Data)
		}
	}
	if codes == 0 || len(ours) > 0 {
		t.Errorf("%d bytes of codes compared; only ours: %v", codes, ours)
	}
}

// sameState compares two texts of a quant_state; the last bit of the offset follows
// from the order of a sum.
func sameState(t *testing.T, name string, ours, theirs []byte, double bool) {
	t.Helper()
	var got, want map[string]any
	if err := json.Unmarshal(ours, &got); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := json.Unmarshal(theirs, &want); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	a, _ := got["nested_offset"].(float64)
	b, _ := want["nested_offset"].(float64)
	if double && !(math.Abs(a-b) <= 2e-7*math.Abs(b)) {
		t.Errorf("%s: the offset is %g, want %g", name, a, b)
	}
	delete(got, "nested_offset")
	delete(want, "nested_offset")
	if !double {
		delete(want, "nested_blocksize")
		delete(want, "nested_dtype")
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is %v, want %v", name, got, want)
	}
}

// namedTensors are the arrays of a folder's only file.
func namedTensors(t *testing.T, path string) map[string]formats.NamedTensor {
	t.Helper()
	arrays, _, err := formats.ReadSafetensors(filepath.Join(path, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]formats.NamedTensor{}
	for _, a := range arrays {
		out[a.Name] = a
	}
	return out
}
