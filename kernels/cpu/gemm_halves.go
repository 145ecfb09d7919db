//go:build amd64 || arm64

package cpu

import "unsafe"

// halves makes a tile of 32 columns of one of 16.
func halves(f micro) micro {
	return func(k int, a, b, c *float32, ldc, acc int, alpha float32) {
		f(k, a, b, c, ldc, acc, alpha)
		f(k, a, after16(b), after16(c), ldc, acc, alpha)
	}
}

func after16(p *float32) *float32 { return &unsafe.Slice(p, 17)[16] }
