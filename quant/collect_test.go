package quant

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
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

// TestCollectOutput: the head's entry is the squares of what it reads, and there is one only where it is asked
// for and the head is no other weight.
func TestCollectOutput(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	for name, own := range map[string]bool{"llama": true, "qwen3": false} {
		src, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		text := [][]int32{{5, 9, 33, 2, 7}, {1, 4, 8}}
		plain, err1 := CollectImatrix(context.Background(), dev, src, text, ImatrixOptions{})
		got, err2 := CollectImatrix(context.Background(), dev, src, text, ImatrixOptions{Output: true})
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if !own {
			if len(got.Entries) != len(plain.Entries) {
				t.Errorf("%s: %d entries, expected %d: its head is the embedding", name, len(got.Entries), len(plain.Entries))
			}
			continue
		}
		last := got.Entries[len(got.Entries)-1]
		if len(got.Entries) != len(plain.Entries)+1 || last.Name != "output.weight" || last.Counts[0] != 8 {
			t.Fatalf("%s: %d entries, the last %s of %v rows; expected one more than %d, output.weight of 8", name, len(got.Entries), last.Name, last.Counts, len(plain.Entries))
		}
		m, err := model.Load(dev, src, model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := make([]float64, len(last.Sums))
		if err := dev.Run(func() error {
			tape := &autograd.Tape{Dev: dev}
			defer tape.Free()
			for _, s := range text { // each by itself
				h := m.Hidden(tape, model.Pack(s))
				v := make([]float32, h.Rows()*h.Cols())
				if err := tape.Err(); err != nil {
					return err
				}
				if err := down(dev, v, h.Data); err != nil {
					return err
				}
				for i, x := range v {
					want[i%len(want)] += float64(x) * float64(x)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		m.Close()
		for i, v := range last.Sums {
			if math.Abs(float64(v)/want[i]-1) > 1e-5 {
				t.Fatalf("%s: column %d has %g, expected %g", name, i, v, want[i])
			}
		}
	}
}
