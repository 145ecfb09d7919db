package main

import "fmt"

// gemm writes the micro-kernels, packers and dot products of kernels/cpu.
func gemm() {
	open("cpu", "..", "gemm")
	for mr := 1; mr <= 14; mr++ {
		for nv := 1; nv <= 2; nv++ {
			micro512(mr, nv, false)
			micro512(mr, nv, true)
		}
	}
	for mr := 1; mr <= 6; mr++ {
		micro256(mr, 16)
		micro256(mr, 32)
	}
	packers512()
	dots512()
	decoders512()
	save()
}

var microArgs = []arg{
	{"k", "int", "AX"}, {"a", "*float32", "BX"}, {"b", "*float32", "CX"}, {"c", "*float32", "DX"},
	{"ldc", "int", "SI"}, {"acc", "int", "R8"}, {"alpha", "float32", ""},
}

// microLoop emits the loop over k, two at a time.
func microLoop(step func(u int), aBytes, bBytes int) {
	e("SUBQ $2, AX")
	e("JLT tail")
	e("PCALIGN $64")
	label("loop")
	step(0)
	step(1)
	e("ADDQ $%d, BX", 2*aBytes)
	e("ADDQ $%d, CX", 2*bBytes)
	e("SUBQ $2, AX")
	e("JGE loop")
	label("tail")
	e("ADDQ $2, AX")
	e("JLE store")
	step(0)
	label("store")
}

// micro512 is an mr×16·nv tile. Each row of A is broadcast to a register of its
// own: a broadcast inside the multiply-add is one load for every vector of the
// row, which costs 10 % where two loads a clock is the limit (Zen 5).
func micro512(mr, nv int, bf bool) {
	name, what := fmt.Sprintf("microF512x%dx%d", mr, 16*nv), "f32"
	if bf {
		name, what = fmt.Sprintf("microB512x%dx%d", mr, 16*nv), "bf16 pairs"
	}
	doc := fmt.Sprintf("is a %d×%d tile of %s: c = alpha·a·b, plus c where acc is not 0", mr, 16*nv, what)
	if nv == 2 {
		doc = fmt.Sprintf("is a %d×%d tile of %s: c = alpha·a·b, plus c where acc is 1. Where it is 2, c is written past the caches", mr, 16*nv, what)
	}
	text(name, doc+".", microArgs...)
	acc := func(i, j int) int { return i*nv + j }
	vb := mr * nv
	vx := vb + nv
	spare := min(4, 32-vx)
	e("SHLQ $2, SI")
	for i := range mr * nv {
		e("VPXORD Z%d, Z%d, Z%d", i, i, i)
	}
	if nv == 2 {
		e("CMPQ R8, $2")
		e("JEQ product")
	}
	e("MOVQ DX, DI")
	for i := range mr {
		for j := range nv {
			e("PREFETCHT0 %d(DI)", 64*j)
		}
		if i < mr-1 {
			e("ADDQ SI, DI")
		}
	}
	label("product")
	microLoop(func(u int) {
		for j := range nv {
			e("VMOVUPS %d(CX), Z%d", (u*nv+j)*64, vb+j)
		}
		for i := range mr {
			x := vx + i%spare
			e("VBROADCASTSS %d(BX), Z%d", (u*mr+i)*4, x)
			for j := range nv {
				if bf {
					vdpbf16ps(x, vb+j, acc(i, j))
				} else {
					e("VFMADD231PS Z%d, Z%d, Z%d", x, vb+j, acc(i, j))
				}
			}
		}
	}, mr*4, nv*64)
	microStore(mr, nv, 64, "Z", 31)
}

// micro256 is an mr×16 tile of a panel of B that is `stride` wide.
func micro256(mr, stride int) {
	text(fmt.Sprintf("microF256x%dx%d", mr, stride),
		fmt.Sprintf("is a %d×16 tile of f32 of a panel %d wide: c = alpha·a·b, plus c where acc is not 0.", mr, stride), microArgs...)
	acc := func(i, j int) int { return i*2 + j }
	vb := mr * 2
	vx := vb + 2
	e("SHLQ $2, SI")
	e("MOVQ DX, DI")
	for i := range mr {
		e("PREFETCHT0 (DI)")
		for j := range 2 {
			e("VXORPS Y%d, Y%d, Y%d", acc(i, j), acc(i, j), acc(i, j))
		}
		if i < mr-1 {
			e("ADDQ SI, DI")
		}
	}
	microLoop(func(u int) {
		for j := range 2 {
			e("VMOVUPS %d(CX), Y%d", u*stride*4+32*j, vb+j)
		}
		for i := range mr {
			x := vx + i%min(4, 16-vx)
			e("VBROADCASTSS %d(BX), Y%d", (u*mr+i)*4, x)
			for j := range 2 {
				e("VFMADD231PS Y%d, Y%d, Y%d", x, vb+j, acc(i, j))
			}
		}
	}, mr*4, stride*4)
	microStore(mr, 2, 32, "Y", 15)
}

// microStore scales the accumulators by alpha and stores or adds them.
func microStore(mr, nv, bytes int, reg string, va int) {
	e("VBROADCASTSS alpha+48(FP), %s%d", reg, va)
	e("TESTQ R8, R8")
	e("JZ plain")
	stream := bytes == 64 && nv == 2
	if stream {
		e("CMPQ R8, $2")
		e("JEQ stream")
	}
	for i := range mr {
		for j := range nv {
			r := i*nv + j
			e("VFMADD213PS %d(DX), %s%d, %s%d", bytes*j, reg, va, reg, r)
			e("VMOVUPS %s%d, %d(DX)", reg, r, bytes*j)
		}
		if i < mr-1 {
			e("ADDQ SI, DX")
		}
	}
	ret()
	scaled := func(store string) {
		for i := range mr {
			for j := range nv {
				r := i*nv + j
				e("VMULPS %s%d, %s%d, %s%d", reg, va, reg, r, reg, r)
				e("%s %s%d, %d(DX)", store, reg, r, bytes*j)
			}
			if i < mr-1 {
				e("ADDQ SI, DX")
			}
		}
		ret()
	}
	label("plain")
	scaled("VMOVUPS")
	if stream {
		label("stream")
		scaled("VMOVNTPS")
	}
}
