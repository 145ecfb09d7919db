package quant

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/quant/gguf"
)

// TestCollectImatrix compares with llama-imatrix -c 256 --chunks 12 over the
// first 30000 characters of tinyshakespeare. It computes with weights in f16 and
// activations rounded to f16 before products.
func TestCollectImatrix(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/wholefile")
	text, err := os.ReadFile(filepath.Join(testdir.Shared(t, "tinyshakespeare"), "input.txt"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := arch.Open(filepath.Join(dir, "source.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := gguf.ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(string(text[:30000]), true)[:want.Chunks*want.ChunkSize]
	dev := cpu.New(cpu.Options{})
	got, err := CollectImatrix(context.Background(), dev, src, [][]int32{ids}, ImatrixOptions{Chunk: want.ChunkSize, BOS: tok.BOS(), HasBOS: true, Datasets: []string{"calib.txt"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Chunks != want.Chunks || got.ChunkSize != want.ChunkSize || len(got.Entries) != len(want.Entries) {
		t.Fatalf("%d chunks of %d, %d entries; want %d, %d, %d", got.Chunks, got.ChunkSize, len(got.Entries), want.Chunks, want.ChunkSize, len(want.Entries))
	}
	for i, e := range got.Entries {
		w := want.Entries[i]
		if e.Name != w.Name || e.Counts[0] != w.Counts[0] || len(e.Sums) != len(w.Sums) {
			t.Fatalf("entry %s with %v rows, want %s with %v", e.Name, e.Counts, w.Name, w.Counts)
		}
		worst := 0.0
		for j, v := range e.Sums {
			worst = max(worst, math.Abs(float64(v)/float64(w.Sums[j])-1))
		}
		t.Logf("%s: within %.1e", e.Name, worst)
		if worst > 2e-3 {
			t.Errorf("%s: a sum is off by %g", e.Name, worst)
		}
	}
	path := filepath.Join(t.TempDir(), "im.gguf")
	if err := gguf.WriteImatrix(path, got); err != nil {
		t.Fatal(err)
	}
	again, err := gguf.ReadImatrix(path)
	if err != nil || len(again.Entries) != len(got.Entries) {
		t.Fatal(err)
	}
}

func TestCollectImatrixErrors(t *testing.T) {
	src, err := arch.Open(filepath.Join(testdir.Shared(t, "golden/blocks/wholefile"), "source.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dev := cpu.New(cpu.Options{})
	_, err = CollectImatrix(context.Background(), dev, src, [][]int32{{1, 2, 3}}, ImatrixOptions{Chunk: 4})
	if e := (*fail.Error)(nil); !errors.As(err, &e) || e.Kind != fail.Input {
		t.Errorf("too little text: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = CollectImatrix(ctx, dev, src, [][]int32{{1, 2, 3}}, ImatrixOptions{})
	if e := (*fail.Error)(nil); !errors.As(err, &e) || e.Kind != fail.Interrupted {
		t.Errorf("cancelled: %v", err)
	}
}
