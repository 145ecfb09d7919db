package level

// Peak runs n times 24 independent multiply-adds on registers, of 16 lanes of
// f32 or, with bf16, of 16 pairs, and returns how many floating-point operations
// that is. Benchmarks measure their share of it. It needs AVX512 (AVX512BF16).
func Peak(n int, bf16 bool) (flops float64) {
	if bf16 {
		rateBF16(n)
		return float64(n) * 24 * 64
	}
	rateFMA(n)
	return float64(n) * 24 * 32
}
