// Command gen writes the assembly of kernels/cpu and its Go declarations. Run
// it by go generate in kernels/cpu; the results are committed.
package main

func main() {
	open("level", "../../internal/level", "probe")
	rate("rateFMA", "runs n times 24 independent f32 multiply-adds of 16 lanes.", func(i int) { e("VFMADD231PS Z30, Z31, Z%d", i) })
	rate("rateBF16", "runs n times 24 independent dot products of 16 bf16 pairs.", func(i int) { vdpbf16ps(30, 31, i) })
	rate256()
	rateTiles()
	cpuidOf()
	save()

	gemm()
	stream()
	decodeBlocks()
	avx2()
	vecs()
	halves()
	pairs()
	amx()
	encoders()
	matvec()
	exact()
	decodeFew()
	thin()
	gemmNEON()
}

// rate is a loop on registers, for the probe at start and the peaks of benchmarks.
func rate(name, doc string, f func(i int)) {
	text(name, doc, arg{"n", "int", "AX"})
	for i := range 24 {
		e("VPXORD Z%d, Z%d, Z%d", i, i, i)
	}
	e("VPXORD Z30, Z30, Z30")
	e("VPXORD Z31, Z31, Z31")
	e("PCALIGN $64")
	label("loop")
	for i := range 24 {
		f(i)
	}
	e("DECQ AX")
	e("JGT loop")
	ret()
}

// rate256 is the register peak of AVX2: 12 independent sums of 8 lanes.
func rate256() {
	text("rateFMA256", "runs n times 12 independent f32 multiply-adds of 8 lanes.", arg{"n", "int", "AX"})
	for i := range 16 {
		e("VXORPS Y%d, Y%d, Y%d", i, i, i)
	}
	e("PCALIGN $64")
	label("loop")
	for i := range 12 {
		e("VFMADD231PS Y14, Y15, Y%d", i)
	}
	e("DECQ AX")
	e("JGT loop")
	ret()
}
