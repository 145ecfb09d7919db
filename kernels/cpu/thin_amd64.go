package cpu

import "github.com/tunekit/tunekit/kernels/internal/level"

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

// thinRows computes n rows of the weight, a block at least, for k of its columns: y[i][r].
// Where n is no multiple of a block the last one computes some rows again.
func thinRows(y []float32, ldy int, x, w []float32, ldw, n, k int, near []float32) {
	block := thinBlock(n)
	kernel := map[int]func(k int, x, w *float32, ldw int, y *float32, ldy int, near *float32){24: thinF32x24, 16: thinF32x16, 8: thinF32x8}[block]
	_, _, _, _ = y[(thinLanes-1)*ldy+n-1], x[k*thinLanes-1], w[(n-1)*ldw+k-1], near[thinNear-1]
	for r := 0; r < n; r += block {
		r = min(r, n-block)
		kernel(k, &x[0], &w[r*ldw], 4*ldw, &y[r], 4*ldy, &near[0])
	}
}
