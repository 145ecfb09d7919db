package cpu

import "github.com/tunekit/tunekit/kernels/cpu/internal/level"

func kernelF32(level.Level) *kernel  { return genericKernel }
func kernelBF16(level.Level) *kernel { return nil }

func (o *operand) packFast([]float32, int, int, int, int, int, mode, *area) bool { return false }

func packRows(dst []float32, stride, lines, kc int, src []float32, ld int, _ mode) {
	packRowsGeneric(dst, stride, lines, kc, src, ld)
}

func packCols(dst []float32, stride, lines, kc int, src []float32, ld int, _ mode) {
	packColsGeneric(dst, stride, lines, kc, src, ld)
}
