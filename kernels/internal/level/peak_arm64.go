package level

// Peak runs n times two dozen independent f32 multiply-adds on registers and
// returns how many floating-point operations that is; at the generic level 0.
func Peak(n int, bf16 bool) (flops float64) {
	if Current() != NEON {
		return 0
	}
	rateFMA(n)
	return float64(n) * 24 * 8
}
