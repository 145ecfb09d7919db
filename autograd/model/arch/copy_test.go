package arch_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestCopyDamaged: a value that is not a number is refused whether weights are
// converted or copied as bytes, and nothing is written.
func TestCopyDamaged(t *testing.T) {
	for _, damaged := range []int{0, 3, 10} { // embedding, a matrix of a block, the last norm
		at := -1
		src, err := archtest.Llama(archtest.Dims{C: 16, V: 32, Layers: 1, H: 2, K: 1, D: 8, F: 32, Tied: true}, func(n int) []float32 {
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(i%7) / 8
			}
			if at++; at == damaged {
				v[n/2] = float32(math.NaN())
			}
			return v
		})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for _, kind := range []dtype.Kind{dtype.F32, dtype.BF16} {
			typ, dir := dtype.Of(kind), filepath.Join(t.TempDir(), "out")
			err := (&arch.Dense{Path: dir, Type: &typ}).Write(t.Context(), dry.New(dry.Options{}), src, nil)
			if fail.Code(err) != int(fail.Input) {
				t.Errorf("tensor %d as %v: %v, want bad input", damaged, kind, err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("tensor %d as %v: something is at %s", damaged, kind, dir)
			}
		}
	}
}
