//go:build !amd64 && !arm64

package cpu

import "github.com/tunekit/tunekit/kernels/internal/level"

func kernelF32(level.Level) *kernel { return genericKernel }

func (o *operand) packFast([]float32, int, int, int, int, int, mode, *area) bool { return false }

func packRows(dst []float32, stride, lines, kc int, src []float32, ld int, _ mode) {
	packRowsGeneric(dst, stride, lines, kc, src, ld)
}

func roundBF16(x []float32) { roundBF16Generic(x) }

func roundF16(x []float32) { roundF16Generic(x) }

func widenBF16(dst []float32, src []uint16) { widenBF16Generic(dst, src) }
