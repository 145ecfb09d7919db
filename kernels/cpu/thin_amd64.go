package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// The kernels by rows of a weight.
var (
	thinF32   = map[int]func(k int, x, w *float32, ldw int, y *float32, ldy int, near *float32){24: thinF32x24, 16: thinF32x16, 8: thinF32x8}
	thinBF16  = map[int]func(k int, x *float32, w *uint16, ldw int, y *float32, ldy int, near *float32){24: thinBF16x24, 16: thinBF16x16, 8: thinBF16x8}
	thinPairs = map[int]func(k int, x *float32, w *uint16, ldw int, y *float32, ldy int, near *float32){24: thinPairsx24, 16: thinPairsx16, 8: thinPairsx8}
)

// thinBlock is the most rows of a weight that a kernel takes at once and out
// rows have; 0: no kernel exists for so few, or at this level.
func thinBlock(out int) int {
	switch {
	case level.Current() < level.AVX512 || out < 8:
		return 0
	case out < 16:
		return 8
	case out < 24:
		return 16
	}
	return 24
}

// thinMode is how x is packed for a weight, and false where no kernel reads it or those of
// matvec are faster: bf16 of an odd number of columns as pairs, float32 that is to be
// rounded, and up to 8 rows with bf16 that is made float32 on the way.
func thinMode(w *operand, a *kernels.LinearArgs) (mode, bool) {
	many := a.N > mvTileRows[0]
	dots := level.Current() == level.AVX512BF16 && a.W.Cols%2 == 0
	switch {
	case w.f != nil:
		return exact, !a.BF16
	case w.h == nil:
		return 0, false
	case dots && (a.BF16 || a.Fast):
		return pairs, true
	case a.BF16:
		return rounded, many && level.Current() != level.AVX512BF16
	}
	return exact, many
}

// thinRows computes rows r…r+n of the weight, a block at least, for k of its columns from
// c on, of x packed in a mode from there on: y[i][r].
// Where n is no multiple of a block the last one computes some rows again.
func thinRows(y []float32, ldy int, x []float32, m mode, w *operand, r, n, c, k int, near []float32) {
	block := thinBlock(n)
	lanes := k / m.ku()
	_, _, _ = y[(thinLanes-1)*ldy+n-1], x[lanes*thinLanes-1], near[thinNear-1]
	at, last := r*w.ld+c, (n-1)*w.ld+k-1
	if w.f != nil {
		_ = w.f[at+last]
		for i := 0; i < n; i += block {
			i = min(i, n-block)
			thinF32[block](k, &x[0], &w.f[at+i*w.ld], 4*w.ld, &y[i], 4*ldy, &near[0])
		}
		return
	}
	kernel := thinBF16[block]
	if m == pairs {
		kernel = thinPairs[block]
	}
	_ = w.h[at+last]
	for i := 0; i < n; i += block {
		i = min(i, n-block)
		kernel(lanes, &x[0], &w.h[at+i*w.ld], 2*w.ld, &y[i], 4*ldy, &near[0])
	}
}
