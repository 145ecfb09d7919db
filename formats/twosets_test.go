package formats

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestTwoSets: a single file beside an index is an error that names both, unless
// the index says nothing else.
func TestTwoSets(t *testing.T) {
	write := func(dir, name string, v float32) {
		data := binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))
		if err := WriteSafetensors(filepath.Join(dir, name), []NamedTensor{{Name: "x", DType: "F32", Shape: []int64{1}, Data: data}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		index string
		shard bool
		want  float32 // 0: refused
	}{
		{"model-00001-of-00001.safetensors", true, 0},
		{"model-00001-of-00001.safetensors", false, 1}, // left over
		{"model.safetensors", true, 1},
	} {
		dir := t.TempDir()
		write(dir, "model.safetensors", 1)
		if c.shard {
			write(dir, "model-00001-of-00001.safetensors", 2)
		}
		text := fmt.Sprintf(`{"metadata":{"total_size":4},"weight_map":{"x":%q}}`, c.index)
		if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir)
		if c.want == 0 {
			if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "model.safetensors,") || !strings.Contains(err.Error(), c.index) {
				t.Errorf("two sets: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := r.Read(&r.Tensors()[0])
		if got := math.Float32frombits(binary.LittleEndian.Uint32(raw)); err != nil || got != c.want {
			t.Errorf("index of %s: %g, %v", c.index, got, err)
		}
		r.Close()
	}
}
