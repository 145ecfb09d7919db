//go:build !amd64

package cpu

import "github.com/tunekit/tunekit/kernels"

func thinBlock(int) int { return 0 }

func thinMode(*operand, *kernels.LinearArgs) (mode, bool) { return 0, false }

func thinRows(y []float32, ldy int, x []float32, m mode, w *operand, r, n, c, k int, near []float32) {
}
