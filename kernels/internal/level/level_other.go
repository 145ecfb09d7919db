//go:build !amd64 && !arm64

package level

func has(l Level) bool { return l == Generic }

func ratioBF16() float64 { return 0 }
func ratioAMX() float64  { return 0 }
