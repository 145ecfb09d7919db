package formats

import (
	"slices"
	"sync/atomic"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/par"
)

// finiteGrain is the number of values that one thread looks at.
const finiteGrain = 1 << 15

// CheckFinite refuses values of a tensor that are NaN or infinite: x are whole
// rows of cols columns, row0 is the first one's place in the tensor.
func CheckFinite(name string, x []float32, row0, cols int) error {
	var bad atomic.Bool
	par.For(len(x), finiteGrain, func(lo, hi int) {
		if !block.Finite(x[lo:hi]) {
			bad.Store(true)
		}
	})
	if !bad.Load() {
		return nil
	}
	i := slices.IndexFunc(x, func(v float32) bool { return v-v != 0 })
	return fail.Inputf(name, "the source model is damaged; tune verify lists what is wrong with it", "row %d, column %d is %v", row0+i/cols, i%cols, x[i])
}
