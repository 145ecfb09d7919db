package level

func has(l Level) bool { return l == Generic || l == NEON }

func ratioBF16() float64 { return 0 }
func ratioAMX() float64  { return 0 }
