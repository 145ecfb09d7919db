package eval

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Two models that filled the memory with their blocks make room for a pass, and
// give the scores that they give without a limit.
func TestScoresUnderALimit(t *testing.T) {
	dims := archtest.Dims{C: 64, V: 96, Layers: 8, H: 4, K: 2, D: 16, F: 128, Tied: true}
	samples := make([]Sample, 4)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range samples {
		for range 40 {
			samples[i].IDs = append(samples[i].IDs, int32(r.IntN(dims.V)))
		}
		samples[i].At = [][2]int32{{0, 39}}
	}
	scores := func(dev kernels.Backend) ([]Score, int64, error) {
		var both [2]*model.Model
		for i, hold := range []dtype.Type{dtype.NF4Double, dtype.Of(dtype.BF16)} {
			w := rand.New(rand.NewPCG(3, 4))
			src, err := archtest.Llama(dims, func(n int) []float32 {
				v := make([]float32, n)
				for i := range v {
					v[i] = float32(0.2 * w.NormFloat64())
				}
				return v
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { src.Close() })
			if both[i], err = model.Load(dev, src, model.Options{Hold: &hold}); err != nil {
				return nil, 0, err
			}
			t.Cleanup(both[i].Close)
		}
		held := kernels.Total(dev.Info().Mem.Now)
		out, err := Run(t.Context(), both[0], both[1], samples, ScoreOptions{})
		return out, held, err
	}
	free := cpu.New(cpu.Options{})
	want, held, err := scores(free)
	if err != nil {
		t.Fatal(err)
	}
	peak := free.Info().PeakTotal
	short := cpu.New(cpu.Options{MemoryLimit: peak - held/2})
	got, _, err := scores(short)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("other scores under %d of %d bytes: %v", peak-held/2, peak, err)
	}
	if _, _, err := scores(cpu.New(cpu.Options{MemoryLimit: peak - held - held/2})); !errors.Is(err, kernels.ErrOutOfMemory) {
		t.Errorf("much less than a pass needs: %v", err)
	}
}
