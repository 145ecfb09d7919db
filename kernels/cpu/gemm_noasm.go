//go:build !amd64

package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

func kernelBF16(level.Level) *kernel { return nil }

func packCols(dst []float32, stride, lines, kc int, src []float32, ld int, _ mode) {
	packColsGeneric(dst, stride, lines, kc, src, ld)
}

func tile64(int, []float64, int, []float64, int, []float64, int) bool { return false }

func dotRows(y []float32, m int, x []float32, ldx, k int, w []float32, ldw, n int) {
	dotRowsVec(y, m, x, ldx, k, w, ldw, n)
}

func dotRowsBF16([]float32, int, []float32, int, int, []uint16, int, int) bool { return false }

func dropRow(x []float32, d *kernels.Drop, key int64, col int) { d.Apply(x, key, col) }

func storeFence() {}

func (o *operand) prefetch(int, int, int, int) {}

func haveUnits() bool { return false }

func halfColumns([]float32, int, []byte, int, int, int) bool { return false }

func halvesTo([]float32, []byte) bool { return false }

func (u *unitType) decode(int, int, int, *paramRoom, []float32, int) {}

func haveColumns() bool { return false }

func (u *unitType) decodeBlocks(int, int, int, int, []float32, int) {}

func (u *unitType) decodeGroups(int, int, int, int, []float32, int) {}

func (u *unitType) decodeFlat(int, int, int, int, []float32, int) {}

func (u *unitType) decodeK(kUnits, *paramRoom, []float32, int) {}

func (u *unitType) decodeK6Block(int, *paramRoom, []float32) {}
