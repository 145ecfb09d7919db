package quant

import (
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/kernels/cuda"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
)

// TestStreamedCUDA: GPTQ of a model that is larger than a GPU's memory writes the same
// bytes as with memory for all of it. (On the interpreter: no GPU has run it.)
func TestStreamedCUDA(t *testing.T) {
	src := tiny(t, shape{c: 32, v: 32, layers: 14, h: 1, k: 1, d: 32, f: 32})
	var want map[string]string
	for _, limit := range []int64{0, 190000} {
		dev, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{MemoryLimit: limit, Staged: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		j := FolderJob{Path: filepath.Join(t.TempDir(), "gptq"), Method: "gptq", Group: 32}
		if _, err := Folder(t.Context(), dev, src, []FolderJob{j}, text(3, 1, 8, 32), nil); err != nil {
			t.Fatalf("limit %d: %v", limit, err)
		}
		got := hashes(t, j.Path)
		if limit == 0 {
			want = got
		} else {
			same(t, "under a limit", want, got)
		}
		var size int64
		for _, w := range src.Tensors() {
			size += 2 * int64(w.Rows) * int64(w.Cols)
		}
		if peak := dev.Info().PeakTotal; limit > 0 && (peak > limit || size <= limit) {
			t.Errorf("limit %d: a model of %d bytes has a peak of %d", limit, size, peak)
		}
		dev.Close()
	}
}
