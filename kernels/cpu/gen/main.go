// Command gen writes the assembly of kernels/cpu and its Go declarations. Run
// it by go generate in kernels/cpu; the results are committed.
package main

func main() {
	open("level", "../internal/level", "probe")
	rate("rateFMA", "runs n times 24 independent f32 multiply-adds of 16 lanes.", func(i int) { e("VFMADD231PS Z30, Z31, Z%d", i) })
	rate("rateBF16", "runs n times 24 independent dot products of 16 bf16 pairs.", func(i int) { vdpbf16ps(30, 31, i) })
	save()

	gemm()
	vecs()
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
