//go:build !amd64 && !arm64

package level

// Peak has no loop here and returns 0.
func Peak(n int, bf16 bool) (flops float64) { return 0 }
