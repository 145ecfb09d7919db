package level

// Peak runs n times a dozen or two independent multiply-adds of the level in
// use on registers, of f32 or, with bf16, of the bf16 pairs of AVX512BF16 or AMX, and
// returns how many floating-point operations that is. Benchmarks measure their
// share of it. The generic level has no such loop and returns 0.
func Peak(n int, bf16 bool) (flops float64) {
	switch l := Current(); {
	case l == AMX && bf16:
		rateAMX(n)
		return float64(n) * 4 * tileFlops
	case l == AVX512BF16 && bf16:
		rateBF16(n)
		return float64(n) * 24 * 64
	case l >= AVX512:
		rateFMA(n)
		return float64(n) * 24 * 32
	case l == AVX2:
		rateFMA256(n)
		return float64(n) * 12 * 16
	}
	return 0
}
