package lora

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

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
		_, err := Merge(ctx, m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: path, Progress: progress}})
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
