package stages

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/train/eval"
)

// TestCompareMerged: rounding to bf16 loses less than quantizing the base did,
// merging into the quantized weights gives the model that was trained, and
// adapters are compared with the weights they were merged with.
func TestCompareMerged(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	samples := goldenRows(t, filepath.Join(dir, "batches.json"))
	dev := cpu.New(cpu.Options{})
	adapter := filepath.Join(dir, "qlora_f32", "adapter")
	measure := func(nf4 bool, o MergeOptions) *eval.Divergence {
		t.Helper()
		o.Model, o.Output = filepath.Join(dir, "base-llama"), filepath.Join(t.TempDir(), "m")
		_, err := MergeModel(context.Background(), dev, o)
		must(t, err)
		kl, err := CompareMerged(context.Background(), dev, o.Model, nf4, o, samples)
		must(t, err)
		return kl
	}
	one := []string{adapter}
	rounded := measure(false, MergeOptions{Adapters: one, Storage: "bf16"})
	trained := measure(true, MergeOptions{Adapters: one, Storage: "bf16"})
	if !(rounded.KL > 1e-9 && rounded.KL < 1e-3 && trained.KL > 2*rounded.KL) {
		t.Errorf("bf16: %+v, to the trained model %+v", rounded, trained)
	}
	if kl := measure(true, MergeOptions{Adapters: one, TrainedAs: &dtype.NF4Double, Trained: true}); !(kl.KL < 1e-7) {
		t.Errorf("into the trained weights: %+v", kl)
	}
	if kl := measure(false, MergeOptions{Adapters: []string{adapter, adapter}, Weights: []float64{0.5, 0.25}}); !(kl.KL < 1e-7) {
		t.Errorf("two weighted adapters: %+v", kl)
	}
	t.Logf("KL of bf16 %.2g, to the trained model %.2g", rounded.KL, trained.KL)
}

// goldenRows are the evaluation rows of a training golden, without padding.
func goldenRows(t *testing.T, path string) []eval.Sample {
	t.Helper()
	var f struct {
		Eval struct {
			IDs  [][]int32 `json:"input_ids"`
			Mask [][]int   `json:"attention_mask"`
		} `json:"eval_batch"`
	}
	raw, err := os.ReadFile(path)
	must(t, err)
	must(t, json.Unmarshal(raw, &f))
	var rows []data.Example
	for i, ids := range f.Eval.IDs {
		n := 0
		for _, m := range f.Eval.Mask[i] {
			n += m
		}
		rows = append(rows, data.Example{IDs: ids[:n]})
	}
	samples, err := KLSamples(data.InMemory(rows...))
	must(t, err)
	return samples
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
