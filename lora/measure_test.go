package lora

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/fail"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMeasureMerge: rounding to bf16 loses less than quantizing the base did,
// and merging into the quantized weights gives the model that was trained.
func TestMeasureMerge(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, _ := loadModel(t, filepath.Join(dir, "base-llama"))
	dev := cpu.New(cpu.Options{})
	rows, _ := evalBatch(t, dir)
	var ex []data.Example
	for _, r := range rows {
		ex = append(ex, data.Example{IDs: r})
	}
	batch := []data.Batch{data.NewBatch(ex)}
	f, err := ReadFolder(filepath.Join(dir, "qlora_f32", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	bf16 := dtype.Of(dtype.BF16)
	measure := func(o MergeOptions, w ...Weighted) *MergeKL {
		t.Helper()
		o.Path = filepath.Join(t.TempDir(), "m")
		if _, err := Merge(context.Background(), dev, src, w, o); err != nil {
			t.Fatal(err)
		}
		k, err := MeasureMerge(context.Background(), dev, src, w, o, batch)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	plain := measure(MergeOptions{Output: Output{Type: &bf16}, TrainedAs: &dtype.NF4Double}, Weighted{f, 1})
	if !(plain.Merge.KL > 1e-9 && plain.Merge.KL < 1e-3) || plain.Trained == nil || !(plain.Trained.KL > 2*plain.Merge.KL) {
		t.Errorf("bf16: %+v, trained %+v", plain.Merge, plain.Trained)
	}
	if k := measure(MergeOptions{TrainedAs: &dtype.NF4Double, Trained: true}, Weighted{f, 1}); !(k.Merge.KL < 1e-7) {
		t.Errorf("into the trained weights: %+v", k.Merge)
	}
	if k := measure(MergeOptions{}, Weighted{f, 0.5}, Weighted{f, 0.25}); !(k.Merge.KL < 1e-7) || k.Trained != nil {
		t.Errorf("two weighted adapters: %+v", k)
	}
	t.Logf("KL of bf16 %.2g, to the trained model %.2g", plain.Merge.KL, plain.Trained.KL)
}

// TestMergeInterrupted: a merge that is stopped anywhere goes on and makes the
// same files; nothing is at the path before.
func TestMergeInterrupted(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	src, m := loadModel(t, filepath.Join(dir, "base-llama"))
	f, err := ReadFolder(filepath.Join(dir, "lora", "adapter"))
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	merge := func(ctx context.Context, path string, progress func(done, total int64)) error {
		_, err := Merge(ctx, m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Output: Output{Path: path, Progress: progress}})
		return err
	}
	if err := merge(context.Background(), whole, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "parts")
	for stop := int64(1); stop < 4; stop++ {
		ctx, cancel := context.WithCancel(context.Background())
		err := merge(ctx, path, func(done, total int64) {
			if done > total*stop/4 {
				cancel()
			}
		})
		cancel()
		if fail.Code(err) != int(fail.Interrupted) {
			t.Fatalf("stop %d: %v", stop, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatal("an unfinished merge is at the path")
		}
	}
	if err := merge(context.Background(), path, nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(whole)
	if err != nil || len(entries) < 2 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		a, _ := os.ReadFile(filepath.Join(whole, e.Name()))
		b, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s differs: %v", e.Name(), err)
		}
	}
}
