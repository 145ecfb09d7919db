package quant

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
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
		referenceLogits(t, filepath.Dir(path), [][]float32{want["ids"].values}, golden)
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
		referenceLogits(t, filepath.Join(root, e.Name()), rows, golden)
	}
}

func referenceLogits(t *testing.T, dir string, rows [][]float32, want []float32) {
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
		if n := dev.Info().Mem.Now[kernels.Weights]; !strings.Contains(dir, "int8") && n > file.Size() { // LLM.int8() is decoded
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
