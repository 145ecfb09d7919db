//go:build !amd64

package cpu

import (
	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
)

type mvKernel struct{}

func newMVWeight(*kernels.LinearArgs) *mvWeight { return nil }

func fewRow([]float32, *blocks.Raw, int, int) bool { return false }

func mvSplit([]float32, int, []float32) {}

func mvQuantize([]float32, int, []float32, mvRounding) {}

func (w *mvWeight) tile([]float32, int, []float32, int, int, int, []float32, int, mvPart) {}

func (w *mvWeight) ask(int, int) {}

func (u *unitType) planeScales([]float32, []float32, int) {}
